"""Models that take integers: functions of real pixels where they only move them, refused where they compute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.errors import LieauditError
from lieaudit.graph.load import load_model
from lieaudit.runtime.session import Session
from lieaudit.spec import Preprocessing

RNG = np.random.default_rng(3)
CONV = (RNG.standard_normal((5, 3, 3, 3)) / 300).astype(np.float32)
TO_LOGITS = [
    helper.make_node("Transpose", ["floats"], ["nchw"], perm=[0, 3, 1, 2]),
    helper.make_node("Conv", ["nchw", "w"], ["c"]),
    helper.make_node("Tanh", ["c"], ["t"]),
    helper.make_node("GlobalAveragePool", ["t"], ["p"]),
    helper.make_node("Flatten", ["p"], ["logits"]),
]
TO_FLOAT = [helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT)]


def net(nodes=TO_FLOAT, kind=TensorProto.UINT8, initializers=(), inputs=(), opset=17):
    tensors = [numpy_helper.from_array(array, name) for name, array in (("w", CONV), *initializers)]
    image = helper.make_tensor_value_info("image", kind, ["N", 8, 8, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])
    graph = helper.make_graph([*nodes, *TO_LOGITS], "g", [image, *inputs], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def raw(n=3):
    return np.random.default_rng(4).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def assert_same_function(proto, images=None):
    """The audited graph at whole pixels is the exported one, to the last bit."""
    images = raw() if images is None else images
    loaded = load_model(proto)
    with Session(proto.SerializeToString()) as session:
        expected = session.run({"image": images})[0]
    with Session(loaded.model) as session:
        found = session.run({loaded.input_name: images.transpose(0, 3, 1, 2).astype(np.float32)})[0]
    assert np.array_equal(found, expected)
    return loaded


def refused(proto, spec=None):
    with pytest.raises(LieauditError) as caught:
        load_model(proto, spec)
    return caught.value


def test_a_cast_image_is_audited_and_said():
    loaded = assert_same_function(net())
    assert loaded.info.input.dtype == "uint8"
    assert loaded.pixel_range == (0, 255)
    assert any("uint8 image is audited as one of real numbers" in note for note in loaded.info.notes)


def test_the_report_is_that_of_the_float_model():
    spec = AuditSpec(generators=("rotation", "translation_x", "brightness"), preprocessing=Preprocessing(scale=1.0))
    whole = lieaudit.audit(net().SerializeToString(), raw(8), spec)
    floats = lieaudit.audit(net(kind=TensorProto.FLOAT).SerializeToString(), raw(8), spec)
    for name, result in whole.results.items():
        assert result.lee == floats.results[name].lee
        assert result.lee > 0
        assert result.method == floats.results[name].method


@pytest.mark.parametrize(
    ("kind", "to", "dtype"),
    [
        (TensorProto.UINT8, TensorProto.INT32, np.uint8),
        (TensorProto.UINT8, TensorProto.UINT16, np.uint8),
        (TensorProto.UINT8, TensorProto.INT16, np.uint8),
        (TensorProto.INT8, TensorProto.INT64, np.int8),
        (TensorProto.INT32, TensorProto.INT32, np.int32),
    ],
)
def test_casts_that_change_no_pixel(kind, to, dtype):
    wider = [helper.make_node("Cast", ["image"], ["i"], to=to), helper.make_node("Cast", ["i"], ["floats"], to=1)]
    images = np.random.default_rng(5).integers(-128 if np.iinfo(dtype).min < 0 else 0, 128, (2, 8, 8, 3)).astype(dtype)
    assert_same_function(net(wider, kind), images)


@pytest.mark.parametrize("to", [TensorProto.INT8, TensorProto.BOOL])
def test_a_cast_that_changes_pixels_is_refused(to):
    """200 would become −56, or true."""
    narrow = [helper.make_node("Cast", ["image"], ["i"], to=to), helper.make_node("Cast", ["i"], ["floats"], to=1)]
    assert refused(net(narrow)).reason == "INTEGER_PIXELS"


@pytest.mark.parametrize("zero", [None, 128])
def test_dequantised_pixels(zero):
    initializers = [("scale", np.float32(0.0078125)), *([("zero", np.uint8(zero))] if zero else [])]
    names = [name for name, _ in initializers]
    node = helper.make_node("DequantizeLinear", ["image", *names], ["floats"])
    assert_same_function(net([node], initializers=initializers))


def test_half_precision_behind_the_cast():
    nodes = [helper.make_node("Cast", ["image"], ["h"], to=10), helper.make_node("Cast", ["h"], ["floats"], to=1)]
    assert_same_function(net(nodes))


CHANNELS = [("axis3", np.array([3])), ("starts", np.array([-1])), ("ends", np.array([-9])), ("steps", np.array([-1]))]
MOVES = {
    "flip": lambda a, b: [helper.make_node("Slice", [a, "starts", "ends", "axis3", "steps"], [b])],
    "gather": lambda a, b: [helper.make_node("Gather", [a, "turn"], [b], axis=3)],
    "transpose": lambda a, b: [helper.make_node("Transpose", [a], [b], perm=[0, 2, 1, 3])],
    "reshape": lambda a, b: [
        helper.make_node("Shape", [a], [f"{b}.shape"]),
        helper.make_node("Flatten", [a], [f"{b}.flat"]),
        helper.make_node("Reshape", [f"{b}.flat", f"{b}.shape"], [b]),
    ],
    "swap": lambda a, b: [
        helper.make_node("Split", [a], [f"{b}.{i}" for i in range(3)], axis=3),
        helper.make_node("Concat", [f"{b}.{i}" for i in (2, 1, 0)], [b], axis=3),
    ],
    "unsqueeze": lambda a, b: [
        helper.make_node("Unsqueeze", [a, "axis3"], [f"{b}.five"]),
        helper.make_node("Squeeze", [f"{b}.five", "axis3"], [b]),
    ],
    "widen": lambda a, b: [
        helper.make_node("Cast", [a], [f"{b}.i"], to=TensorProto.INT32),
        helper.make_node("Identity", [f"{b}.i"], [b]),
    ],
}


@given(st.lists(st.sampled_from(sorted(set(MOVES) - {"widen"})), max_size=5), st.booleans())
def test_pixels_that_only_move(moves, widen):
    names = [*moves, *(["widen"] if widen else [])]
    nodes, tensor = [], "image"
    for number, name in enumerate(names):
        nodes += MOVES[name](tensor, f"m{number}")
        tensor = f"m{number}"
    nodes.append(helper.make_node("Cast", [tensor], ["floats"], to=TensorProto.FLOAT))
    assert_same_function(net(nodes, initializers=[*CHANNELS, ("turn", np.array([1, 2, 0]))]))


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Mul", ["image", "image"], ["i"], name="squared"),
        helper.make_node("Pad", ["image", "pads"], ["i"], name="squared"),
        helper.make_node("Concat", ["image", "border"], ["i"], axis=1, name="squared"),
        helper.make_node("Where", ["no", "image", "image"], ["i"], name="squared"),
        helper.make_node("BitShift", ["image", "image"], ["i"], direction="LEFT", name="squared"),
    ],
    ids=lambda node: node.op_type,
)
def test_computing_with_integers_is_refused_by_name(node):
    proto = net(
        [node, helper.make_node("Cast", ["i"], ["floats"], to=1)],
        initializers=[
            ("pads", np.zeros(8, np.int64)),
            ("no", np.array(False)),
            ("border", np.zeros((1, 1, 8, 3), np.uint8)),
        ],
    )
    problem = refused(proto)
    assert problem.reason == "INTEGER_PIXELS"
    assert "takes uint8" in str(problem)
    assert "squared" in str(problem)
    assert "float image input" in problem.hint


def test_an_image_that_a_branch_reads_is_refused():
    branches = [
        helper.make_graph(
            [helper.make_node("Cast", ["image"], [f"out{i}"], to=1)],
            f"branch{i}",
            [],
            [helper.make_tensor_value_info(f"out{i}", TensorProto.FLOAT, None)],
        )
        for i in range(2)
    ]
    choice = helper.make_node("If", ["no"], ["floats"], then_branch=branches[0], else_branch=branches[1], name="choice")
    problem = refused(net([choice], initializers=[("no", np.array(False))]))
    assert problem.reason == "INTEGER_PIXELS"
    assert "takes uint8" in str(problem)


def test_a_mask_is_no_rival_of_a_float_image():
    mask = helper.make_tensor_value_info("mask", TensorProto.INT64, ["N", 8, 8, 3])
    masked = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "m"], ["floats"]),
    ]
    problem = refused(net(masked, kind=TensorProto.FLOAT, inputs=[mask]))
    assert (problem.reason, problem.subject) == ("EXTRA_INPUTS", "mask")
    assert refused(net(masked, inputs=[mask])).reason == "AMBIGUOUS_INPUT"
    assert load_model(net(inputs=[mask])).info.input.name == "image"


@pytest.mark.parametrize("wrong", [0.5, -1.0, 256.0])
def test_images_the_model_could_not_take_are_refused(wrong):
    images = raw(3).transpose(0, 3, 1, 2).astype(np.float32)
    proto = net().SerializeToString()
    spec = AuditSpec(generators=("rotation",))
    assert lieaudit.audit(proto, images, spec).results["rotation"].lee > 0
    images[1, 2, 3, 4] = wrong
    with pytest.raises(LieauditError, match=f"image 1 holds {wrong:g}, .* from 0 to 255") as caught:
        lieaudit.audit(proto, images, spec)
    assert caught.value.reason == "NOT_WHOLE"
