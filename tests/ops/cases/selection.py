"""Ops that pick and write elements. Rows: id, op, moving inputs, fixed inputs, attributes, the rest of the case."""

# ruff: noqa: E501 - a table

import numpy as np


def scattered(x, u):
    """As ScatterElements: the op was renamed."""
    out = x.copy()
    for row, column in np.ndindex(u.shape):
        out[[[0, 1, 2, 0], [2, 0, 0, 1]][row][column], column] = u[row, column]
    return out


def first_two_rows(x):
    """The third row is the first; the reference moves it apart from it."""
    return x[:2]


def cases(r, p, i):
    return [
        ("split-7", "Split", {"x": r(2, 6)}, {}, {"axis": 1, "split": [2, 4]}, {"outputs": 2, "opset": 7}),
        ("split-13", "Split", {"x": r(2, 6)}, {"s": i(2, 4)}, {"axis": -1}, {"outputs": 2}),
        ("split-18", "Split", {"x": r(2, 6)}, {}, {"axis": 1, "num_outputs": 3}, {"outputs": 3, "opset": 18}),
        ("slice-7", "Slice", {"x": r(5, 6)}, {}, {"starts": [1, -4], "ends": [4, 99], "axes": [0, 1]}, {"opset": 7}),
        ("slice-10", "Slice", {"x": r(5, 6)}, {"s": i(4, 0), "e": i(-99, 5), "a": i(-2, 1), "k": i(-2, 2)}, {}, {}),
        ("slice-no-axes", "Slice", {"x": r(5, 6)}, {"s": i(1, 2), "e": i(4, 5)}, {}, {}),
        ("gather", "Gather", {"x": r(3, 5)}, {"i": np.array([[0, 2], [-1, 3]], np.int64)}, {"axis": 1}, {}),
        ("gather-scalar", "Gather", {"x": r(3, 5)}, {"i": np.array(2, np.int64)}, {"axis": -1}, {}),
        ("gather-elements", "GatherElements", {"x": r(3, 4)}, {"i": np.array([[0, 2], [1, 1], [3, 0]], np.int64)}, {"axis": 1}, {}),
        ("gather-nd", "GatherND", {"x": r(2, 3, 4)}, {"i": np.array([[[1, 0]], [[2, 3]]], np.int64)}, {"batch_dims": 1}, {}),
        ("scatter-elements", "ScatterElements", {"x": r(3, 4), "u": r(2, 4)}, {"i": np.array([[0, 1, 2, 0], [2, 0, 0, 1]], np.int64)}, {"axis": 0}, {"order": ["x", "i", "u"]}),
        ("scatter-nd", "ScatterND", {"x": r(3, 4), "u": r(2, 4)}, {"i": np.array([[2], [0]], np.int64)}, {}, {"order": ["x", "i", "u"]}),
        ("scatter-nd-data-fixed", "ScatterND", {"u": r(2)}, {"x": r(3, 4), "i": np.array([[2, 1], [0, 3]], np.int64)}, {}, {"order": ["x", "i", "u"]}),
        ("cumsum", "CumSum", {"x": r(2, 5)}, {"a": np.array(-1, np.int64)}, {"exclusive": 1}, {}),
        ("trilu", "Trilu", {"x": r(2, 4, 4)}, {}, {"upper": 0}, {}),
        ("reverse-sequence", "ReverseSequence", {"x": r(4, 3, 2)}, {"l": i(2, 4, 1)}, {}, {}),
        ("compress", "Compress", {"x": r(3, 4)}, {"c": np.array([True, False, True])}, {"axis": 0}, {}),
        ("top-k", "TopK", {"x": r(3, 6)}, {"k": i(2)}, {"axis": 1}, {"outputs": 2}),
        ("gather-nd-plain", "GatherND", {"x": r(2, 3, 4)}, {"i": np.array([[1, 0], [0, 2]], np.int64)}, {}, {}),
        ("scatter-elements-add", "ScatterElements", {"x": r(3, 4), "u": r(2, 4)}, {"i": np.array([[0, 1, 2, 0], [0, 0, 0, 1]], np.int64)}, {"axis": 0, "reduction": "add"}, {"order": ["x", "i", "u"], "opset": 16}),
        ("scatter-elements-mul", "ScatterElements", {"x": r(3, 4), "u": p(2, 4)}, {"i": np.array([[0, 1, 2, 0], [0, 0, 0, 1]], np.int64)}, {"axis": 0, "reduction": "mul"}, {"order": ["x", "i", "u"], "opset": 16, "expect": "next"}),
        ("scatter-nd-add", "ScatterND", {"x": r(3, 4), "u": r(2, 4)}, {"i": np.array([[2], [2]], np.int64)}, {"reduction": "add"}, {"order": ["x", "i", "u"], "opset": 16}),
        ("scatter-nd-max", "ScatterND", {"x": r(3, 4), "u": r(2, 4)}, {"i": np.array([[2], [1]], np.int64)}, {"reduction": "max"}, {"order": ["x", "i", "u"], "opset": 18, "expect": "next"}),
        ("scatter", "Scatter", {"x": r(3, 4), "u": r(2, 4)}, {"i": np.array([[0, 1, 2, 0], [2, 0, 0, 1]], np.int64)}, {"axis": 0}, {"order": ["x", "i", "u"], "opset": 9, "reference": scattered}),
        ("one-hot", "OneHot", {"v": r(2)}, {"i": i(1, 0, 2), "n": np.array(3)}, {"axis": 1}, {"order": ["i", "n", "v"]}),
        ("one-hot-last", "OneHot", {"v": r(2)}, {"i": np.array([[1, 0], [2, 2]]), "n": np.array(3)}, {}, {"order": ["i", "n", "v"]}),
        ("one-hot-classes", "OneHot", {"c": np.array([1.3, 0.2, 2.4]), "n": np.array(3.4)}, {"v": r(2)}, {}, {"order": ["c", "n", "v"], "expect": "zero", "reference": lambda c, n: np.zeros((3, 3))}),
        ("trilu-k", "Trilu", {"x": r(2, 4, 4)}, {"k": np.array(1)}, {}, {}),
        ("cumsum-reversed", "CumSum", {"x": r(2, 5)}, {"a": np.array(0, np.int64)}, {"reverse": 1}, {}),
        ("compress-flat", "Compress", {"x": r(3, 4)}, {"c": np.array([True, False, True, True])}, {}, {}),
        ("reverse-sequence-batch", "ReverseSequence", {"x": r(3, 4, 2)}, {"l": i(2, 4, 1)}, {"batch_axis": 0, "time_axis": 1}, {}),
        ("top-k-smallest", "TopK", {"x": r(3, 6)}, {"k": i(2)}, {"axis": 0, "largest": 0, "sorted": 1}, {"outputs": 2}),
        ("unique", "Unique", {"x": r(3, 4)}, {}, {}, {}),
        ("unique-unsorted", "Unique", {"x": r(3, 4)}, {}, {"sorted": 0}, {"reference": np.ravel}),
        ("unique-rows", "Unique", {"x": np.array([[1, 2], [3, 4], [1, 2]], np.float32)}, {}, {"axis": 0}, {"reference": first_two_rows}),
    ]  # fmt: skip
