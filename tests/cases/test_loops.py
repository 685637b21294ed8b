"""Loops whose course the image decides: a difference stands for their derivative, and its bar says how wrong it is."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.symmetries import tangents

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(2)
IMAGES = RNG.standard_normal((12, 3, 8, 8)).astype(np.float32)
KERNEL = (RNG.standard_normal((4, 3, 3, 3)) / 3).astype(np.float32)
TURN = (RNG.standard_normal((4, 4)) * 3).astype(np.float32)
HEAD = RNG.standard_normal((4, 3)).astype(np.float32)
AGAIN, ROUNDS = 0.3, 4
GENERATORS = ("translation_x", "rotation", "brightness")


def graph(*, sequence):
    """y = sin(y · turn) while |y| is large; ``sequence``: all of them are kept, and their mean is taken."""
    info = helper.make_tensor_value_info
    inner = [
        helper.make_node("MatMul", ["y", "turn"], ["a"]),
        helper.make_node("Sin", ["a"], ["y_out"]),
        helper.make_node("Abs", ["y_out"], ["b"]),
        helper.make_node("ReduceMax", ["b"], ["c"], keepdims=0),
        helper.make_node("Greater", ["c", "again"], ["on_out"]),
    ]
    inputs = [info("i", TensorProto.INT64, []), info("on", TensorProto.BOOL, []), info("y", 1, ["N", 4])]
    outputs = [info("on_out", TensorProto.BOOL, []), info("y_out", 1, ["N", 4])]
    carried, ends = ["start"], ["last"]
    if sequence:
        kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None))
        inner.append(helper.make_node("SequenceInsert", ["s", "y_out"], ["s_out"]))
        inputs.append(helper.make_value_info("s", kind))
        outputs.append(helper.make_value_info("s_out", kind))
        carried.append("none")
        ends.append("kept")
    body = helper.make_graph(inner, "body", inputs, outputs)
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["f"], pads=[1] * 4),
        helper.make_node("Tanh", ["f"], ["g"]),
        helper.make_node("ReduceMean", ["g"], ["start"], axes=[2, 3], keepdims=0),
        *([helper.make_node("SequenceEmpty", [], ["none"])] if sequence else []),
        helper.make_node("Loop", ["rounds", "yes", *carried], ends, name="iterate", body=body),
    ]
    if sequence:
        nodes += [
            helper.make_node("ConcatFromSequence", ["kept"], ["all"], axis=0, new_axis=1),
            helper.make_node("ReduceMean", ["all"], ["end"], axes=[0], keepdims=0),
        ]
    nodes.append(helper.make_node("MatMul", ["end" if sequence else "last", "head"], ["z"]))
    arrays = {
        "kernel": KERNEL, "turn": TURN, "head": HEAD, "again": np.float32(AGAIN), "rounds": np.array(ROUNDS),
        "yes": np.array(True),
    }  # fmt: skip
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    made = helper.make_graph(nodes, "net", [info("image", 1, [1, 3, 8, 8])], [info("z", 1, [1, 3])], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def function(x, *, sequence):
    kernel, turn, head = (torch.tensor(a.astype(np.float64)) for a in (KERNEL, TURN, HEAD))
    y = torch.tanh(torch.nn.functional.conv2d(x, kernel, padding=1)).mean((2, 3))
    kept = []
    for _ in range(ROUNDS):
        y = torch.sin(y @ turn)
        kept.append(y)
        if float(y.detach().abs().max()) <= AGAIN:
            break
    return (torch.stack(kept).mean(0) if sequence else y) @ head


def reference(generator, *, sequence):
    rows = []
    for image in IMAGES.astype(np.float64):
        how = {"interpolation": "bilinear", "padding": "reflect", "convention": "central"}
        x = torch.tensor(image[None], requires_grad=True)
        v = torch.tensor(tangents(image, (generator,), **how))
        _, moved = torch.autograd.functional.jvp(lambda x: function(x, sequence=sequence), x, v)
        rows.append(float((moved**2).mean()))
    return np.array(rows)


@pytest.mark.parametrize("method", ["auto", "finite_difference"])
@pytest.mark.parametrize("sequence", [False, True], ids=["state", "sequence"])
def test_the_bars_cover_what_the_difference_is_wrong_by(method, sequence):
    spec = AuditSpec(generators=GENERATORS, head="identity", method=method, threads=1)
    found = lieaudit.audit(graph(sequence=sequence), IMAGES, spec)
    covered = []
    for generator in GENERATORS:
        result = found.results[generator]
        right = reference(generator, sequence=sequence)
        covered += list(np.abs(np.array(result.per_image) - right) <= np.array(result.per_image_error))
        assert np.array(result.per_image) == pytest.approx(right, rel=0.2)
    # 36 images and generators, 95 % of which should be covered: fewer than 30 have a probability below 1e-3
    assert sum(covered) >= 30
