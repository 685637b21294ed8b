"""Branches and loops whose course is the same for every image are the ops they hold; others are one op, as a whole."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec

RNG = np.random.default_rng(8)
KERNEL = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32) / 3
HEAD = RNG.standard_normal((4, 5)).astype(np.float32)
IMAGES = RNG.standard_normal((5, 3, 8, 10)).astype(np.float32)
INTEGERS = {"one": [1], "two": [2], "axis": [3, 2], "rows": [-1], "channel": [1]}
ROUNDS = 3


def info(name, shape=None, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def net(middle, initializers=()):
    """Convolution, some nodes from "c" to "m", pooling, a linear head."""
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["c"], name="/conv/Conv", pads=[1, 1, 1, 1]),
        *middle,
        helper.make_node("ReduceMean", ["m"], ["p"], name="/pool/ReduceMean", axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["p", "head"], ["logits"], name="/head/MatMul"),
    ]
    tensors = [numpy_helper.from_array(KERNEL, "kernel"), numpy_helper.from_array(HEAD, "head")]
    tensors += [numpy_helper.from_array(np.array(value), name) for name, value in INTEGERS.items()]
    tensors += [numpy_helper.from_array(array, name) for name, array in initializers]
    graph = helper.make_graph(nodes, "net", [info("image", ["N", 3, 8, 10])], [info("logits", ["N", 5])], tensors)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def branch(name, nodes, output):
    return helper.make_graph(nodes, name, [], [info(output)])


def choice(condition):
    """Exporters write such an If for a squeeze whose size they do not know; one branch reads sizes of its own."""
    taken = [
        helper.make_node("Shape", ["c"], ["inner_shape"]),
        helper.make_node("Tanh", ["c"], ["inner"], name="/act/Tanh"),
        helper.make_node("Reshape", ["inner", "inner_shape"], ["taken"], name="/act/Reshape"),
    ]
    other = [helper.make_node("Relu", ["c"], ["other"])]
    then, otherwise = branch("then", taken, "taken"), branch("else", other, "other")
    return helper.make_node("If", [condition], ["m"], name="choice", then_branch=then, else_branch=otherwise)


PLAIN = [
    helper.make_node("Tanh", ["c"], ["inner"], name="/act/Tanh"),
    helper.make_node("Identity", ["inner"], ["m"], name="/act/Identity"),
]
BY_SIZE = [
    helper.make_node("Shape", ["c"], ["shape"]),
    helper.make_node("Gather", ["shape", "channel"], ["channels"]),
    helper.make_node("Greater", ["channels", "one"], ["wide"]),
    choice("wide"),
]
BY_PIXELS = [
    helper.make_node("ReduceMax", ["c"], ["greatest"], keepdims=0),
    helper.make_node("Greater", ["greatest", "zero"], ["bright"]),
    choice("bright"),
]


def audit(model, method="forward"):
    spec = AuditSpec(generators=("rotation", "translation_x"), method=method, layerwise="module")
    return lieaudit.audit(model, IMAGES, spec)


def contributions(report):
    return {
        (name, row.name.split(":")[0]): (row.lee, row.share)
        for name, layers in report.layerwise.items()
        for row in layers.segments
        if row.lee > 0
    }


@pytest.mark.parametrize("method", ["forward", "finite_difference"])
def test_a_branch_that_follows_sizes_is_what_it_holds(method):
    plain, branched = audit(net(PLAIN), method), audit(net(BY_SIZE), method)
    wanted, found = contributions(plain), contributions(branched)
    assert len(wanted) >= 4
    # the same ops; the Identity and the Reshape between them let onnxruntime fuse and sum otherwise
    assert [lee for lee, _ in found.values()] == pytest.approx([lee for lee, _ in wanted.values()], rel=1e-5)
    assert branched.results["rotation"].lee == pytest.approx(plain.results["rotation"].lee, rel=1e-5)
    assert all(layers.completeness < (1e-4 if method == "forward" else 0.05) for layers in branched.layerwise.values())


def test_a_loop_of_fixed_length_is_its_rounds():
    body = helper.make_graph(
        [
            helper.make_node("Tanh", ["state"], ["next"]),
            helper.make_node("Identity", ["going"], ["goes"]),
        ],
        "body",
        [info("round", [], TensorProto.INT64), info("going", [], TensorProto.BOOL), info("state")],
        [info("goes", [], TensorProto.BOOL), info("next")],
    )
    loop = helper.make_node("Loop", ["rounds", "yes", "c"], ["m"], name="loop", body=body)
    looped = audit(net([loop], [("rounds", np.array(ROUNDS)), ("yes", np.array(True))]))
    names = ["c", *(f"t{i}" for i in range(ROUNDS - 1)), "m"]
    written = [helper.make_node("Tanh", [a], [b]) for a, b in pairwise(names)]
    plain = audit(net(written))
    assert looped.results["rotation"].lee == pytest.approx(plain.results["rotation"].lee, rel=1e-6)
    assert all(layers.completeness < 1e-4 for layers in looped.layerwise.values())


def test_a_branch_that_follows_the_pixels_is_one_op():
    """Which branch is taken is not known ahead: it is part of one segment, and what comes before it is not."""
    found, plain = audit(net(BY_PIXELS, [("zero", np.float32(0))])), audit(net(PLAIN))
    for name, layers in found.layerwise.items():
        conv, rest = layers.segments
        assert conv.ops == ("Conv",)
        assert "If" in rest.ops
        assert [merged.what for merged in layers.merged] == ["m", "p"]
        assert layers.completeness < 2e-3  # forward mode has a difference for the op as a whole
        wanted = plain.layerwise[name].segments
        assert conv.lee == pytest.approx(wanted[0].lee, rel=1e-3)
        assert conv.share + rest.share == pytest.approx(1, abs=2e-3)
