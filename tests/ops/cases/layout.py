"""Ops that rename, move or repeat elements. Rows: id, op, moving inputs, fixed inputs, attributes, the rest of the case."""

# ruff: noqa: E501 - a table

import numpy as np


def cases(r, p, i):
    return [
        ("reshape", "Reshape", {"x": r(2, 3, 4)}, {"s": i(0, -1, 2)}, {}, {}),
        ("reshape-allowzero", "Reshape", {"x": r(2, 3, 4)}, {"s": i(4, 6)}, {"allowzero": 1}, {}),
        ("flatten", "Flatten", {"x": r(2, 3, 4)}, {}, {"axis": 2}, {}),
        ("flatten-0", "Flatten", {"x": r(2, 3, 4)}, {}, {"axis": 0}, {}),
        ("transpose", "Transpose", {"x": r(2, 3, 4)}, {}, {"perm": [2, 0, 1]}, {}),
        ("transpose-default", "Transpose", {"x": r(2, 3, 4)}, {}, {}, {}),
        ("squeeze-7", "Squeeze", {"x": r(2, 1, 4)}, {}, {"axes": [1]}, {"opset": 7}),
        ("squeeze-13", "Squeeze", {"x": r(2, 1, 4)}, {"a": i(-2)}, {}, {}),
        ("unsqueeze-7", "Unsqueeze", {"x": r(2, 4)}, {}, {"axes": [0, 2]}, {"opset": 7}),
        ("unsqueeze-13", "Unsqueeze", {"x": r(2, 4)}, {"a": i(-1)}, {}, {}),
        ("concat", "Concat", {"a": r(2, 3), "b": r(2, 4)}, {"c": r(2, 2)}, {"axis": -1}, {}),
        ("concat-0", "Concat", {"a": r(2, 3), "b": r(4, 3)}, {}, {"axis": 0}, {}),
        ("tile", "Tile", {"x": r(2, 3)}, {"r": i(2, 3)}, {}, {}),
        ("expand", "Expand", {"x": r(3, 1)}, {"s": i(2, 3, 4)}, {}, {}),
        ("identity", "Identity", {"x": r(2, 3)}, {}, {}, {}),
        ("dropout", "Dropout", {"x": r(2, 3)}, {}, {}, {}),
        ("cast", "Cast", {"x": r(2, 3)}, {}, {"to": 11}, {"cast": True}),
        ("cast-to-integers", "Cast", {"x": 5 * r(2, 3)}, {}, {"to": 7}, {"cast": True, "expect": "zero"}),
        ("cast-like", "CastLike", {"x": r(2, 3)}, {"t": np.zeros(1, np.float64)}, {}, {"cast": True}),
        ("cast-like-target", "CastLike", {"t": r(2, 3)}, {"x": r(2, 3)}, {}, {"order": ["x", "t"], "expect": "zero"}),
        ("dropout-ratio", "Dropout", {"q": np.array(0.3)}, {"x": r(2, 3)}, {}, {"order": ["x", "q"], "expect": "zero"}),
        ("dropout-mask", "Dropout", {"x": r(2, 3)}, {}, {"seed": 3}, {"outputs": 2, "wanted": 1, "cast": True, "expect": "zero"}),
    ]  # fmt: skip
