"""The tangent of every op, operand, output and form against float64 differences of onnx's reference, or a formula."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lieaudit.errors import UnsupportedOpError
from lieaudit.graph.forward import measure_shapes, rewrite
from lieaudit.ops import OPS
from lieaudit.ops.op import INTEGER_RULE

EXACT = 3e-6
"""Float32 rounding of a handful of operations."""
WRITTEN_OUT = 1e-5
"""Of the dozen operations of a function body."""
DIFFERENCE = 2e-3
"""Truncation and rounding of the generic central difference: 1e-4 of the op's scale, of which dy may be a part."""


def _case(harness, row):
    _, op, moving, fixed, attributes, extra = row
    extra = dict(extra)
    expect, reference = extra.pop("expect", "exact"), extra.pop("reference", None)
    extra.pop("tolerance", None)
    case = harness.Case(op, moving, fixed, attributes, **extra)
    return case, expect, None if reference is None else harness.numpy_derivative(reference, moving)


def _applied(case):
    model = ir.from_proto(case.model())
    measure_shapes(model, feeds=case.moving)
    return rewrite(model).applied


@pytest.mark.parametrize("unroll", [False, True], ids=["stacked", "unrolled"])
def test_tangent(harness, op_case, unroll):
    case, expect, reference = _case(harness, op_case)
    if expect == "refused":
        with pytest.raises(UnsupportedOpError, match=f"{case.op} 'y'"):
            _applied(case)
        return
    applied = _applied(case)
    made, expected = harness.derivatives(case, unroll=unroll, reference=reference)
    assert np.all(np.isfinite(made))
    scale = float(np.linalg.norm(expected))
    if expect == "zero":
        assert scale == 0
        assert not made.any()
        return
    assert scale > 0
    own = [a for a in applied if a.op == case.op]
    inexact = [a for a in applied if not a.exact]
    if expect == "exact":
        assert own
        assert not inexact
        assert all(a.differentiable for a in own)
        tolerance = EXACT
    else:
        # the op's own rule must not be what was used: its body, or a difference that says why
        assert not [a for a in own if a.exact and a.rule == OPS["", case.op].tangent.name]
        assert all(", because " in a.note for a in inexact if a.op == case.op)
        tolerance = DIFFERENCE if inexact else WRITTEN_OUT
    assert np.linalg.norm(made - expected) / scale < (op_case[5].get("tolerance") or tolerance)


def _schema(op, opset):
    try:
        return onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None


def _floats(schema, formal):
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return any("float)" in t for t in allowed.get(formal.type_str, [formal.type_str]))


def _rows(op_cases, op):
    return [row for row in op_cases if row[1] == op]


DIFFERENTIATED = sorted(o.name for o in OPS.values() if not o.domain and o.tangent is not None)


@pytest.mark.parametrize("op", DIFFERENTIATED)
def test_every_operand_and_output_has_a_case(op_cases, op):
    """The table may not say more, or less, than has been compared."""
    rows = _rows(op_cases, op)
    rule = OPS["", op].tangent
    if rule.operands == () and op in _NOTHING_TO_COMPARE:
        return
    assert rows
    newest = _schema(op, max(row[5].get("opset", 17) for row in rows))
    moved = {name: row for row in rows for name in _positions(row)}
    for i, formal in enumerate(newest.inputs):
        if _floats(newest, formal):
            assert i in moved, f"no case moves input {i} ({formal.name})"
            found = {row[5].get("expect", "exact") for row in rows if i in _positions(row)}
            covered = i in rule.operands
            inexact = found <= {"next", "refused", "zero"}
            assert covered or inexact, f"input {i} is not covered, and a case says it is exact"
            zero = i in rule.steps or i in rule.ignored
            assert not zero or found <= {"zero", "next"}, f"input {i} has no tangent, and a case says it has"
    wanted = {row[5].get("wanted", 0) for row in rows}
    for i, formal in enumerate(newest.outputs):
        if _floats(newest, formal) and (op, i) not in _UNSTEADY:
            assert i in wanted, f"no case reads output {i} ({formal.name})"


@pytest.mark.parametrize("op", DIFFERENTIATED)
def test_every_attribute_has_a_case(op_cases, op):
    rows = _rows(op_cases, op)
    if op in _NOTHING_TO_COMPARE:
        return
    newest = _schema(op, max(row[5].get("opset", 17) for row in rows))
    given = {name for row in rows for name in row[4]}
    missing = set(newest.attributes) - given - _WITHOUT_EFFECT.get(op, set())
    assert not missing, f"no case gives {op} the attributes {sorted(missing)}"


def test_every_case_is_of_an_op_in_the_table(op_cases):
    assert {row[1] for row in op_cases} <= {o.name for o in OPS.values() if not o.domain}
    names = [row[0] for row in op_cases]
    assert len(names) == len(set(names))


def test_integers_and_steps_are_told_apart():
    """Integer outputs are said to be such; floats that jump are said not to be differentiable."""
    for op in OPS.values():
        rule = op.tangent
        if rule is not None and rule.apply is None and not op.shape_only and not op.domain:
            assert rule.name == INTEGER_RULE or not rule.differentiable


def _positions(row):
    """Return the indices of the moving inputs."""
    order = row[5].get("order") or [*row[2], *row[3]]
    return {i for i, name in enumerate(order) if name in row[2]}


_NOTHING_TO_COMPARE = {
    # no operand of floats
    "And", "BitShift", "ConstantOfShape", "ConvInteger", "MatMulInteger", "Not", "Or", "Xor",
    # random: two runs differ
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}  # fmt: skip
_UNSTEADY = {("BatchNormalization", 1), ("BatchNormalization", 2)}
"""onnxruntime writes the running statistics over its own input: they differ from run to run."""

_WITHOUT_EFFECT = {
    # its output is made of integers
    "QLinearConv": {"auto_pad", "dilations", "pads", "strides"},
}
