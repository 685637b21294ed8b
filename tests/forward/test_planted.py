"""What happens to ops that have no rule, no derivative, or a wrong rule."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from lieaudit import audit
from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.forward import Rule, measure_shapes, replaced_rule, rewrite
from lieaudit.graph.forward.coverage import coverage, exact_share
from lieaudit.graph.load import load_model
from lieaudit.ops import OPS
from lieaudit.spec import AuditSpec

_RANDOM = np.random.default_rng(5)


def _network(middle, initializers=(), domains=(), opset=17):
    """Conv, the planted nodes from ``h`` to ``m``, global average, Gemm."""
    w = numpy_helper.from_array(_RANDOM.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    g = numpy_helper.from_array(_RANDOM.standard_normal((4, 5)).astype(np.float32), "g")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="stem", pads=[1, 1, 1, 1]),
        *middle,
        helper.make_node("Tanh", ["m"], ["t"], name="tanh"),
        helper.make_node("GlobalAveragePool", ["t"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "g"], ["z"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 5])],
        [w, g, *initializers],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _data(n=2, directions=3):
    x = _RANDOM.standard_normal((n, 3, 8, 8)).astype(np.float32)
    return x, _RANDOM.standard_normal((n, directions, 3, 8, 8)).astype(np.float32)


_QDQ = [
    helper.make_node("QuantizeLinear", ["h", "s", "zero"], ["q"], name="quant"),
    helper.make_node("DequantizeLinear", ["q", "s", "zero"], ["m"], name="dequant"),
]
_QDQ_CONSTANTS = [
    numpy_helper.from_array(np.array(0.1, np.float32), "s"),
    numpy_helper.from_array(np.array(0, np.int8), "zero"),
]
_SIGMOID = [helper.make_node("Sigmoid", ["h"], ["m"], name="planted")]


@pytest.mark.parametrize("unroll", [None, 3])
def test_unknown_op_falls_back_to_one_local_difference(run_rewritten, reference_derivative, unroll):
    proto = _network(_SIGMOID)
    x, v = _data()
    model = ir.from_proto(proto)
    with replaced_rule("Sigmoid", None):
        rewritten = rewrite(model, unroll=unroll)
    (applied,) = [a for a in rewritten.applied if not a.exact]
    assert (applied.op, applied.node, applied.rule) == ("Sigmoid", "planted", "generic")
    rows = np.ascontiguousarray(np.moveaxis(v, 1, 0))
    _, made = run_rewritten(rewritten, {"x": x, "x.tangent": rows})
    expected = reference_derivative(proto, {"x": x}, {"x": rows})
    error = np.linalg.norm(made - expected) / np.linalg.norm(expected)
    # one smooth op at a relative step of 2^-8: rounding and truncation are about 1e-5 each
    assert 1e-7 < error < 2e-4


def test_form_that_a_rule_refuses_is_differentiated_generically():
    def refuses(context, node):
        """As a rule does that meets axes computed by the graph."""
        raise UnsupportedOpError("no", reason="DYNAMIC_AXES", subject=node.name)

    with replaced_rule("Sigmoid", Rule("refuses", refuses)):
        applied = rewrite(ir.from_proto(_network(_SIGMOID))).applied
    assert [(a.node, a.rule) for a in applied if not a.exact] == [("planted", "generic")]


def test_custom_op_that_onnxruntime_knows_is_named_and_differentiated(monkeypatch):
    monkeypatch.delitem(OPS, ("com.microsoft", "QuickGelu"))
    node = helper.make_node("QuickGelu", ["h"], ["m"], name="custom", domain="com.microsoft", alpha=1.702)
    x, v = _data()
    spec = AuditSpec(threads=1)
    differentiator = ForwardDifferentiator(
        load_model(_network([node], domains=["com.microsoft"]).SerializeToString(), spec), spec
    )
    (caveat,) = differentiator.skipped
    assert caveat.what == "op.com.microsoft::QuickGelu"
    assert "custom" in caveat.why
    assert "central difference" in caveat.why
    plain = [
        helper.make_node("Mul", ["h", "a"], ["ha"], name="scale"),
        helper.make_node("Sigmoid", ["ha"], ["hs"], name="sigmoid"),
        helper.make_node("Mul", ["h", "hs"], ["m"], name="gate"),
    ]
    constant = numpy_helper.from_array(np.array(1.702, np.float32), "a")
    twin_proto = _network(plain, [constant])
    custom_proto = _network([node], domains=["com.microsoft"])
    for ours, theirs in zip(custom_proto.graph.initializer, twin_proto.graph.initializer, strict=False):
        theirs.CopyFrom(ours)
    differentiator = ForwardDifferentiator(load_model(custom_proto.SerializeToString(), spec), spec)
    twin = ForwardDifferentiator(load_model(twin_proto.SerializeToString(), spec), spec)
    mine, exact = differentiator(x, v).tangent, twin(x, v).tangent
    assert not twin.skipped
    assert np.linalg.norm(mine - exact) / np.linalg.norm(exact) < 2e-4


def test_quantisation_is_named_and_its_derivative_is_zero():
    spec = AuditSpec(threads=1)
    model = load_model(_network(_QDQ, _QDQ_CONSTANTS).SerializeToString(), spec)
    differentiator = ForwardDifferentiator(model, spec)
    assert {s.what for s in differentiator.skipped} == {"op.QuantizeLinear", "op.DequantizeLinear"}
    assert all("limit t → 0 is not meaningful" in s.why for s in differentiator.skipped)
    assert "quant" in differentiator.skipped[0].why
    x, v = _data()
    assert not differentiator(x, v).tangent.any()
    covered = coverage(model.model)
    assert {row.op for row in covered if not row.exact} == {"QuantizeLinear", "DequantizeLinear"}
    assert exact_share(covered) < 1


def test_coverage_of_an_exact_graph():
    covered = coverage(ir.from_proto(_network(_SIGMOID)))
    assert exact_share(covered) == 1
    assert {row.op for row in covered} == {"Conv", "Sigmoid", "Tanh", "GlobalAveragePool", "Flatten", "Gemm"}


def test_an_audit_of_a_quantised_graph_is_inconclusive_and_offers_secants():
    model = _network(_QDQ, _QDQ_CONSTANTS).SerializeToString()
    x, _ = _data()
    report = audit(model, x, AuditSpec(generators=("rotation",)))
    assert report.status == "inconclusive"
    assert any("QuantizeLinear" in reason and "--step" in reason for reason in report.reasons)
    secant = audit(model, x, AuditSpec(generators=("rotation",), method="finite_difference", step=0.3))
    assert secant.results["rotation"].step == 0.3
    assert secant.results["rotation"].lee > 0


def test_wrong_rule_turns_an_audit_inconclusive():
    def wrong(context, node):
        """Forget the slope: dy = dx."""
        return context.tangent(node.inputs[0])

    images = _RANDOM.standard_normal((6, 3, 8, 8)).astype(np.float32)
    proto = _network(_SIGMOID)
    spec = AuditSpec(threads=1, generators=("rotation",), head="identity", bootstrap=200)
    assert audit(proto, images, spec).results["rotation"].status == "ok"
    with replaced_rule("Sigmoid", Rule("wrong", wrong)):
        report = audit(proto, images, spec)
    result = report.results["rotation"]
    assert result.agreement is not None
    assert not result.agreement.agrees
    assert result.status == "inconclusive"
    assert report.status == "inconclusive"


def test_segment_of_a_graph(run_rewritten):
    proto = _network(_SIGMOID)
    model = ir.from_proto(proto)
    rewritten = rewrite(model, inputs=["h"], outputs=["f"])
    assert rewritten.values_in == ("h",)
    h = _RANDOM.standard_normal((2, 4, 8, 8)).astype(np.float32)
    rows = _RANDOM.standard_normal((4, 2, 4, 8, 8)).astype(np.float32)
    _, made = run_rewritten(rewritten, {"h": h, "h.tangent": rows})
    slope = 1 / (1 + np.exp(-h.astype(np.float64)))
    inner = np.tanh(slope)
    expected = (rows * slope * (1 - slope) * (1 - inner**2)).mean(axis=(-1, -2))
    assert np.allclose(made, expected, rtol=1e-5, atol=1e-7)


def test_graphs_with_control_flow(run_rewritten, reference_derivative):
    """A branch taken on data is differentiated by the generic rule, captured values included."""
    then = helper.make_graph(
        [helper.make_node("Mul", ["h", "h"], ["b"])], "then", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Exp", ["h"], ["e"])], "else", [], [helper.make_tensor_value_info("e", 1, None)]
    )
    middle = [
        helper.make_node("ReduceMean", ["h"], ["r"], keepdims=0),
        helper.make_node("Greater", ["r", "limit"], ["c"]),
        helper.make_node("If", ["c"], ["m"], name="branch", then_branch=then, else_branch=other),
    ]
    limit = numpy_helper.from_array(np.array(-100, np.float32), "limit")
    proto = _network(middle, [limit])
    x, v = _data()
    rewritten = rewrite(ir.from_proto(proto))
    assert [a.node for a in rewritten.applied if not a.exact] == ["branch"]
    rows = np.ascontiguousarray(np.moveaxis(v, 1, 0))
    _, made = run_rewritten(rewritten, {"x": x, "x.tangent": rows})
    expected = reference_derivative(proto, {"x": x}, {"x": rows})
    assert np.linalg.norm(made - expected) / np.linalg.norm(expected) < 2e-4


def test_constant_branches_and_function_bodies_are_inlined(run_rewritten, reference_derivative):
    then = helper.make_graph(
        [helper.make_node("Mul", ["h", "h"], ["b"])], "then", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Exp", ["h"], ["e"])], "else", [], [helper.make_tensor_value_info("e", 1, None)]
    )
    middle = [helper.make_node("If", ["yes"], ["m"], name="branch", then_branch=then, else_branch=other)]
    proto = _network(middle, [numpy_helper.from_array(np.array(True), "yes")])
    rewritten = rewrite(ir.from_proto(proto))
    assert all(a.exact for a in rewritten.applied)
    x, v = _data()
    rows = np.ascontiguousarray(np.moveaxis(v, 1, 0))
    _, made = run_rewritten(rewritten, {"x": x, "x.tangent": rows})
    expected = reference_derivative(proto, {"x": x}, {"x": rows})
    assert np.linalg.norm(made - expected) / np.linalg.norm(expected) < 5e-6


def test_attention_of_the_standard_is_expanded(check_exact, make_case):
    q, k, v = (_RANDOM.standard_normal((2, 2, 5, 4)).astype(np.float32) for _ in range(3))
    case = make_case("Attention", {"q": q, "k": k, "v": v}, opset=23)
    model = ir.from_proto(case.model())
    measure_shapes(model, feeds=case.moving)
    assert all(a.exact for a in rewrite(model).applied)
    check_exact(case, tolerance=5e-6)
