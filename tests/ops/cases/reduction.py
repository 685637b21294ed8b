"""Reductions and softmax. Rows: id, op, moving inputs, fixed inputs, attributes, the rest of the case."""

# ruff: noqa: E501 - a table

import numpy as np


def flattened(axis):
    """Softmax before opset 13: over all axes from one on."""

    def function(x):
        flat = x.reshape(int(np.prod(x.shape[:axis])), -1)
        grown = np.exp(flat - flat.max(axis=1, keepdims=True))
        return (grown / grown.sum(axis=1, keepdims=True)).reshape(x.shape)

    return function


def cases(r, p, i):
    reductions = []
    for op in ("Sum", "Mean", "Max", "Min", "SumSquare", "L1", "L2", "LogSum", "LogSumExp"):
        name, x = f"Reduce{op}", {"x": p(2, 3, 4)}
        new = 13 if op == "Sum" else 18
        reductions += [
            (f"{op}-all", name, x, {}, {}, {}),
            (f"{op}-old", name, x, {}, {"axes": [1, -1], "keepdims": 0}, {"opset": 11}),
            (f"{op}-new", name, x, {"a": i(-1)}, {"keepdims": 1, "noop_with_empty_axes": 1}, {"opset": new}),
            (f"{op}-moves-all", name, x, {"a": i(0, 2)}, {"keepdims": 0}, {"opset": new}),
        ]
    return [
        *reductions,
        ("reduce-max", "ReduceMax", {"x": r(2, 3, 4)}, {}, {"axes": [1], "keepdims": 0}, {}),
        ("reduce-min-all", "ReduceMin", {"x": r(2, 3, 4)}, {}, {}, {}),
        ("reduce-max-18", "ReduceMax", {"x": r(2, 3, 4)}, {"a": i(-1)}, {"keepdims": 0}, {"opset": 18}),
        ("reduce-prod", "ReduceProd", {"x": p(2, 3)}, {}, {"axes": [1]}, {}),
        ("softmax-13", "Softmax", {"x": r(2, 3, 4)}, {}, {"axis": 1}, {}),
        ("log-softmax-13", "LogSoftmax", {"x": r(2, 3, 4)}, {}, {}, {}),
        ("reduce-prod-with-zeros", "ReduceProd", {"x": np.array([[1, 0, 2], [0, 0, 3], [1, 2, 3]], np.float32)}, {}, {"axes": [1], "keepdims": 0}, {}),
        ("reduce-prod-18", "ReduceProd", {"x": p(2, 3)}, {"a": i(0)}, {"keepdims": 1, "noop_with_empty_axes": 0}, {"opset": 18}),
        ("reduce-prod-nothing", "ReduceProd", {"x": p(2, 3)}, {"a": np.zeros(0, np.int64)}, {"noop_with_empty_axes": 1}, {"opset": 18, "expect": "next", "reference": lambda x: x}),
        ("reduce-sum-nothing", "ReduceSum", {"x": p(2, 3)}, {}, {"noop_with_empty_axes": 1}, {"reference": lambda x: x}),

        ("softmax-11", "Softmax", {"x": r(2, 3, 4)}, {}, {"axis": 1}, {"opset": 11, "reference": flattened(1)}),
        ("softmax-7", "Softmax", {"x": r(2, 3, 4)}, {}, {"axis": 2}, {"opset": 7, "reference": flattened(2)}),
        ("softmax-default-11", "Softmax", {"x": r(2, 3, 4)}, {}, {}, {"opset": 11, "reference": flattened(1)}),
        ("log-softmax-11", "LogSoftmax", {"x": r(2, 3, 4)}, {}, {"axis": 1}, {"opset": 11, "reference": lambda x: np.log(flattened(1)(x))}),
    ]  # fmt: skip
