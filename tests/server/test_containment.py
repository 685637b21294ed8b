"""Models that allocate, loop, crash and flood: each ends as one failed audit with its reason, others go on."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from lieaudit_api.v1 import audit_pb2, model_pb2, upload_pb2
from lieaudit_client import Client

PLANTS = Path(__file__).parent / "plants"
HELPER = onnx.helper
VALUE = onnx.helper.make_tensor_value_info


@pytest.fixture(scope="module")
def plants(tmp_path_factory):
    """The folder of sitecustomize.py, which a worker imports, in a place of its own."""
    folder = tmp_path_factory.mktemp("plants")
    (folder / "sitecustomize.py").write_text((PLANTS / "sitecustomize.py").read_text())
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, service_class, plants):
    """A server whose workers are planted, with tight limits."""
    environment = {"PYTHONPATH": str(plants), "LIEAUDIT_TEST_SECRET": "s3cret", "AWS_TOKEN": "t0ken"}
    limits = {
        "memory_mib": "1500",
        "probe_memory_mib": "1500",
        "max_log_bytes": "100000",
        "max_attempts": "2",
        "threads_per_audit": "1",
        "max_graph_nodes": "100",
        "max_graph_nesting": "3",
        "max_initializer_bytes": "100000",
        "max_images": "20",
    }
    server = service_class(tmp_path_factory.mktemp("hostile") / "data", environment, **limits).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def images(hostile, kit):
    return hostile.upload_dataset(kit.tiny_dataset()).sha256


@pytest.fixture(autouse=True)
def others_go_on(hostile, kit, images):
    """After each case the same server audits a good model."""
    yield
    model = hostile.upload_model(kit.tiny_model()).sha256
    assert hostile.finish(hostile.create(model, images, {**kit.FAST, "budget_mib": 256}).id).state == "succeeded"


def audit(hostile, kit, images, model, **fields):
    return hostile.finish(hostile.create(model, images, {**kit.FAST, "budget_mib": 256}, **fields).id)


def serialized(nodes, initializers=(), inputs=None):
    graph = HELPER.make_graph(
        nodes, "g", inputs or [VALUE("x", 1, ["N", 1, 8, 8])], [VALUE("y", 1, ["N", 3])], list(initializers)
    )
    opsets = [HELPER.make_opsetid("", 17)]
    return HELPER.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def constant(name, value, dtype):
    return onnx.numpy_helper.from_array(np.array(value, dtype), name)


def logits(tail):
    """Nodes that end in three logits of x plus the sum of what ``tail`` names."""
    return [
        HELPER.make_node("Flatten", ["x"], ["flat"]),
        HELPER.make_node("MatMul", ["flat", "w"], ["z"]),
        HELPER.make_node("ReduceSum", [tail], ["extra"], keepdims=0),
        HELPER.make_node("Add", ["z", "extra"], ["y"]),
    ]


WEIGHTS = constant("w", np.ones((64, 3)) / 64, np.float32)


def memory_hog():
    """10¹¹ floats, expanded from one; x takes part, so that nothing can be folded away before it runs."""
    nodes = [
        HELPER.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        HELPER.make_node("Expand", ["mean", "shape"], ["huge"]),
        *logits("huge"),
    ]
    return serialized(nodes, [WEIGHTS, constant("shape", [10**11], np.int64)])


def endless_loop():
    """2⁶² iterations of adding the mean of x."""
    body = HELPER.make_graph(
        [
            HELPER.make_node("Identity", ["on"], ["on_out"]),
            HELPER.make_node("Add", ["carried", "mean"], ["carried_out"]),
        ],
        "body",
        [VALUE("i", 7, []), VALUE("on", 9, []), VALUE("carried", 1, [])],
        [VALUE("on_out", 9, []), VALUE("carried_out", 1, [])],
    )
    nodes = [
        HELPER.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        HELPER.make_node("Loop", ["count", "true", "mean"], ["sum"], body=body),
        *logits("sum"),
    ]
    return serialized(nodes, [WEIGHTS, constant("count", 2**62, np.int64), constant("true", True, np.bool_)])


def test_a_model_that_allocates_without_end(hostile, kit, images):
    model = hostile.upload_model(memory_hog(), name="hog.onnx").sha256
    ended = audit(hostile, kit, images, model)
    assert (ended.state, ended.failure.reason) == ("failed", "MEMORY_LIMIT"), ended.failure


def test_a_model_that_loops_for_ever(hostile, kit, images):
    model = hostile.upload_model(endless_loop(), name="loop.onnx").sha256
    ended = audit(hostile, kit, images, model, deadline_seconds=4)
    assert (ended.state, ended.failure.reason) == ("failed", "DEADLINE_EXCEEDED")


@pytest.mark.parametrize(
    ("name", "reason", "says"),
    [
        ("segfault.onnx", "WORKER_CRASHED", "SIGSEGV"),
        ("abort.onnx", "WORKER_CRASHED", "SIGABRT"),
        ("flood.onnx", "LOG_FLOOD", "printed"),
        ("killed.onnx", "WORKER_KILLED", "SIGKILL"),
        ("lie.onnx", "WORKER_PROTOCOL", "malformed data"),
    ],
)
def test_a_worker_that_crashes_floods_or_is_killed(hostile, kit, images, name, reason, says):
    model = hostile.upload_model(kit.tiny_model(sum(name.encode())), name=name).sha256
    ended = audit(hostile, kit, images, model)
    assert (ended.state, ended.failure.reason) == ("failed", reason)
    assert says in ended.failure.message


def test_a_worker_killed_once_is_started_again(hostile, kit, images):
    model = hostile.upload_model(kit.tiny_model(1), name="killed_once.onnx").sha256
    created = hostile.create(model, images, {**kit.FAST, "budget_mib": 256})
    messages = [event.message for event in hostile.watch(created.id) if event.state == "queued"]
    assert len(messages) == 2
    assert "SIGKILL" in messages[1]
    assert hostile.get(created.id).state == "succeeded"


def test_a_check_that_is_killed_says_nothing_about_the_file_and_keeps_it(hostile, kit, plants):
    data = kit.tiny_model(4)
    with pytest.raises(grpc.RpcError) as caught:
        hostile.upload_model(data, name="killed_check.onnx")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert kit.reason_of(caught.value).reason == "WORKER_KILLED"
    assert kit.retry_seconds(caught.value) > 0
    request = upload_pb2.UploadStatusRequest(sha256=kit.sha256(data))
    assert hostile.models.GetUploadStatus(request).committed_bytes == len(data)
    Path(f"{plants}.spared").touch()
    assert hostile.upload_model(data, name="killed_check.onnx", offset=len(data)).sha256 == kit.sha256(data)


def test_a_client_whose_check_was_killed_asks_again_without_sending_again(hostile, kit, plants, tmp_path):
    path = tmp_path / "killed_check.onnx"
    path.write_bytes(kit.tiny_model(5))
    spared = Path(f"{plants}.spared")
    spared.unlink(missing_ok=True)
    seen, size = [], path.stat().st_size

    def show(progress):
        seen.append(progress.done)
        if progress.done == size:
            threading.Timer(1, spared.touch).start()  # the first check, and the one after it, are killed

    with Client(hostile.target) as client:
        assert client.upload_model(path, progress=show).sha256 == kit.sha256(path.read_bytes())
    assert set(seen[seen.index(size) :]) == {size}
    assert seen.count(size) > 1


def test_no_secret_of_the_server_reaches_a_worker(hostile, kit, images):
    model = hostile.upload_model(kit.tiny_model(2), name="environment.onnx").sha256
    assert audit(hostile, kit, images, model).state == "failed"
    assert "environment: [], telemetry 1" in hostile.log()
    assert "s3cret" not in hostile.log()


def test_a_hostile_file_hurts_only_the_process_that_checks_it(hostile, kit, images):
    model = hostile.upload_model(memory_hog(), name="hog2.onnx").sha256
    with pytest.raises(grpc.RpcError) as caught:
        hostile.models.InspectModel(model_pb2.InspectModelRequest(sha256=model), timeout=kit.SECONDS)
    assert kit.reason_of(caught.value).reason == "MEMORY_LIMIT"


def deep(levels):
    """If inside If."""
    inner = HELPER.make_graph([HELPER.make_node("Identity", ["z"], ["out"])], "leaf", [], [VALUE("out", 1, ["N", 3])])
    for level in range(levels):
        node = HELPER.make_node("If", ["true"], ["out"], then_branch=inner, else_branch=inner)
        inner = HELPER.make_graph([node], f"level{level}", [], [VALUE("out", 1, ["N", 3])])
    nodes = [
        HELPER.make_node("Flatten", ["x"], ["flat"]),
        HELPER.make_node("MatMul", ["flat", "w"], ["z"]),
        HELPER.make_node("If", ["true"], ["y"], then_branch=inner, else_branch=inner),
    ]
    return serialized(nodes, [WEIGHTS, constant("true", True, np.bool_)])


def many_nodes():
    chain = [HELPER.make_node("Tanh", [f"z{i}"], [f"z{i + 1}"]) for i in range(200)]
    nodes = [
        HELPER.make_node("Flatten", ["x"], ["flat"]),
        HELPER.make_node("MatMul", ["flat", "w"], ["z0"]),
        *chain,
        HELPER.make_node("Identity", ["z200"], ["y"]),
    ]
    return serialized(nodes, [WEIGHTS])


def heavy():
    nodes = [HELPER.make_node("Flatten", ["x"], ["flat"]), HELPER.make_node("MatMul", ["flat", "w"], ["y"])]
    return serialized(nodes, [WEIGHTS, constant("unused", np.ones(50_000), np.float32)])


@pytest.mark.parametrize("make", [deep, many_nodes, heavy])
def test_graphs_beyond_the_limits_are_refused(hostile, kit, make):
    data = make(5) if make is deep else make()
    with pytest.raises(grpc.RpcError) as caught:
        hostile.upload_model(data)
    assert kit.reason_of(caught.value).reason == "GRAPH_TOO_LARGE"


def test_a_dataset_beyond_the_limits_is_refused(hostile, kit):
    with pytest.raises(grpc.RpcError) as caught:
        hostile.upload_dataset(kit.tiny_dataset(count=21))
    assert kit.reason_of(caught.value).reason == "TOO_LARGE"


def test_workers_die_with_the_server(start, kit):
    server = start()
    created = server.create(*kit.slow_pair(server), kit.SLOW)
    next(event for event in server.watch(created.id) if event.done)
    processes = [server.fork_server, *server.workers()]
    assert len(processes) == 2
    server.kill()
    kit.wait_for(lambda: not any(_alive(pid) for pid in processes))


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_worker_has_its_cpus_memory_and_niceness(start, kit):
    server = start(memory_mib="3000", threads_per_audit="1")
    created = server.create(*kit.slow_pair(server), kit.SLOW)
    next(event for event in server.watch(created.id) if event.done)
    (pid,) = server.workers()
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert next(line for line in limits.splitlines() if "data size" in line).split()[3:5] == [str(3000 * 2**20)] * 2
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4] == "0"
    assert len(os.sched_getaffinity(pid)) == 1
    assert os.getpriority(os.PRIO_PROCESS, pid) == nicer_by(10)
    server.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=created.id))
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


def test_a_check_that_takes_long_gives_way_with_all_its_threads(start, kit):
    server = start(probe_seconds="60")
    model = server.upload_model(endless_loop()).sha256
    images = server.upload_dataset(kit.tiny_dataset()).sha256
    request = model_pb2.InspectModelRequest(sha256=model, dataset_sha256=images)
    call = server.models.InspectModel.future(request, timeout=kit.SECONDS)
    (pid,) = kit.wait_for(server.workers)
    kit.wait_for(lambda: os.getpriority(os.PRIO_PROCESS, pid) == nicer_by(5))  # before audits: somebody waits for it
    kit.wait_for(lambda: os.getpriority(os.PRIO_PROCESS, pid) == nicer_by(15))
    threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {nicer_by(15)}
    call.cancel()


def nicer_by(steps):
    """The niceness of a process that is nicer than this one; the kernel knows none above 19."""
    return min(os.getpriority(os.PRIO_PROCESS, 0) + steps, 19)


def test_a_worker_has_no_descriptor_of_the_server_or_of_another_worker(start, kit):
    server = start(threads_per_audit="1", cpu_threads="2")
    pair = kit.slow_pair(server)
    for _ in range(2):
        created = server.create(*pair, kit.SLOW)
        next(event for event in server.watch(created.id) if event.done)
    links = [{str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()} for pid in server.workers()]
    channels = [{link for link in found if link.startswith(("socket:", "pipe:"))} for found in links]
    assert [len(found) for found in channels] == [2, 2]  # its messages and its log
    assert not channels[0] & channels[1]
    state = ("state.sqlite", "/lock", "tokens")
    assert not [link for found in links for link in found if any(part in link for part in state)]


def test_a_fork_server_that_is_killed_is_started_again_and_its_audits_go_on(start, kit):
    server = start()
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset(count=2000)).sha256
    created = server.create(model, images, kit.SLOW)
    next(event for event in server.watch(created.id) if event.done)
    first = server.fork_server
    os.kill(first, signal.SIGKILL)
    server.upload_model(kit.tiny_model(1))
    assert server.fork_server != first
    messages = [event.message for event in server.watch(created.id) if event.state == "queued"]
    assert "SIGKILL" in messages[1]
    assert server.get(created.id).state == "succeeded"
