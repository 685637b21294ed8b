"""Further inputs through a real server: values from the command line, from files and from Python."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lieaudit_api.v1 import spec_pb2
from lieaudit_client import AsyncClient, AuditFailedError, InvalidInputError, read_report
from lieaudit_client.command import run
from lieaudit_client.feeds import MAX_BYTES, parse_feed, to_tensor
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.feeds import Feed

RNG = np.random.default_rng(8)
IMAGES = RNG.standard_normal((3, 3, 8, 8)).astype(np.float32)
MASKS = RNG.integers(0, 2, (3, 1, 8, 8)).astype(np.float32)
SPEC = {"generators": ["rotation"], "bootstrap": 100, "threads": 1, "head": "softmax"}
LEAN = ["--generators", "rotation", "--bootstrap", 100, "--threads", 1, "--head", "softmax"]


def two_inputs(height="H"):
    """Logits of the image times its mask, over a temperature; height and width are left open."""
    nodes = [
        helper.make_node("Mul", ["image", "mask"], ["seen"]),
        helper.make_node("Conv", ["seen", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("ReduceMean", ["t"], ["p"], axes=[2, 3], keepdims=0),
        helper.make_node("Div", ["p", "temperature"], ["logits"]),
    ]
    kernel = np.random.default_rng(9).standard_normal((4, 3, 3, 3)).astype(np.float32)
    info = helper.make_tensor_value_info
    inputs = [
        info("image", TensorProto.FLOAT, ["N", 3, height, "W"]),
        info("mask", TensorProto.FLOAT, ["N", 1, height, "W"]),
        info("temperature", TensorProto.FLOAT, []),
    ]
    outputs = [info("logits", TensorProto.FLOAT, ["N", 4])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [numpy_helper.from_array(kernel, "kernel")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "net.onnx").write_bytes(two_inputs())
    np.savez(tmp_path / "set.npz", x=IMAGES)
    np.savez(tmp_path / "fed.npz", x=IMAGES, mask=MASKS, temperature=np.float32(0.5))
    np.save(tmp_path / "mask.npy", MASKS)
    return tmp_path


@pytest.fixture(scope="module")
def here():
    """The same audit in this process."""
    spec = lieaudit.AuditSpec(**{**SPEC, "generators": ("rotation",), "feeds": {"mask": MASKS, "temperature": 0.5}})
    return lieaudit.audit(two_inputs(), IMAGES, spec)


def assert_same(report, here):
    assert list(report.results["rotation"].per_image) == list(here.results["rotation"].per_image)
    assert {feed.name for feed in report.data.feeds} == {"mask", "temperature"}
    assert {feed.sha256 for feed in report.data.feeds} == {feed.sha256 for feed in here.data.feeds}
    assert {feed.name: feed.per_image for feed in report.data.feeds} == {"mask": True, "temperature": False}


@pytest.mark.parametrize("mask", [MASKS, MASKS.tolist(), Feed.of(MASKS).to_dict()], ids=["array", "lists", "JSON"])
def test_both_clients_send_values(client, server, paths, here, mask):
    spec = SPEC | {"feeds": {"mask": mask, "temperature": 0.5}}
    assert_same(client.audit(paths / "net.onnx", paths / "set.npz", spec), here)

    async def main():
        async with AsyncClient(server.target) as other:
            return await other.audit(paths / "net.onnx", paths / "set.npz", spec)

    assert_same(asyncio.run(main()), here)


def test_the_command_takes_values_files_and_arrays_of_the_npz(server, paths, here, capfd):
    feeds = ["--feed", f"mask={paths / 'mask.npy'}", "--feed", "temperature=0.5"]
    for data, options in (("set.npz", feeds), ("fed.npz", []), ("fed.npz", feeds[2:])):
        arguments = ["audit", paths / "net.onnx", "--data", paths / data, "--server", server.target, *LEAN, *options]
        code = run([*map(str, arguments), "--json", str(paths / "r.json"), "--html", str(paths / "r.html")])
        shown = capfd.readouterr().out
        assert code == 0, shown
        assert_same(read_report(paths / "r.json"), here)
        assert "temperature float32: 0.5" in shown
        assert "one per image" in shown
        assert "temperature float32: 0.5" in (paths / "r.html").read_text()
        feeds_said = {
            feed["name"]: feed["source"] for feed in json.loads((paths / "r.json").read_text())["data"]["feeds"]
        }
        assert feeds_said["mask"] == ("spec" if "mask" in str(options) else "data")


def test_inspect_takes_values_and_a_size(server, paths, capfd):
    arguments = [
        "inspect",
        paths / "net.onnx",
        "--server",
        server.target,
        "--feed",
        "temperature=2",
        "--input",
        "image",
    ]
    one = np.ones((1, 8, 8), np.float32)
    np.save(paths / "one.npy", one)
    arguments += ["--feed", f"mask={paths / 'one.npy'}"]
    assert run([*map(str, arguments), "--size", "8x8"]) == 0
    assert "logits" in capfd.readouterr().out
    assert run([*map(str, arguments)]) == 2
    assert "--size HxW" in capfd.readouterr().err


def test_what_is_missing_or_does_not_fit_is_said(client, paths):
    for feeds, reason, subject in (
        ({}, "AMBIGUOUS_INPUT", "input"),
        ({"mask": MASKS}, "EXTRA_INPUTS", "temperature"),
        ({"mask": MASKS[:2], "temperature": 1}, "FEED_MISMATCH", "feeds.mask"),
        ({"mask": MASKS, "temperature": [1, 2]}, "FEED_MISMATCH", "feeds.temperature"),
        ({"mask": MASKS, "temperature": 1, "other": 1}, "UNKNOWN_INPUT", "feeds.other"),
    ):
        with pytest.raises((AuditFailedError, InvalidInputError)) as caught:
            client.audit(paths / "net.onnx", paths / "set.npz", SPEC | {"feeds": feeds})
        assert (caught.value.reason, caught.value.subject) == (reason, subject)


def test_the_service_bounds_values_itself(client, paths):
    """Whatever a client sends: too many bytes, a shape of other bytes, an unknown type, too many values."""
    model, data = client.upload_model(paths / "net.onnx"), client.upload_dataset(paths / "set.npz")
    tensor = spec_pb2.Tensor
    for feeds in (
        {"mask": tensor(dtype="int8", shape=[MAX_BYTES + 1], data=bytes(MAX_BYTES + 1))},
        {f"v{i}": tensor(dtype="int8", data=b"0") for i in range(40)},
        {"mask": tensor(dtype="int8", shape=[3], data=b"00")},
        {"mask": tensor(dtype="int8", shape=[-1], data=b"")},
        {"mask": tensor(dtype="int8", shape=[2**31 - 1] * 8, data=b"")},
        {"mask": tensor(dtype="object", data=b"")},
        {"mask": tensor(dtype="float32", data=np.float32("nan").tobytes())},
    ):
        with pytest.raises(InvalidInputError) as caught:
            client.create_audit(model.sha256, data.sha256, spec_pb2.AuditSpec(feeds=feeds))
        assert caught.value.reason == "INVALID_FEED"
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("v=1", 1),
        ("v=-2.5", -2.5),
        ("v=1e-3", 1e-3),
        ("v=true", True),
        ("v=640,480", [640, 480]),
        ("v=1,2.5", [1, 2.5]),
        ("v=[[1,2],[3,4]]", [[1, 2], [3, 4]]),
        ("v=[[true],[false]]", [[True], [False]]),
        ("v=[]", []),
        ("v=a=1", None),
        ("v=[1", None),
        ("v=one", None),
        ("v=null", None),
        ('v="1"', None),
        ("v={}", None),
        ("v=99999999999999999999", None),
        ("=1", None),
        ("v=", None),
    ],
)
def test_values_as_text(text, value):
    if value is None:
        with pytest.raises(InvalidInputError) as caught:
            parse_feed(text)
        assert caught.value.reason == "INVALID_FEED"
        return
    name, tensor = parse_feed(text)
    assert name == "v"
    assert Feed(tensor.dtype, tuple(tensor.shape), tensor.data) == Feed.of(value)


@pytest.mark.parametrize(
    "array",
    [
        np.array(3),
        np.arange(6).reshape(2, 3),
        np.float16([0.5]),
        np.array([[True]]),
        np.zeros((0, 2)),
        np.uint8([1, 255]),
    ],
    ids=str,
)
def test_files_of_numpy(tmp_path, array):
    np.save(tmp_path / "v.npy", array)
    _, tensor = parse_feed(f"v={tmp_path / 'v.npy'}")
    assert Feed(tensor.dtype, tuple(tensor.shape), tensor.data) == Feed.of(array)
    assert tensor == to_tensor(array, "v")


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]),
        np.arange(4, dtype=">i4"),
        np.asfortranarray(np.zeros((2, 3))),
        np.array([{}], object),
        np.zeros(3, "c8"),
    ],
    ids=["text", "big-endian", "columns first", "objects", "complex"],
)
def test_files_of_other_things_are_refused(tmp_path, array):
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(InvalidInputError) as caught:
        parse_feed(f"v={tmp_path / 'v.npy'}")
    assert caught.value.reason == "INVALID_FEED"


def test_a_file_too_large_for_the_command_line_belongs_into_the_npz(tmp_path):
    np.save(tmp_path / "v.npy", np.zeros(MAX_BYTES // 8 + 1))
    with pytest.raises(InvalidInputError, match="npz of the images"):
        parse_feed(f"v={tmp_path / 'v.npy'}")


@given(st.binary(max_size=200), st.integers(0, 80), st.binary(max_size=8))
def test_a_damaged_file_is_refused(tmp_path_factory, content, at, change):
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    np.save(path, np.arange(6).reshape(2, 3))
    whole = path.read_bytes()
    for data in (content, whole[:at] + change + whole[at + len(change) :], whole[:at]):
        path.write_bytes(data)
        try:
            _, tensor = parse_feed(f"v={path}")
        except InvalidInputError as problem:
            refusal = problem
        else:
            assert tensor.dtype
            continue
        assert refusal.reason == "INVALID_FEED"
