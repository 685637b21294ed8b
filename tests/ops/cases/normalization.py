"""Normalisations. Rows: id, op, moving inputs, fixed inputs, attributes, the rest of the case."""

# ruff: noqa: E501 - a table

import numpy as np


def normalised(axes, epsilon):
    return lambda x: (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def group_norm(x):
    grouped = normalised((2,), 1e-5)(x.reshape(2, 2, -1)).reshape(x.shape)
    return grouped * np.arange(1, 7).reshape(6, 1, 1)


def lrn(x):
    padded = np.pad(x**2, [(0, 0), (2, 2), (0, 0), (0, 0)])
    window = sum(padded[:, i : i + x.shape[1]] for i in range(5))
    return x / (2.0 + 0.5 / 5 * window) ** 0.75


def cases(r, p, i):
    return [
        ("layer-norm", "LayerNormalization", {"x": r(2, 3, 8)}, {"s": p(8), "b": r(8)}, {}, {}),
        ("layer-norm-axes", "LayerNormalization", {"x": r(2, 3, 8)}, {"s": p(3, 8)}, {"axis": 1, "epsilon": 1e-3}, {}),
        ("rms-norm", "RMSNormalization", {"x": r(2, 3, 8)}, {"s": p(8)}, {}, {"opset": 23}),
        ("batch-norm", "BatchNormalization", {"x": r(2, 3, 4, 4)}, {"s": p(3), "b": r(3), "m": r(3), "v": p(3)}, {}, {}),
        ("instance-norm", "InstanceNormalization", {"x": r(2, 3, 4, 4)}, {"s": p(3), "b": r(3)}, {}, {}),
        ("lp-norm", "LpNormalization", {"x": r(2, 5)}, {}, {"axis": 1}, {}),
        ("layer-norm-mean", "LayerNormalization", {"x": r(2, 3, 8)}, {"s": p(8), "b": r(8)}, {}, {"outputs": 3, "wanted": 1, "expect": "next"}),
        ("layer-norm-spread", "LayerNormalization", {"x": r(2, 3, 8)}, {"s": p(8)}, {"stash_type": 1}, {"outputs": 3, "wanted": 2, "expect": "next"}),
        ("layer-norm-scale", "LayerNormalization", {"s": p(8)}, {"x": r(2, 3, 8), "b": r(8)}, {}, {"order": ["x", "s", "b"], "expect": "next"}),
        ("layer-norm-offset", "LayerNormalization", {"x": r(2, 3, 8), "b": r(8)}, {"s": p(8)}, {}, {"order": ["x", "s", "b"], "expect": "next"}),
        ("rms-norm-scale", "RMSNormalization", {"x": r(2, 3, 8), "s": p(8)}, {}, {"axis": -1, "epsilon": 1e-3, "stash_type": 1}, {"opset": 23, "expect": "next"}),
        ("batch-norm-training", "BatchNormalization", {"x": r(2, 3, 4)}, {"s": p(3), "b": r(3), "m": r(3), "v": p(3)}, {"training_mode": 1}, {"outputs": 3, "expect": "next"}),
        ("batch-norm-all", "BatchNormalization", {"x": r(2, 3, 4, 2), "s": p(3), "b": r(3), "m": r(3), "v": p(3)}, {}, {"epsilon": 1e-3}, {}),
        ("batch-norm-rank-2", "BatchNormalization", {"x": r(2, 3), "v": p(3), "m": r(3)}, {"s": p(3), "b": r(3)}, {}, {"order": ["x", "s", "b", "m", "v"]}),
        ("batch-norm-scale", "BatchNormalization", {"s": p(3)}, {"x": r(2, 3, 4), "b": r(3), "m": r(3), "v": p(3)}, {"momentum": 0.8, "epsilon": 1e-3}, {"order": ["x", "s", "b", "m", "v"]}),
        ("batch-norm-offset", "BatchNormalization", {"b": r(3)}, {"x": r(2, 3, 4), "s": p(3), "m": r(3), "v": p(3)}, {}, {"order": ["x", "s", "b", "m", "v"]}),
        ("batch-norm-mean", "BatchNormalization", {"m": r(3)}, {"x": r(2, 3, 4), "s": p(3), "b": r(3), "v": p(3)}, {}, {"order": ["x", "s", "b", "m", "v"]}),
        ("batch-norm-variance", "BatchNormalization", {"v": p(3)}, {"x": r(2, 3, 4), "s": p(3), "b": r(3), "m": r(3)}, {}, {"order": ["x", "s", "b", "m", "v"]}),
        ("instance-norm-scale", "InstanceNormalization", {"s": p(3)}, {"x": r(2, 3, 4), "b": r(3)}, {"epsilon": 1e-3}, {"order": ["x", "s", "b"], "expect": "next"}),
        ("instance-norm-offset", "InstanceNormalization", {"b": r(3)}, {"x": r(2, 3, 4), "s": p(3)}, {}, {"order": ["x", "s", "b"], "expect": "next"}),
        ("lp-norm-1", "LpNormalization", {"x": r(2, 5)}, {}, {"p": 1}, {"reference": lambda x: x / np.abs(x).sum(1, keepdims=True)}),
        ("mvn-axes", "MeanVarianceNormalization", {"x": r(2, 3, 4, 4)}, {}, {"axes": [2, 3]}, {"reference": normalised((2, 3), 0.0)}),
        ("group-norm", "GroupNormalization", {"x": r(2, 6, 3, 3)}, {"s": np.arange(1, 7, dtype=np.float32), "b": r(6)}, {"num_groups": 2}, {"opset": 21, "reference": group_norm}),
        ("group-norm-scale", "GroupNormalization", {"s": p(6)}, {"x": r(2, 6, 3, 3), "b": r(6)}, {"num_groups": 2, "epsilon": 1e-3, "stash_type": 1}, {"opset": 21, "order": ["x", "s", "b"], "expect": "next"}),
        ("group-norm-offset", "GroupNormalization", {"b": p(6)}, {"x": r(2, 6, 3, 3), "s": p(6)}, {"num_groups": 2}, {"opset": 21, "order": ["x", "s", "b"], "expect": "next"}),
        ("mvn", "MeanVarianceNormalization", {"x": r(2, 3, 4, 4)}, {}, {}, {"reference": normalised((0, 2, 3), 0.0)}),
        ("lrn", "LRN", {"x": r(2, 6, 3, 3)}, {}, {"size": 5, "alpha": 0.5, "beta": 0.75, "bias": 2.0}, {"reference": lrn}),
    ]  # fmt: skip
