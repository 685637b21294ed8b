"""Every form of every op whose tangent is tested, transposed: ⟨u, J v⟩ = ⟨Jᵀ u, v⟩."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from lieaudit.autodiff.adjoint import OPSET
from lieaudit.errors import LieauditError, UnsupportedOpError
from lieaudit.graph.forward import measure_shapes, rewrite
from lieaudit.graph.reverse.transpose import transpose
from lieaudit.ops import OPS

ROUNDING = 1e-6
"""Two float32 evaluations of sums of a few dozen products."""

SIZED_BY_VALUES = {
    "range": "DYNAMIC_SHAPE",
    "one-hot-classes": "GRAPH_NOT_RUNNABLE",
    "resize-scales-nearest": "GRAPH_NOT_RUNNABLE",
}
"""Cases in which values of the moving inputs decide how many elements there are."""


@pytest.mark.parametrize("single", [False, True], ids=["rows", "single"])
def test_transpose_of_every_case(harness, adjoint_gap, op_case, single):
    name, op, moving, fixed, attributes, extra = op_case
    extra = {k: v for k, v in extra.items() if k not in {"expect", "reference", "tolerance"}}
    case = harness.Case(op, moving, fixed, attributes, **extra)
    model = ir.from_proto(case.model())
    measure_shapes(model, feeds=case.moving)
    try:
        rewritten = rewrite(model, single=single)
    except UnsupportedOpError:
        assert op in {"Resize", "Upsample"}  # whose sizes follow the values, so that forward mode refuses it
        return
    inexact = [a.op for a in rewritten.applied if not a.exact]
    reason = "OPSET_TOO_OLD" if case.opset < OPSET else "NO_TRANSPOSE" if inexact else SIZED_BY_VALUES.get(name)
    if reason is not None:
        with pytest.raises(LieauditError) as refused:
            transpose(rewritten)
        assert refused.value.reason == reason
        assert reason != "NO_TRANSPOSE" or any(found in str(refused.value) for found in inexact)
        return
    transposed, refusal = _transposed(rewritten)
    if refusal is not None:
        # only what the table says has no rule, and with its reason
        assert refusal.reason == "NO_TRANSPOSE"
        assert OPS["", refusal.subject].transpose.without in str(refusal)
        assert OPS["", refusal.subject].transpose.without
        return
    assert adjoint_gap(rewritten, transposed, dict(case.moving)) < ROUNDING


def _transposed(rewritten):
    try:
        return transpose(rewritten), None
    except UnsupportedOpError as problem:
        return None, problem
