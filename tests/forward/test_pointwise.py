"""Every pointwise rule against float64 central differences on onnx's reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lieaudit.graph.forward import measure_shapes, rewrite
from lieaudit.ops import OPS

_ELSEWHERE = {"Clip", "PRelu"}
_SLOPES = [o.name for o in OPS.values() if o.tangent is not None and o.tangent.name == "pointwise"]
_OPSET = {"Gelu": 20, "HardSwish": 14, "Mish": 18, "Swish": 24}
_ATTRIBUTES = {
    "LeakyRelu": [{"alpha": 0.2}],
    "ThresholdedRelu": [{"alpha": 0.3}],
    "Shrink": [{"lambd": 0.4, "bias": 0.1}],
    "Elu": [{"alpha": 1.3}],
    "Selu": [{"alpha": 1.5, "gamma": 1.1}],
    "Celu": [{"alpha": 0.7}],
    "HardSigmoid": [{"alpha": 0.3, "beta": 0.4}],
    "Swish": [{"alpha": 1.7}],
    "Gelu": [{"approximate": "tanh"}],
}
_POSITIVE = {"Log", "Sqrt"}
_UNIT = {"Asin", "Acos", "Atanh"}
_ABOVE_ONE = {"Acosh"}
_CASES = [(op, form) for op in _SLOPES if op not in _ELSEWHERE for form in [{}, *_ATTRIBUTES.get(op, [])]]


def _torch(op: str, x: np.ndarray):
    """onnx's reference computes the error function in float32 whatever it is given: torch in float64 instead."""
    torch = pytest.importorskip("torch")
    functions = {"Gelu": torch.nn.functional.gelu, "Erf": torch.special.erf}

    def derivative(directions):
        point = torch.tensor(x, dtype=torch.float64)
        return np.stack(
            [torch.func.jvp(functions[op], (point,), (torch.tensor(v).double(),))[1].numpy() for v in directions["x"]]
        )

    return derivative


def _input(op: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape)
    # away from kinks: the reference takes a difference of 1e-6
    x = np.where(np.abs(x) < 1e-3, 0.5, x)
    if op in _POSITIVE:
        x = np.abs(x) + 0.1
    if op == "Reciprocal":
        x = np.sign(x) * (np.abs(x) + 0.2)
    if op in _UNIT:
        x = np.tanh(x) * 0.9
    if op in _ABOVE_ONE:
        x = np.abs(x) + 1.1
    if op == "Tan":
        x = np.tanh(x)
    return x.astype(np.float32)


@pytest.mark.parametrize(("op", "attributes"), _CASES, ids=lambda v: v if isinstance(v, str) else str(sorted(v)))
def test_slope_is_exact(check_exact, make_case, op, attributes):
    for seed, shape in enumerate([(2, 3, 4, 5), (7,)]):
        x = _input(op, shape, seed)
        case = make_case(op, {"x": x}, attributes=attributes, opset=_OPSET.get(op, 17))
        check_exact(case, reference=_torch(op, x) if op in {"Gelu", "Erf"} and not attributes else None)


@pytest.mark.parametrize(
    ("op", "slope"),
    [
        # onnxruntime's own y: its Sigmoid errs where it is small, and the slope errs alike
        ("Sigmoid", lambda x, y: y / (1 + np.exp(x))),
        ("Tanh", lambda x, _y: 1 / np.cosh(x) ** 2),
        ("Softplus", lambda x, _y: 1 / (1 + np.exp(-x))),
    ],
)
def test_slopes_of_saturated_units_are_exact(make_case, run_rewritten, op, slope):
    """A unit that a maximum picks is often a saturated one, and its slope is then all that is left."""
    x = np.append(np.linspace(-40, 40, 799), [-200, 200]).astype(np.float32)
    model = ir.from_proto(make_case(op, {"x": x}).model())
    measure_shapes(model, feeds={"x": x})
    y, made = run_rewritten(rewrite(model), {"x": x, "x.tangent": np.ones((1, 801), np.float32)})
    # Exp of onnxruntime is right within one unit in the last place; a handful of roundings follow
    assert np.allclose(
        made[0, :-2], slope(x[:-2].astype(np.float64), y[:-2]), rtol=8 * np.finfo(np.float32).eps, atol=0
    )
    assert np.array_equal(made[0, -2:], [0, 1 if op == "Softplus" else 0])


@pytest.mark.parametrize("opset", [7, 10, 12, 13])
@pytest.mark.parametrize("bounds", [(0.0, 6.0), (-1.0, None), (None, 0.5), (-0.7, 0.2)])
def test_clip_in_every_form(check_exact, make_case, opset, bounds):
    x = _input("Clip", (2, 3, 4, 4), 3) * np.float32(3)
    low, high = bounds
    if opset < 11:
        named = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
        check_exact(make_case("Clip", {"x": x}, attributes=named, opset=opset))
        return
    fixed = {k: np.float32(v) for k, v in (("lo", low), ("hi", high)) if v is not None}
    order = ["x", "lo" if low is not None else "", *(["hi"] if high is not None else [])]
    check_exact(make_case("Clip", {"x": x}, fixed={k: np.array(v) for k, v in fixed.items()}, order=order, opset=opset))


@settings(max_examples=8)
@given(seed=st.integers(0, 1000), opset=st.sampled_from([7, 8, 9, 14]), rank=st.integers(1, 5))
def test_relu_over_ranks_and_opsets(check_exact, make_case, seed, opset, rank):
    shape = tuple(np.random.default_rng(seed).integers(1, 4, rank))
    check_exact(make_case("Relu", {"x": _input("Relu", shape, seed)}, opset=opset))
