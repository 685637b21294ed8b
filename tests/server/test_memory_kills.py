"""Where the kernel kills for want of memory: few tries, and nobody else pays; in a control group of the test's own."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import grpc
import onnx
import pytest
from lieaudit_api.v1 import model_pb2
from lieaudit_server.scheduling import oom
from lieaudit_server.store import audits, schema

MIB = 2**20
ROOM = 700 * MIB


@pytest.fixture
def group(tmp_path):
    """A control group with little memory; its path."""
    version_1 = Path("/sys/fs/cgroup/memory")
    root = version_1 if version_1.is_dir() else Path("/sys/fs/cgroup")
    path = root / f"lieaudit-test-{os.getpid()}"
    try:
        path.mkdir()
        (path / ("memory.limit_in_bytes" if root == version_1 else "memory.max")).write_text(str(ROOM))
    except OSError as problem:
        if path.is_dir():
            path.rmdir()
        pytest.skip(f"no control group can be made here: {problem}")
    yield path
    path.rmdir()


@pytest.fixture
def cramped(group, service_class, tmp_path, kit):
    """A server whose workers may have more memory than there is."""
    server = service_class(tmp_path / "data", memory_mib="4000", probe_memory_mib="4000", threads_per_audit="1")
    server.prefix = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    server.start()
    yield server
    server.stop()
    kit.wait_for(lambda: not (group / "cgroup.procs").read_text().split())


def greedy():
    """6 · 10⁸ floats, expanded from the mean of the images: more than there is, less than a worker may have."""
    make = onnx.helper
    nodes = [
        make.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        make.make_node("Expand", ["mean", "shape"], ["huge"]),
        make.make_node("ReduceSum", ["huge"], ["extra"], keepdims=0),
        make.make_node("Flatten", ["x"], ["flat"]),
        make.make_node("Add", ["flat", "extra"], ["y"]),
    ]
    value = make.make_tensor_value_info
    shape = make.make_tensor("shape", 7, [1], [6 * 10**8])
    graph = make.make_graph(nodes, "g", [value("x", 1, ["N", 1, 8, 8])], [value("y", 1, ["N", 64])], [shape])
    opsets = [make.make_opsetid("", 17)]
    return make.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_an_audit_for_which_there_is_no_memory_is_tried_twice_and_costs_nobody_else(cramped, kit):
    model = cramped.upload_model(greedy()).sha256
    images = cramped.upload_dataset(kit.tiny_dataset()).sha256
    poison = cramped.finish(cramped.create(model, images, {**kit.FAST, "budget_mib": 256}).id)
    assert (poison.state, poison.failure.reason) == ("failed", "WORKER_OUT_OF_MEMORY"), cramped.log()[-4000:]
    starts = [event for event in cramped.watch(poison.id) if event.state == "running"]
    assert len(starts) == 2
    good = cramped.upload_model(kit.tiny_model()).sha256
    fine = cramped.finish(cramped.create(good, images, {**kit.FAST, "budget_mib": 256}).id)
    assert fine.state == "succeeded", fine.failure


def test_a_check_for_which_there_is_no_memory_is_not_tried_again(cramped, kit):
    model = cramped.upload_model(greedy()).sha256
    images = cramped.upload_dataset(kit.tiny_dataset()).sha256
    before = oom_kills_of(cramped)
    request = model_pb2.InspectModelRequest(sha256=model, dataset_sha256=images)
    with pytest.raises(grpc.RpcError) as caught:
        cramped.models.InspectModel(request, timeout=kit.SECONDS)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert kit.reason_of(caught.value).reason == "WORKER_OUT_OF_MEMORY"
    assert oom_kills_of(cramped) == before + 1


def oom_kills_of(server):
    """What the kernel counts for the control group of a server."""
    lines = Path(f"/proc/{server.pid}/cgroup").read_text().splitlines()
    (group,) = [line.split(":", 2) for line in lines if ":memory:" in line or line.startswith("0::/lieaudit")]
    path = Path("/sys/fs/cgroup", group[1], group[2].lstrip("/"))
    text = (path / ("memory.oom_control" if group[1] else "memory.events")).read_text()
    return int(text.partition("oom_kill ")[2].split()[0])


def test_workers_go_before_the_server_where_memory_runs_out(start, kit):
    server = start(threads_per_audit="1")
    created = server.create(*kit.slow_pair(server), kit.SLOW)
    next(event for event in server.watch(created.id) if event.done)
    (worker,) = server.workers()
    assert Path(f"/proc/{worker}/oom_score_adj").read_text().strip() == "1000"
    assert int(Path(f"/proc/{server.pid}/oom_score_adj").read_text()) < 1000


def test_marks_of_one_boot_are_compared_and_of_two_are_not():
    assert oom.rose("one:5", "one:6")
    assert not oom.rose("one:5", "one:5")
    assert not oom.rose("one:5", "two:6")
    assert not oom.rose("", "one:6")
    now = oom.mark()
    assert now
    assert not oom.rose(now, now)


def test_an_audit_whose_whole_server_was_killed_for_memory_is_tried_as_rarely(start, kit, tmp_path):
    """As with ``memory.oom.group``: the server sees no worker end; what the machine counted tells the next one."""
    server = start(threads_per_audit="1", max_memory_attempts="2")
    created = server.create(*kit.slow_pair(server), kit.SLOW)
    for _ in range(2):
        kit.wait_for(lambda: server.get(created.id).state == "running" and server.workers())
        server.kill()
        with sqlite3.connect(server.data_dir / "state.sqlite") as db:
            (mark,) = db.execute("SELECT oom_mark FROM audits").fetchone()
            boot, _, count = mark.rpartition(":")
            # The kernel's counter cannot be turned up here; turned back, the mark says the same.
            db.execute("UPDATE audits SET oom_mark = ?", (f"{boot}:{int(count) - 1}",))
        db.close()
        server.start()
    ended = server.finish(created.id)
    assert (ended.state, ended.failure.reason) == ("failed", "WORKER_OUT_OF_MEMORY")


def test_kills_for_other_reasons_are_not_counted(tmp_path):
    with sqlite3.connect(":memory:", isolation_level=None) as db:
        db.row_factory = sqlite3.Row
        schema.migrate(db)
        db.execute(
            "INSERT INTO audits (id, owner, state, spec, blobs, threads, deadline, created, request_sha256, oom_mark)"
            " VALUES ('a', 'o', 'running', '{}', '{}', 1, 1.0, 0.0, '', 'boot:7')"
        )
        assert audits.requeue_all(db, "", lambda mark: oom.rose(mark, "boot:7")) == 1
        assert audits.find(db, "a", None).memory_kills == 0
        audits.start(db, "a", "boot:7")
        assert audits.requeue_all(db, "", lambda mark: oom.rose(mark, "boot:8")) == 1
        assert audits.find(db, "a", None).memory_kills == 1
    db.close()
