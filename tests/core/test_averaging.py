"""Averaging a classifier over shifts: the graph, against the mean written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lieaudit import AuditSpec
from lieaudit.averaging import Shifts, average
from lieaudit.errors import ModelError, SpecError

SIZE, CLASSES = 8, 5


def classifier(*, opset: int = 17, layout: str = "NCHW", head: str = "", batch: int | str = "N") -> onnx.ModelProto:
    """Return a convolution, a linear classifier of all positions, and a head."""
    random = np.random.default_rng(0)
    shape = [batch, 2, SIZE, SIZE] if layout == "NCHW" else [batch, SIZE, SIZE, 2]
    nodes, source = [], "image"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]))
        source = "planes"
    logits = "scores" if not head else "logits"
    nodes += [
        helper.make_node("Conv", [source, "w"], ["h"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"], axis=1),
        helper.make_node("MatMul", ["f", "v"], [logits]),
    ]
    if head:
        nodes.append(helper.make_node(head, ["logits"], ["scores"], **({"axis": 1} if head == "Softmax" else {})))
    weights = {
        "w": random.standard_normal((3, 2, 3, 3)),
        "v": random.standard_normal((3 * (SIZE // 2) ** 2, CLASSES)) / 4,
    }
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def answer(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    return found


def images(layout: str, count: int = 3) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((count, 2, SIZE, SIZE)).astype(np.float32)
    return x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def shifted(x: np.ndarray, down: int, across: int, layout: str) -> np.ndarray:
    """Return what numpy says the shifted images are: content moves down and right, the rest is reflected."""
    pads = {"NCHW": ((0, 0), (0, 0), (down, 0), (across, 0)), "NHWC": ((0, 0), (down, 0), (across, 0), (0, 0))}[layout]
    padded = np.pad(x, pads, mode="reflect")
    return padded[..., :SIZE, :SIZE] if layout == "NCHW" else padded[:, :SIZE, :SIZE]


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("shifts", [(2, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("head", ["", "Softmax", "Sigmoid"])
@pytest.mark.parametrize("opset", [9, 10, 17])
def test_it_is_the_mean_written_out(opset, head, layout, shifts):
    plain = classifier(opset=opset, layout=layout)
    mended = average(
        classifier(opset=opset, layout=layout, head=head), Shifts(*shifts), AuditSpec(head=head.lower() or "softmax")
    )
    x = images(layout)
    moved = [shifted(x, i, j, layout) for i in range(shifts[0]) for j in range(shifts[1])]
    logits = np.mean([answer(plain, m) for m in moved], axis=0)
    expected = {"": logits, "Softmax": softmax(logits), "Sigmoid": 1 / (1 + np.exp(-logits))}[head]
    # a few float32 additions of numbers of order 1
    np.testing.assert_allclose(answer(mended, x), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("batch", [1, "N"])
def test_names_shapes_and_weights_stay(batch):
    original = classifier(head="Softmax", batch=batch)
    mended = average(original, Shifts(2, 2))
    onnx.checker.check_model(mended, full_check=True)
    for side in ("input", "output"):
        assert [str(v) for v in getattr(mended.graph, side)] == [str(v) for v in getattr(original.graph, side)]
    held = {tuple(i.dims): i for i in mended.graph.initializer}
    assert all(tuple(w.dims) in held for w in original.graph.initializer)
    large = [i for i in mended.graph.initializer if np.prod(i.dims) > 8]
    assert len(large) == len(original.graph.initializer)  # shared by the four copies
    assert {node.domain for node in mended.graph.node} == {""}
    assert sum(node.op_type == "Conv" for node in mended.graph.node) == 4
    assert answer(mended, images("NCHW", 1)).shape == (1, CLASSES)


def test_a_shift_within_the_orbit_moves_the_answer_less():
    """What averaging is for: the answer to the image moved by one pixel comes closer to the answer to the image."""
    plain, mended = classifier(), average(classifier(), Shifts(2, 2), AuditSpec(head="softmax"))
    x = images("NCHW", 64)
    moved = shifted(x, 0, 1, "NCHW")
    change = [np.mean((answer(m, moved) - answer(m, x)) ** 2) for m in (plain, mended)]
    assert change[1] < 0.5 * change[0]


def dense() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["map"], pads=[1, 1, 1, 1])],
        "dense",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2, SIZE, SIZE])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [numpy_helper.from_array(np.ones((3, 2, 3, 3), np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("model", "spec"), [(dense(), AuditSpec()), (classifier(), AuditSpec(head="identity"))], ids=["map", "vector"]
)
def test_what_moves_with_the_image_is_not_averaged(model, spec):
    with pytest.raises(ModelError) as refused:
        average(model, Shifts(2, 2), spec)
    assert refused.value.reason == "AVERAGE_NOT_APPLICABLE"
    assert refused.value.subject in {"map", "scores"}


def test_integers_are_not_averaged():
    model = classifier(head="Softmax")
    model.graph.node.append(helper.make_node("QuantizeLinear", ["scores", "step", "zero"], ["quantised"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 256), "step"))
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(0), "zero"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("quantised", TensorProto.UINT8, ["N", CLASSES]))
    with pytest.raises(ModelError) as refused:
        average(model, Shifts(2, 2))
    assert refused.value.reason == "AVERAGE_NOT_APPLICABLE"
    assert "quantise what comes out" in refused.value.hint


@pytest.mark.parametrize("text", ["shifts:1x1", "shifts:2", "shifts:9x9", "shifts:0x4", "flips", "shifts:2x2x2", ""])
def test_orbits_that_are_none(text):
    with pytest.raises(SpecError):
        Shifts.parse(text)


@pytest.mark.real
@pytest.mark.parametrize(
    "name", ["resnet20_cifar10", "cnn_small_nhwc_cifar10", "mnist_cntk", "resnet_2b_batch1_cifar10", "vit_pgd_cifar10"]
)
def test_trained_models(real_dir: Path, name: str):
    """Exporters of every kind: the averaged graph equals the mean over shifts of the trained one."""
    path = real_dir / "models" / f"{name}.onnx"
    original, mended = onnx.load(path), average(path, Shifts(2, 1), AuditSpec(head="softmax"))
    shape = [d.dim_value or 1 for d in original.graph.input[0].type.tensor_type.shape.dim]
    axis = 1 if shape[3] == 3 else 2
    x = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    pads = [(0, 0)] * 4
    pads[axis] = (1, 0)
    moved = np.take(np.pad(x, pads, mode="reflect"), range(shape[axis]), axis=axis)
    expected = (answer(original, x) + answer(original, moved)) / 2
    # onnxruntime may fuse the copies otherwise than the original
    np.testing.assert_allclose(answer(mended, x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
