"""Every other rule against float64 central differences on onnx's reference evaluator, over forms and opsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

_RANDOM = np.random.default_rng(11)


def _r(*shape: int) -> np.ndarray:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def _p(*shape: int) -> np.ndarray:
    return (np.abs(_RANDOM.standard_normal(shape)) + 0.5).astype(np.float32)


def _i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# id, op, moving inputs, fixed inputs, attributes, the rest of the case
# ruff: noqa: E501 - a table
CASES = [
    # arithmetic
    ("add", "Add", {"a": _r(2, 3, 4), "b": _r(2, 3, 4)}, {}, {}, {}),
    ("add-broadcast", "Add", {"a": _r(2, 3, 4), "b": _r(4)}, {}, {}, {}),
    ("add-small-moves", "Add", {"a": _r(3, 1)}, {"b": _r(2, 3, 4)}, {}, {}),
    ("sub", "Sub", {"a": _r(3, 1), "b": _r(2, 3, 4)}, {}, {}, {}),
    ("sub-constant-first", "Sub", {"b": _r(3, 4)}, {"a": _r(4)}, {}, {"order": ["a", "b"]}),
    ("mul", "Mul", {"a": _r(2, 3, 4), "b": _r(2, 3, 4)}, {}, {}, {}),
    ("mul-broadcast", "Mul", {"a": _r(2, 3, 1, 1), "b": _r(2, 3, 4, 4)}, {}, {}, {}),
    ("mul-small-moves", "Mul", {"a": _r(4)}, {"b": _r(2, 3, 4)}, {}, {}),
    ("div", "Div", {"a": _r(2, 3, 4), "b": _p(3, 4)}, {}, {}, {}),
    ("div-by-constant", "Div", {"a": _r(3, 4)}, {"b": _p(2, 3, 4)}, {}, {}),
    ("div-of-constant", "Div", {"b": _p(2, 3, 4)}, {"a": _r(4)}, {}, {"order": ["a", "b"]}),
    ("pow-2", "Pow", {"a": _r(2, 3)}, {"b": np.array(2, np.float32)}, {}, {}),
    ("pow-half", "Pow", {"a": _p(2, 3)}, {"b": np.array(0.5, np.float32)}, {}, {}),
    ("pow-tensor", "Pow", {"a": _p(2, 3)}, {"b": _r(3)}, {}, {}),
    ("pow-both", "Pow", {"a": _p(2, 3), "b": _r(3)}, {}, {}, {}),
    ("sum-3", "Sum", {"a": _r(2, 3), "b": _r(3), "c": _r(2, 1)}, {}, {}, {}),
    ("mean-3", "Mean", {"a": _r(2, 3), "b": _r(3), "c": _r(2, 1)}, {}, {}, {}),
    ("max", "Max", {"a": _r(2, 3, 4), "b": _r(3, 4), "c": _r(4)}, {}, {}, {}),
    ("min-old", "Min", {"a": _r(2, 3), "b": _r(2, 3)}, {}, {}, {"opset": 8}),
    ("max-constant", "Max", {"a": _r(2, 3)}, {"b": np.zeros(1, np.float32)}, {}, {}),
    ("where", "Where", {"a": _r(2, 3, 4), "b": _r(4)}, {"c": _r(3, 4) > 0}, {}, {"order": ["c", "a", "b"]}),
    ("where-one", "Where", {"a": _r(4)}, {"c": _r(3, 1) > 0, "b": _r(2, 3, 4)}, {}, {"order": ["c", "a", "b"]}),
    ("prelu", "PRelu", {"a": _r(2, 3, 4, 4)}, {"s": _p(3, 1, 1)}, {}, {}),
    # matrix products
    ("matmul-weight", "MatMul", {"a": _r(2, 5, 3)}, {"b": _r(3, 4)}, {}, {}),
    ("matmul-both", "MatMul", {"a": _r(2, 6, 5, 3), "b": _r(2, 6, 3, 4)}, {}, {}, {}),
    ("matmul-ranks", "MatMul", {"a": _r(5, 3), "b": _r(2, 3, 4)}, {}, {}, {}),
    ("matmul-row", "MatMul", {"a": _r(3), "b": _r(2, 3, 4)}, {}, {}, {}),
    ("matmul-column", "MatMul", {"a": _r(2, 5, 3), "b": _r(3)}, {}, {}, {}),
    ("matmul-dot", "MatMul", {"a": _r(3), "b": _r(3)}, {}, {}, {}),
    ("matmul-left-weight", "MatMul", {"b": _r(2, 3, 4)}, {"a": _r(5, 3)}, {}, {"order": ["a", "b"]}),
    ("gemm", "Gemm", {"a": _r(2, 3)}, {"b": _r(4, 3), "c": _r(4)}, {"alpha": 0.5, "beta": 2.0, "transB": 1}, {}),
    ("gemm-both", "Gemm", {"a": _r(3, 2), "b": _r(3, 4), "c": _r(4)}, {}, {"alpha": 0.5, "beta": 2.0, "transA": 1}, {}),
    ("gemm-old", "Gemm", {"a": _r(2, 3)}, {"b": _r(3, 4), "c": _r(4)}, {}, {"opset": 9}),
    ("gemm-b", "Gemm", {"b": _r(4, 3)}, {"a": _r(2, 3), "c": _r(4)}, {"transB": 1}, {"order": ["a", "b", "c"]}),
    ("einsum", "Einsum", {"a": _r(2, 5, 3), "b": _r(2, 4, 3)}, {}, {"equation": "bik,bjk->bij"}, {}),
    ("einsum-implicit", "Einsum", {"a": _r(5, 3)}, {"b": _r(3, 4)}, {"equation": "ik,kj"}, {}),
    # convolution and pooling
    ("conv", "Conv", {"x": _r(2, 4, 7, 6)}, {"w": _r(6, 2, 3, 3), "b": _r(6)}, {"group": 2, "strides": [2, 1], "pads": [1, 0, 1, 2]}, {}),
    ("conv-same", "Conv", {"x": _r(2, 3, 7, 6)}, {"w": _r(4, 3, 3, 3)}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {}),
    ("conv-dilated", "Conv", {"x": _r(2, 3, 9, 9)}, {"w": _r(4, 3, 3, 3)}, {"dilations": [2, 2]}, {}),
    ("conv-1d", "Conv", {"x": _r(2, 3, 9)}, {"w": _r(4, 3, 3)}, {}, {}),
    ("conv-transpose", "ConvTranspose", {"x": _r(2, 3, 4, 4)}, {"w": _r(3, 2, 3, 3), "b": _r(2)}, {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}, {}),
    ("average-pool", "AveragePool", {"x": _r(2, 3, 7, 7)}, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, {}),
    ("average-pool-count", "AveragePool", {"x": _r(2, 3, 7, 7)}, {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, {}),
    ("global-average", "GlobalAveragePool", {"x": _r(2, 3, 5, 4)}, {}, {}, {}),
    ("max-pool", "MaxPool", {"x": _r(2, 3, 7, 7)}, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, {}),
    ("max-pool-7", "MaxPool", {"x": _r(2, 3, 6, 6)}, {}, {"kernel_shape": [2, 2], "strides": [2, 2]}, {"opset": 7}),
    ("max-pool-ceil", "MaxPool", {"x": _r(2, 3, 6, 6)}, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, {}),
    ("global-max", "GlobalMaxPool", {"x": _r(2, 3, 5, 4)}, {}, {}, {}),
    ("lp-pool", "LpPool", {"x": _r(2, 3, 6, 6)}, {}, {"kernel_shape": [2, 2], "strides": [2, 2], "p": 3}, {}),
    # layout
    ("reshape", "Reshape", {"x": _r(2, 3, 4)}, {"s": _i(0, -1, 2)}, {}, {}),
    ("reshape-allowzero", "Reshape", {"x": _r(2, 3, 4)}, {"s": _i(4, 6)}, {"allowzero": 1}, {}),
    ("flatten", "Flatten", {"x": _r(2, 3, 4)}, {}, {"axis": 2}, {}),
    ("flatten-0", "Flatten", {"x": _r(2, 3, 4)}, {}, {"axis": 0}, {}),
    ("transpose", "Transpose", {"x": _r(2, 3, 4)}, {}, {"perm": [2, 0, 1]}, {}),
    ("transpose-default", "Transpose", {"x": _r(2, 3, 4)}, {}, {}, {}),
    ("squeeze-7", "Squeeze", {"x": _r(2, 1, 4)}, {}, {"axes": [1]}, {"opset": 7}),
    ("squeeze-13", "Squeeze", {"x": _r(2, 1, 4)}, {"a": _i(-2)}, {}, {}),
    ("unsqueeze-7", "Unsqueeze", {"x": _r(2, 4)}, {}, {"axes": [0, 2]}, {"opset": 7}),
    ("unsqueeze-13", "Unsqueeze", {"x": _r(2, 4)}, {"a": _i(-1)}, {}, {}),
    ("concat", "Concat", {"a": _r(2, 3), "b": _r(2, 4)}, {"c": _r(2, 2)}, {"axis": -1}, {}),
    ("concat-0", "Concat", {"a": _r(2, 3), "b": _r(4, 3)}, {}, {"axis": 0}, {}),
    ("split-7", "Split", {"x": _r(2, 6)}, {}, {"axis": 1, "split": [2, 4]}, {"outputs": 2, "opset": 7}),
    ("split-13", "Split", {"x": _r(2, 6)}, {"s": _i(2, 4)}, {"axis": -1}, {"outputs": 2}),
    ("split-18", "Split", {"x": _r(2, 6)}, {}, {"axis": 1, "num_outputs": 3}, {"outputs": 3, "opset": 18}),
    ("slice-7", "Slice", {"x": _r(5, 6)}, {}, {"starts": [1, -4], "ends": [4, 99], "axes": [0, 1]}, {"opset": 7}),
    ("slice-10", "Slice", {"x": _r(5, 6)}, {"s": _i(4, 0), "e": _i(-99, 5), "a": _i(-2, 1), "k": _i(-2, 2)}, {}, {}),
    ("slice-no-axes", "Slice", {"x": _r(5, 6)}, {"s": _i(1, 2), "e": _i(4, 5)}, {}, {}),
    ("gather", "Gather", {"x": _r(3, 5)}, {"i": np.array([[0, 2], [-1, 3]], np.int64)}, {"axis": 1}, {}),
    ("gather-scalar", "Gather", {"x": _r(3, 5)}, {"i": np.array(2, np.int64)}, {"axis": -1}, {}),
    ("gather-elements", "GatherElements", {"x": _r(3, 4)}, {"i": np.array([[0, 2], [1, 1], [3, 0]], np.int64)}, {"axis": 1}, {}),
    ("gather-nd", "GatherND", {"x": _r(2, 3, 4)}, {"i": np.array([[[1, 0]], [[2, 3]]], np.int64)}, {"batch_dims": 1}, {}),
    ("scatter-elements", "ScatterElements", {"x": _r(3, 4), "u": _r(2, 4)}, {"i": np.array([[0, 1, 2, 0], [2, 0, 0, 1]], np.int64)}, {"axis": 0}, {"order": ["x", "i", "u"]}),
    ("scatter-nd", "ScatterND", {"x": _r(3, 4), "u": _r(2, 4)}, {"i": np.array([[2], [0]], np.int64)}, {}, {"order": ["x", "i", "u"]}),
    ("scatter-nd-data-fixed", "ScatterND", {"u": _r(2)}, {"x": _r(3, 4), "i": np.array([[2, 1], [0, 3]], np.int64)}, {}, {"order": ["x", "i", "u"]}),
    ("pad-7", "Pad", {"x": _r(2, 3, 4, 4)}, {}, {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 3.0}, {"opset": 7}),
    ("pad-11", "Pad", {"x": _r(2, 3, 4)}, {"p": _i(0, 1, 2, 0, 0, 1), "v": np.array(3, np.float32)}, {}, {}),
    ("pad-reflect", "Pad", {"x": _r(2, 3, 4)}, {"p": _i(0, 0, 2, 0, 0, 1)}, {"mode": "reflect"}, {}),
    ("pad-edge", "Pad", {"x": _r(2, 3, 4)}, {"p": _i(0, 1, 2, 0, 0, 1)}, {"mode": "edge"}, {}),
    ("pad-axes", "Pad", {"x": _r(2, 3, 4)}, {"p": _i(2, 1), "a": _i(-1)}, {}, {"opset": 18, "order": ["x", "p", "", "a"]}),
    ("tile", "Tile", {"x": _r(2, 3)}, {"r": _i(2, 3)}, {}, {}),
    ("expand", "Expand", {"x": _r(3, 1)}, {"s": _i(2, 3, 4)}, {}, {}),
    ("depth-to-space", "DepthToSpace", {"x": _r(2, 8, 3, 3)}, {}, {"blocksize": 2, "mode": "CRD"}, {}),
    ("space-to-depth", "SpaceToDepth", {"x": _r(2, 3, 4, 4)}, {}, {"blocksize": 2}, {}),
    ("resize-linear", "Resize", {"x": _r(2, 3, 4, 5)}, {"k": np.array([1, 1, 2, 1.6], np.float32)}, {"mode": "linear"}, {"order": ["x", "", "k"]}),
    ("resize-sizes", "Resize", {"x": _r(2, 3, 4, 5)}, {"k": _i(2, 3, 7, 8)}, {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, {"order": ["x", "", "", "k"]}),
    ("resize-cubic", "Resize", {"x": _r(2, 3, 6, 5)}, {"k": np.array([1, 1, 2, 2], np.float32)}, {"mode": "cubic"}, {"order": ["x", "", "k"]}),
    ("cumsum", "CumSum", {"x": _r(2, 5)}, {"a": np.array(-1, np.int64)}, {"exclusive": 1}, {}),
    ("trilu", "Trilu", {"x": _r(2, 4, 4)}, {}, {"upper": 0}, {}),
    ("grid-sample", "GridSample", {"x": _r(2, 3, 5, 5)}, {"g": np.tanh(_r(2, 4, 4, 2))}, {}, {"opset": 16}),
    ("reverse-sequence", "ReverseSequence", {"x": _r(4, 3, 2)}, {"l": _i(2, 4, 1)}, {}, {}),
    ("compress", "Compress", {"x": _r(3, 4)}, {"c": np.array([True, False, True])}, {"axis": 0}, {}),
    ("identity", "Identity", {"x": _r(2, 3)}, {}, {}, {}),
    ("dropout", "Dropout", {"x": _r(2, 3)}, {}, {}, {}),
    # reductions
    ("reduce-max", "ReduceMax", {"x": _r(2, 3, 4)}, {}, {"axes": [1], "keepdims": 0}, {}),
    ("reduce-min-all", "ReduceMin", {"x": _r(2, 3, 4)}, {}, {}, {}),
    ("reduce-max-18", "ReduceMax", {"x": _r(2, 3, 4)}, {"a": _i(-1)}, {"keepdims": 0}, {"opset": 18}),
    ("reduce-prod", "ReduceProd", {"x": _p(2, 3)}, {}, {"axes": [1]}, {}),
    ("top-k", "TopK", {"x": _r(3, 6)}, {"k": _i(2)}, {"axis": 1}, {"outputs": 2}),
    # normalisation
    ("softmax-13", "Softmax", {"x": _r(2, 3, 4)}, {}, {"axis": 1}, {}),
    ("log-softmax-13", "LogSoftmax", {"x": _r(2, 3, 4)}, {}, {}, {}),
    ("layer-norm", "LayerNormalization", {"x": _r(2, 3, 8)}, {"s": _p(8), "b": _r(8)}, {}, {}),
    ("layer-norm-axes", "LayerNormalization", {"x": _r(2, 3, 8)}, {"s": _p(3, 8)}, {"axis": 1, "epsilon": 1e-3}, {}),
    ("rms-norm", "RMSNormalization", {"x": _r(2, 3, 8)}, {"s": _p(8)}, {}, {"opset": 23}),
    ("batch-norm", "BatchNormalization", {"x": _r(2, 3, 4, 4)}, {"s": _p(3), "b": _r(3), "m": _r(3), "v": _p(3)}, {}, {}),
    ("instance-norm", "InstanceNormalization", {"x": _r(2, 3, 4, 4)}, {"s": _p(3), "b": _r(3)}, {}, {}),
    ("lp-norm", "LpNormalization", {"x": _r(2, 5)}, {}, {"axis": 1}, {}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_rule_is_exact(check_exact, make_case, case):
    _, op, moving, fixed, attributes, extra = case
    check_exact(make_case(op, moving, fixed, attributes, **extra))


def _softmax_flattened(axis: int):
    def function(x: np.ndarray) -> np.ndarray:
        flat = x.reshape(int(np.prod(x.shape[:axis])), -1)
        grown = np.exp(flat - flat.max(axis=1, keepdims=True))
        return (grown / grown.sum(axis=1, keepdims=True)).reshape(x.shape)

    return function


def _normalised(axes: tuple[int, ...], epsilon: float):
    def function(x: np.ndarray) -> np.ndarray:
        return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)

    return function


def _group_norm(x: np.ndarray) -> np.ndarray:
    grouped = _normalised((2,), 1e-5)(x.reshape(2, 2, -1)).reshape(x.shape)
    return grouped * np.arange(1, 7).reshape(6, 1, 1)


def _lrn(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x**2, [(0, 0), (2, 2), (0, 0), (0, 0)])
    window = sum(padded[:, i : i + x.shape[1]] for i in range(5))
    return x / (2.0 + 0.5 / 5 * window) ** 0.75


# Forms that onnx's reference evaluator computes in float32, by another opset's definition, or not at all.
BY_FORMULA = [
    ("softmax-11", "Softmax", _r(2, 3, 4), {}, {"axis": 1}, 11, _softmax_flattened(1)),
    ("softmax-7", "Softmax", _r(2, 3, 4), {}, {"axis": 2}, 7, _softmax_flattened(2)),
    ("softmax-default-11", "Softmax", _r(2, 3, 4), {}, {}, 11, _softmax_flattened(1)),
    ("log-softmax-11", "LogSoftmax", _r(2, 3, 4), {}, {"axis": 1}, 11, lambda x: np.log(_softmax_flattened(1)(x))),
    ("upsample-7", "Upsample", _r(2, 3, 4, 5), {}, {"scales": [1.0, 1.0, 2.0, 3.0]}, 7, lambda x: x.repeat(2, 2).repeat(3, 3)),
    ("mvn", "MeanVarianceNormalization", _r(2, 3, 4, 4), {}, {}, 13, _normalised((0, 2, 3), 0.0)),
    ("group-norm", "GroupNormalization", _r(2, 6, 3, 3), {"s": np.arange(1, 7, dtype=np.float32), "b": _r(6)}, {"num_groups": 2}, 21, _group_norm),
    ("lrn", "LRN", _r(2, 6, 3, 3), {}, {"size": 5, "alpha": 0.5, "beta": 0.75, "bias": 2.0}, 13, _lrn),
]  # fmt: skip


@pytest.mark.parametrize("case", BY_FORMULA, ids=lambda case: case[0])
def test_rule_agrees_with_its_formula(check_exact, make_case, of_numpy, case):
    _, op, x, fixed, attributes, opset, function = case
    check_exact(make_case(op, {"x": x}, fixed, attributes, opset=opset), reference=of_numpy(function, {"x": x}))


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
