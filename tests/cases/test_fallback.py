"""Forward mode that does not run, for whatever reason: auto goes on with finite differences and says why."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.autodiff.context import Context
from lieaudit.errors import LieauditError
from lieaudit.ops import Rule, replaced_rule
from lieaudit.ops.op import Outputs


def _model() -> onnx.ModelProto:
    random = np.random.default_rng(5)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Softsign", ["c"], ["s"], name="bend"),
        helper.make_node("GlobalAveragePool", ["s"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["features"], name="flat"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [info("features", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(random.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


_IMAGES = np.random.default_rng(6).standard_normal((4, 3, 8, 8)).astype(np.float32)


def _audit(method: str) -> lieaudit.Report:
    spec = lieaudit.AuditSpec(generators=("rotation",), head="identity", method=method)  # type: ignore[arg-type]
    return lieaudit.audit(_model(), _IMAGES, spec)


def _emits(op_type: str, *numbers: int) -> Rule:
    """Return a rule whose one node the ONNX checker, or onnxruntime, or the run does not take."""

    def apply(context: Context, node: ir.Node) -> Outputs:
        tangent = context.tangent(node.inputs[0])
        assert tangent is not None
        rest = [context.ints(numbers)] if numbers else []
        return context.stacked(context.op(op_type, context.stack(tangent), *rest), context.dims(node.outputs[0]))

    return Rule("planted", apply)


PLANTED = {
    "REWRITE_INVALID": _emits("NotAnOp"),
    "REWRITE_REFUSED": _emits("Reshape", 3, 5, 7),
    "RUN_FAILED": _emits("Gather", 1000),
}


@pytest.mark.parametrize("reason", PLANTED)
def test_auto_goes_on_with_finite_differences_and_says_why(reason):
    right = _audit("finite_difference").results["rotation"]
    with replaced_rule("Softsign", PLANTED[reason]):
        report = _audit("auto")
    result = report.results["rotation"]
    assert result.method == "finite_difference"
    assert result.per_image == right.per_image
    assert result.status == "ok"
    (skip,) = (skip for skip in report.skipped if skip.what == "method.forward")
    assert "finite_difference" not in skip.why  # no advice that was followed already
    if reason == "REWRITE_REFUSED":
        # the nodes behind the planted one have to live with what it emits
        assert re.search(r"the tangent of \w+ '(bend|pool|flat)'", skip.why)


@pytest.mark.parametrize("reason", PLANTED)
def test_forward_mode_by_name_says_why_and_what_goes(reason):
    with replaced_rule("Softsign", PLANTED[reason]), pytest.raises(LieauditError) as caught:
        _audit("forward")
    assert caught.value.reason == reason
    assert "--method finite_difference" in caught.value.hint or reason == "RUN_FAILED"
