"""Families of rules over random shapes, axes and attributes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def _i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    "op",
    ["ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"],
)
@settings(max_examples=5)
@given(seed=st.integers(0, 10**6), opset=st.sampled_from([11, 13, 18]), keep=st.booleans())
def test_reductions(check_exact, make_case, op, seed, opset, keep):
    random = np.random.default_rng(seed)
    rank = int(random.integers(1, 5))
    x = (random.random(tuple(random.integers(1, 5, rank))) + 0.5).astype(np.float32)
    axes = sorted(random.choice(rank, int(random.integers(1, rank + 1)), replace=False).tolist())
    axes = [axis - rank if random.random() < 0.3 else axis for axis in axes]
    if opset >= (13 if op == "ReduceSum" else 18):
        check_exact(make_case(op, {"x": x}, {"a": _i(*axes)}, {"keepdims": int(keep)}, opset=opset))
    else:
        check_exact(make_case(op, {"x": x}, {}, {"keepdims": int(keep), "axes": axes}, opset=opset))


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_convolutions(check_exact, make_case, seed):
    random = np.random.default_rng(seed)
    group = int(random.choice([1, 1, 2, 4]))
    channels, out = 4 * int(random.integers(1, 3)), 4 * int(random.integers(1, 3))
    kernel = random.integers(1, 4, 2).tolist()
    attributes = {
        "group": group,
        "strides": random.integers(1, 3, 2).tolist(),
        "dilations": random.integers(1, 3, 2).tolist(),
        "pads": random.integers(0, 2, 4).tolist(),
    }
    x = random.standard_normal((2, channels, *random.integers(6, 9, 2))).astype(np.float32)
    w = random.standard_normal((out, channels // group, *kernel)).astype(np.float32)
    check_exact(make_case("Conv", {"x": x}, {"w": w}, attributes))


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_products_broadcast_like_numpy(check_exact, make_case, seed):
    random = np.random.default_rng(seed)
    batch = random.integers(1, 4, int(random.integers(0, 3))).tolist()
    shrink = [1 if random.random() < 0.4 else size for size in batch][int(random.integers(0, len(batch) + 1)) :]
    m, k, n = random.integers(1, 6, 3).tolist()
    a = random.standard_normal((*batch, m, k)).astype(np.float32)
    b = random.standard_normal((*shrink, k, n)).astype(np.float32)
    check_exact(make_case("MatMul", {"a": a, "b": b}))


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), op=st.sampled_from(["Add", "Sub", "Mul", "Div"]))
def test_arithmetic_broadcasts_like_numpy(check_exact, make_case, seed, op):
    random = np.random.default_rng(seed)
    full = random.integers(1, 4, int(random.integers(1, 5))).tolist()
    shapes = []
    for _ in range(2):
        cut = int(random.integers(0, len(full) + 1))
        shapes.append([1 if random.random() < 0.3 else size for size in full[cut:]])
    a, b = (np.asarray(random.random(shape) + 0.5, np.float32) for shape in shapes)
    if random.random() < 0.5:
        check_exact(make_case(op, {"a": a, "b": b}))
    else:
        check_exact(make_case(op, {"a": a}, {"b": b}))
