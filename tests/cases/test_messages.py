"""A refusal names the user's own node or tensor, and a way out that exists."""

from __future__ import annotations

import re
import sys

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.errors import ModelError
from lieaudit.graph.forward import measure_shapes
from lieaudit.graph.names import record_origins
from lieaudit.runtime.failures import Stop, origins


def _info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def _model(nodes, outputs, tensors=(), shape=("N", 3, 4, 4)):
    made = helper.make_graph(
        nodes, "net", [_info("image", list(shape))], outputs, [numpy_helper.from_array(a, name) for name, a in tensors]
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_graph_that_does_not_run_names_the_node_it_stops_at():
    node = helper.make_node("Reshape", ["image", "sizes"], ["y"], name="head/reshape")
    proto = _model([node], [_info("y", None)], [("sizes", np.array([7, -1]))])
    with pytest.raises(ModelError, match=r"^onnxruntime does not run Reshape 'head/reshape': ") as caught:
        measure_shapes(ir.from_proto(proto))
    assert (caught.value.reason, caught.value.subject) == ("GRAPH_NOT_RUNNABLE", "head/reshape")


def test_a_graph_that_does_not_load_is_named():
    proto = _model([helper.make_node("Nonsense", ["image"], ["y"], name="odd")], [_info("y", None)])
    with pytest.raises(ModelError, match=r"^onnxruntime does not run Nonsense 'odd': No Op registered") as caught:
        measure_shapes(ir.from_proto(proto))
    assert (caught.value.reason, caught.value.subject) == ("GRAPH_NOT_RUNNABLE", "odd")


F = np.float32
OPEN = ("N", 3, "H", "W")
STOPS = {
    "reshape": ([("Reshape", ["image", "s"], {})], [("s", np.array([7, -1]))], OPEN, "Dimension could not be inferred"),
    "conv": ([("Conv", ["image", "s"], {})], [("s", np.ones((2, 3, 9, 9), F))], OPEN, "Invalid input shape"),
    "broadcast": ([("Add", ["image", "s"], {})], [("s", np.ones(5, F))], OPEN, "Incompatible dimensions"),
    "matmul": (
        [("MatMul", ["image", "s"], {})],
        [("s", np.ones((5, 5), F))],
        OPEN,
        "Incompatible dimensions for matrix",
    ),
    "gather": ([("Gather", ["image", "s"], {"axis": 1})], [("s", np.array(9))], OPEN, "out of data bounds"),
    "squeeze": ([("Squeeze", ["image", "s"], {})], [("s", np.array([2]))], OPEN, "Dimension of input 2 must be 1"),
    "split": ([("Split", ["image"], {"axis": 1})], [], OPEN, "not evenly splittable"),
    "slice": ([("Gather", ["image", "s"], {"axis": 9})], [("s", np.array(0))], OPEN, "axis must be in"),
    "by-pixels": (
        [
            ("ReduceMax", ["image"], {"keepdims": 0}),
            ("Cast", ["h0"], {"to": 7}),
            ("Gather", ["image", "h1"], {"axis": 1}),
        ],
        [],
        ("N", 3, 4, 4),
        "indices element out of data bounds, idx=9 must be within the inclusive range",
    ),
    # onnxruntime names no node of these
    "scales": (
        [("Relu", ["image"], {}), ("Resize", ["h0", "", "s"], {"mode": "linear"})],
        [("s", np.array([1, 1, -2, 2], F))],
        OPEN,
        "Scale value should be greater than 0",
    ),
}
INSIDE = re.compile(r"onnxruntime::|/onnxruntime_src|\.h:|\.cc:|was false|ONNXRuntimeError|lieaudit_|tangent/|user:|\n")


def _stopping(key, *, named):
    nodes, weights, shape, _ = STOPS[key]
    made, value = [], "image"
    for i, (op, inputs, attributes) in enumerate(nodes):
        outputs = [f"h{i}", "rest"] if op == "Split" else [f"h{i}"]
        made.append(helper.make_node(op, inputs, outputs, name=f"block/{op}_{i}" if named else "", **attributes))
        value = outputs[0]
    flat = [helper.make_node("Flatten", [value], ["f"]), helper.make_node("ReduceMax", ["f"], ["y"], axes=[1])]
    return _model([*made, *flat], [_info("y", None)], weights, shape)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("key", STOPS)
def test_what_onnxruntime_stops_at_is_named_and_its_own_insides_are_not(key, named):
    nodes, _, _, cause = STOPS[key]
    last = len(nodes) - 1
    with pytest.raises(ModelError) as caught:
        lieaudit.audit(_stopping(key, named=named), np.full((2, 3, 4, 4), 9, F), lieaudit.AuditSpec(head="identity"))
    error = caught.value
    assert error.reason in {"RUN_FAILED", "MODEL_REFUSED", "INVALID_MODEL"}
    op = nodes[last][0]
    name = f"block/{op}_{last}" if named else f"h{last}"
    assert f"{op} {name!r}" in error.message
    assert cause in error.message
    assert not INSIDE.search(str(error))
    assert "--" in error.hint


def test_a_tangent_that_fails_names_the_node_of_the_user():
    nodes = [
        helper.make_node("Identity", ["image"], ["h"], name="first"),
        helper.make_node("Flatten", ["h"], ["y"], name="flat"),
    ]
    model = ir.from_proto(_model(nodes, [_info("y", ["N", 48])]))
    record_origins(model)
    own = ir.node("Relu", [model.graph[0].outputs[0]], name="tangent/7/Relu")
    own.outputs[0].name = "tangent/7/Relu:0"
    model.graph.insert_after(model.graph[1], own)
    said = (
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Relu node. Name:'tangent/7/Relu'"
    )
    stop = Stop.of(RuntimeError(f"{said} Status Message: no room"), origins(model))
    assert (stop.where, stop.subject, stop.why) == ("the tangent of Flatten 'flat'", "flat", "no room")


def test_layers_that_fail_in_a_way_nobody_foresaw_leave_the_audit(monkeypatch):
    monkeypatch.setattr(sys.modules["lieaudit.api"], "attribute_layers", lambda *_, **__: {}["no such layer"])
    proto = _model(LABEL[:2], [_info("logits", ["N", 3])])
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(F)
    found = lieaudit.audit(proto, images, lieaudit.AuditSpec(head="identity", layerwise="op"))
    assert found.results["rotation"].lee > 0
    why = next(skip.why for skip in found.skipped if skip.what == "layerwise")
    assert "KeyError" in why
    assert "report the model" in why


LABEL = [
    helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["logits"]),
    helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    helper.make_node("Tanh", ["logits"], ["scores"]),
]


@pytest.mark.parametrize(
    ("floats", "hint"),
    [
        (("logits", "scores"), "audit another output: --output logits or --output scores"),
        ((), "no output is a float; --output also names a tensor inside the graph"),
    ],
)
def test_an_output_of_integers_names_the_float_outputs(floats, hint):
    outputs = [_info("label", ["N"], TensorProto.INT64), *(_info(name, ["N", 3]) for name in floats)]
    with pytest.raises(ModelError, match="output 'label' is INT64, not a float") as caught:
        lieaudit.audit(_model(LABEL, outputs), np.ones((2, 3, 4, 4), np.float32), lieaudit.AuditSpec(output="label"))
    assert caught.value.reason == "OUTPUT_NOT_FLOAT"
    assert caught.value.hint.startswith(hint)


def test_no_hint_names_a_function_of_the_library():
    """A tensor whose rank nobody measured: what a user can do is another method."""
    from lieaudit.autodiff.context import Context

    context = Context.__new__(Context)  # what it reads is the tensor's own
    with pytest.raises(ModelError) as caught:
        context.dims(ir.Value(name="inner"))
    assert (caught.value.reason, caught.value.hint) == ("UNKNOWN_SHAPE", "use --method finite_difference")
