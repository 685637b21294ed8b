"""Ops that jump, quantise, or never read elements. Rows: id, op, moving, fixed, attributes, the rest of the case."""

# ruff: noqa: E501 - a table

import numpy as np


def cases(r, p, i):
    zero = {"expect": "zero"}
    whole = {"expect": "zero", "cast": True}
    scale, point = np.array(0.1, np.float32), np.array(3, np.uint8)
    one_hot_max = {"x": np.array([[1, 3, 2], [5, 4, 6]], np.float32)}
    return [
        *((name.lower(), name, {"a": r(2, 3), "b": r(3)}, {}, {}, whole) for name in ("Equal", "Greater", "Less")),
        *((name.lower(), name, {"a": r(2, 3), "b": r(3)}, {}, {}, whole) for name in ("GreaterOrEqual", "LessOrEqual")),
        ("is-nan", "IsNaN", {"x": r(2, 3)}, {}, {}, whole),
        ("is-inf", "IsInf", {"x": r(2, 3)}, {}, {"detect_negative": 0, "detect_positive": 1}, whole),
        *((name.lower(), name, {"x": 3 * r(2, 3) + 0.3}, {}, {}, zero) for name in ("Ceil", "Floor", "Round", "Sign")),
        ("hardmax", "Hardmax", one_hot_max, {}, {"axis": 1}, zero),
        ("arg-max", "ArgMax", {"x": r(2, 5)}, {}, {"axis": 1, "keepdims": 0, "select_last_index": 1}, whole),
        ("arg-min", "ArgMin", {"x": r(2, 5)}, {}, {"axis": 1, "keepdims": 1, "select_last_index": 0}, whole),
        ("non-zero", "NonZero", {"x": r(2, 3)}, {}, {}, whole),
        ("suppression", "NonMaxSuppression", {"b": np.sort(p(1, 5, 4), -1), "s": p(1, 2, 5)}, {"k": i(3), "t": np.array([0.5], np.float32), "u": np.array([0.1], np.float32)}, {"center_point_box": 0}, whole),
        ("suppression-thresholds", "NonMaxSuppression", {"t": np.array([0.5], np.float32), "u": np.array([0.1], np.float32)}, {"b": np.sort(p(1, 5, 4), -1), "s": p(1, 2, 5), "k": i(3)}, {}, {**whole, "order": ["b", "s", "k", "t", "u"]}),
        ("shape", "Shape", {"x": r(2, 3)}, {}, {"start": 0, "end": 2}, whole),
        ("size", "Size", {"x": r(2, 3)}, {}, {}, whole),
        ("eye-like", "EyeLike", {"x": r(3, 3)}, {}, {"k": 1, "dtype": 1}, zero),
        ("quantize", "QuantizeLinear", {"x": r(2, 3)}, {"s": scale, "z": point}, {"axis": 1}, whole),
        ("quantize-scale", "QuantizeLinear", {"s": scale}, {"x": r(2, 3), "z": point}, {}, {**whole, "order": ["x", "s", "z"]}),
        ("dequantize-scale", "DequantizeLinear", {"s": scale}, {"x": np.array([[1, 9, 200]], np.uint8), "z": point}, {"axis": 1}, {"order": ["x", "s", "z"], "opset": 19, "expect": "next"}),
        ("dynamic-quantize", "DynamicQuantizeLinear", {"x": r(2, 3)}, {}, {}, {"outputs": 3, **whole}),
        ("dynamic-quantize-scale", "DynamicQuantizeLinear", {"x": r(2, 3)}, {}, {}, {"outputs": 3, "wanted": 1, "expect": "next", "reference": lambda x: (max(x.max(), 0) - min(x.min(), 0)) / 255}),
        ("dynamic-quantize-zero", "DynamicQuantizeLinear", {"x": r(2, 3)}, {}, {}, {"outputs": 3, "wanted": 2, **whole}),
        ("qlinear-conv", "QLinearConv", {"a": np.array(0.13, np.float32), "b": np.array(0.17, np.float32), "c": np.array(1.9, np.float32)}, {"x": np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4), "z": point, "w": np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3)}, {"group": 1, "kernel_shape": [3, 3]}, {**whole, "order": ["x", "a", "z", "w", "b", "z", "c", "z"]}),
        ("qlinear-matmul", "QLinearMatMul", {"a": np.array(0.13, np.float32), "b": np.array(0.17, np.float32), "c": np.array(1.9, np.float32)}, {"x": np.arange(6, dtype=np.uint8).reshape(2, 3), "z": point, "w": np.arange(6, dtype=np.uint8).reshape(3, 2)}, {}, {**whole, "order": ["x", "a", "z", "w", "b", "z", "c", "z"]}),
    ]  # fmt: skip
