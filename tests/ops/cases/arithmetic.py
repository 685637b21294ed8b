"""Sums, products and choices of several tensors. Rows: id, op, moving inputs, fixed inputs, attributes, the rest of the case."""

# ruff: noqa: E501 - a table

import numpy as np


def crossed(x, low, high):
    """The standard's definition where the bounds cross: the upper one."""
    return np.minimum(high, np.maximum(x, low))


def cases(r, p, i):
    return [
        ("add", "Add", {"a": r(2, 3, 4), "b": r(2, 3, 4)}, {}, {}, {}),
        ("add-broadcast", "Add", {"a": r(2, 3, 4), "b": r(4)}, {}, {}, {}),
        ("add-small-moves", "Add", {"a": r(3, 1)}, {"b": r(2, 3, 4)}, {}, {}),
        ("sub", "Sub", {"a": r(3, 1), "b": r(2, 3, 4)}, {}, {}, {}),
        ("sub-constant-first", "Sub", {"b": r(3, 4)}, {"a": r(4)}, {}, {"order": ["a", "b"]}),
        ("mul", "Mul", {"a": r(2, 3, 4), "b": r(2, 3, 4)}, {}, {}, {}),
        ("mul-broadcast", "Mul", {"a": r(2, 3, 1, 1), "b": r(2, 3, 4, 4)}, {}, {}, {}),
        ("mul-small-moves", "Mul", {"a": r(4)}, {"b": r(2, 3, 4)}, {}, {}),
        ("div", "Div", {"a": r(2, 3, 4), "b": p(3, 4)}, {}, {}, {}),
        ("div-by-constant", "Div", {"a": r(3, 4)}, {"b": p(2, 3, 4)}, {}, {}),
        ("div-of-constant", "Div", {"b": p(2, 3, 4)}, {"a": r(4)}, {}, {"order": ["a", "b"]}),
        ("pow-2", "Pow", {"a": r(2, 3)}, {"b": np.array(2, np.float32)}, {}, {}),
        ("pow-half", "Pow", {"a": p(2, 3)}, {"b": np.array(0.5, np.float32)}, {}, {}),
        ("pow-tensor", "Pow", {"a": p(2, 3)}, {"b": r(3)}, {}, {}),
        ("pow-both", "Pow", {"a": p(2, 3), "b": r(3)}, {}, {}, {}),
        ("sum-3", "Sum", {"a": r(2, 3), "b": r(3), "c": r(2, 1)}, {}, {}, {}),
        ("mean-3", "Mean", {"a": r(2, 3), "b": r(3), "c": r(2, 1)}, {}, {}, {}),
        ("max", "Max", {"a": r(2, 3, 4), "b": r(3, 4), "c": r(4)}, {}, {}, {}),
        ("min-old", "Min", {"a": r(2, 3), "b": r(2, 3)}, {}, {}, {"opset": 8}),
        ("max-constant", "Max", {"a": r(2, 3)}, {"b": np.zeros(1, np.float32)}, {}, {}),
        ("where", "Where", {"a": r(2, 3, 4), "b": r(4)}, {"c": r(3, 4) > 0}, {}, {"order": ["c", "a", "b"]}),
        ("where-one", "Where", {"a": r(4)}, {"c": r(3, 1) > 0, "b": r(2, 3, 4)}, {}, {"order": ["c", "a", "b"]}),
        ("prelu", "PRelu", {"a": r(2, 3, 4, 4)}, {"s": p(3, 1, 1)}, {}, {}),
        ("pow-none", "Pow", {"a": r(2, 3)}, {"b": np.array(0, np.float32)}, {}, {"expect": "zero"}),
        ("pow-zero-base", "Pow", {"b": p(2, 3)}, {"a": np.array([0, 1, 2], np.float32)}, {}, {"order": ["a", "b"]}),
        ("mod", "Mod", {"a": 5 * r(2, 3, 4)}, {"b": p(4)}, {"fmod": 1}, {}),
        ("mod-both", "Mod", {"a": 5 * r(2, 3, 4), "b": p(3, 1)}, {}, {"fmod": 1}, {}),
        ("mod-divisor", "Mod", {"b": p(2, 3)}, {"a": 5 * r(2, 3)}, {"fmod": 1}, {"order": ["a", "b"]}),
        ("prelu-slope", "PRelu", {"a": r(2, 3, 4), "s": p(3, 1)}, {}, {}, {}),
        ("prelu-slope-alone", "PRelu", {"s": p(3, 1)}, {"a": r(2, 3, 4)}, {}, {"order": ["a", "s"]}),
        ("clip-bounds", "Clip", {"x": 3 * r(2, 3, 4), "low": -p(), "high": p()}, {}, {}, {}),
        ("clip-bound-alone", "Clip", {"high": p()}, {"x": 3 * r(2, 3, 4)}, {}, {"order": ["x", "", "high"]}),
        ("clip-crossed", "Clip", {"x": r(2, 3), "low": p() + 1, "high": p() / 9}, {}, {}, {"reference": crossed}),
        ("clip-11", "Clip", {"x": 3 * r(2, 3, 4), "low": -p(), "high": p()}, {}, {}, {"opset": 11}),
        ("range", "Range", {"a": p(), "d": p()}, {"n": np.array(9, np.float32)}, {}, {"order": ["a", "n", "d"]}),
        ("range-end", "Range", {"n": p() + 5}, {"a": p(), "d": p()}, {}, {"order": ["a", "n", "d"], "expect": "zero"}),
    ]  # fmt: skip
