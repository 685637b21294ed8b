"""Functions of one variable. Rows: id, op, moving inputs, fixed inputs, attributes, the rest of the case."""

import numpy as np

_OPSET = {"Gelu": 20, "HardSwish": 14, "Mish": 18, "Swish": 24}
_FORMS = {
    "LeakyRelu": {"alpha": 0.2},
    "ThresholdedRelu": {"alpha": 0.3},
    "Shrink": {"lambd": 0.4, "bias": 0.1},
    "Elu": {"alpha": 1.3},
    "Selu": {"alpha": 1.5, "gamma": 1.1},
    "Celu": {"alpha": 0.7},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "Swish": {"alpha": 1.7},
    "Gelu": {"approximate": "tanh"},
}
_NAMES = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Gelu",
    "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Selu", "Shrink", "Sigmoid",
    "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip


def _inside(op, x):
    """Bring numbers into an op's domain, away from kinks: the reference takes a difference of 1e-6."""
    x = np.where(np.abs(x) < 1e-3, 0.5, x)
    if op == "ThresholdedRelu":
        x = 3 * x
    if op in {"Log", "Sqrt"}:
        x = np.abs(x) + 0.1
    if op == "Reciprocal":
        x = np.sign(x) * (np.abs(x) + 0.2)
    if op in {"Asin", "Acos", "Atanh"}:
        x = np.tanh(x) * 0.9
    if op == "Acosh":
        x = np.abs(x) + 1.1
    if op == "Tan":
        x = np.tanh(x)
    return x.astype(np.float32)


def cases(r, p, i):
    rows = []
    for op in _NAMES:
        for form in [{}, *([_FORMS[op]] if op in _FORMS else [])]:
            for shape in ((2, 3, 4, 5), (7,)):
                name = "-".join([op.lower(), *form, str(len(shape))])
                rows.append((name, op, {"x": _inside(op, r(*shape))}, {}, form, {"opset": _OPSET.get(op, 17)}))
    for opset in (7, 10, 12, 13):
        for low, high in ((0.0, 6.0), (-1.0, None), (None, 0.5), (-0.7, 0.2)):
            x = {"x": _inside("Clip", r(2, 3, 4, 4)) * np.float32(3)}
            name = f"clip-{opset}-{low}-{high}"
            given = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
            if opset < 11:
                rows.append((name, "Clip", x, {}, given, {"opset": opset}))
                continue
            order = ["x", "min" if low is not None else "", *(["max"] if high is not None else [])]
            fixed = {k: np.array(v, np.float32) for k, v in given.items()}
            rows.append((name, "Clip", x, fixed, {}, {"opset": opset, "order": order}))
    return rows
