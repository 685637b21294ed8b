"""Evaluates an ONNX graph in torch float64: the independent reference for models whose source is not at hand.

Knows the ops of the trained models and of onnx's ``light_*`` graphs only; any other is a KeyError that names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, numpy_helper

Tensor = torch.Tensor
_TYPES = {TensorProto.FLOAT: torch.float64, TensorProto.INT64: torch.int64, TensorProto.INT32: torch.int64}


def double_function(proto: onnx.ModelProto) -> Callable[[Tensor], Tensor]:
    """Return the graph's function of its one input, float64 to float64."""
    graph, opset = proto.graph, next(o.version for o in proto.opset_import if o.domain in {"", "ai.onnx"})
    fixed = {t.name: _tensor(t) for t in graph.initializer}

    def function(x: Tensor) -> Tensor:
        values: dict[str, Any] = {**fixed, "": None, graph.input[0].name: x}
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            attributes["opset"] = opset
            out = OPS[node.op_type](attributes, *(values[name] for name in node.input))
            values[node.output[0]] = out
        return values[graph.output[0].name]  # type: ignore[no-any-return]

    return function


def _tensor(proto: TensorProto) -> Tensor:
    made = torch.from_numpy(numpy_helper.to_array(proto).copy())
    return made.double() if made.is_floating_point() else made


def _padded(a: dict[str, Any], x: Tensor, value: float, kernel: list[int]) -> Tensor:
    mode = a.get("auto_pad", b"NOTSET")
    assert mode in {b"NOTSET", b"VALID", b"SAME_UPPER"}
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    if mode == b"SAME_UPPER":
        sizes = zip(x.shape[2:], kernel, a.get("strides", [1, 1]), strict=True)
        whole = [max(0, (-(-size // step) - 1) * step + k - size) for size, k, step in sizes]
        (top, left), (bottom, right) = (w // 2 for w in whole), (w - w // 2 for w in whole)
    return F.pad(x, (left, right, top, bottom), value=value) if any((top, left, bottom, right)) else x


def _conv(a: dict[str, Any], x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    return F.conv2d(
        _padded(a, x, 0, list(w.shape[2:])), w, b, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1)
    )


def _max_pool(a: dict[str, Any], x: Tensor) -> Tensor:
    ceil = bool(a.get("ceil_mode", 0))
    return F.max_pool2d(
        _padded(a, x, -torch.inf, a["kernel_shape"]), a["kernel_shape"], a.get("strides", 1), ceil_mode=ceil
    )


def _average_pool(a: dict[str, Any], x: Tensor) -> Tensor:
    kernel, strides = a["kernel_shape"], a.get("strides", 1)
    total = F.avg_pool2d(_padded(a, x, 0, kernel), kernel, strides)
    if a.get("count_include_pad", 0) or not any(a.get("pads", [])):
        return total
    return total / F.avg_pool2d(_padded(a, torch.ones_like(x[:1, :1]), 0, kernel), kernel, strides)


def _batch_norm(a: dict[str, Any], x: Tensor, scale: Tensor, b: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, scale, b, eps=a.get("epsilon", 1e-5))


def _lrn(a: dict[str, Any], x: Tensor) -> Tensor:
    return F.local_response_norm(x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0))


def _gemm(a: dict[str, Any], x: Tensor, w: Tensor, c: Tensor | float = 0.0) -> Tensor:
    x, w = (x.T if a.get("transA") else x), (w.T if a.get("transB") else w)
    product: Tensor = a.get("alpha", 1.0) * (x @ w) + a.get("beta", 1.0) * c
    return product


def _softmax(a: dict[str, Any], x: Tensor) -> Tensor:
    if a["opset"] >= 13:
        return x.softmax(a.get("axis", -1))
    return x.flatten(a.get("axis", 1)).softmax(-1).reshape(x.shape)


def _reshape(_a: dict[str, Any], x: Tensor, shape: Tensor) -> Tensor:
    return torch.reshape(x, tuple(x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())))


def _axes(a: dict[str, Any], given: Tensor | None) -> list[int]:
    return a["axes"] if given is None else given.tolist()


def _unsqueeze(a: dict[str, Any], x: Tensor, axes: Tensor | None = None) -> Tensor:
    for axis in sorted(_axes(a, axes)):
        x = x.unsqueeze(axis)
    return x


def _slice(a: dict[str, Any], x: Tensor, *parts: Tensor) -> Tensor:
    starts, ends, *rest = [p.tolist() for p in parts] if parts else [a["starts"], a["ends"], a.get("axes")]
    axes = rest[0] if rest and rest[0] is not None else range(len(starts))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        index = torch.arange(size)[slice(start, end)] if step == 1 else torch.tensor(list(range(size))[start:end:step])
        x = x.index_select(axis, index.long())
    return x


def _pad(a: dict[str, Any], x: Tensor, pads: Tensor, value: Tensor | None = None) -> Tensor:
    assert a.get("mode", b"constant") == b"constant"
    half = len(pads) // 2
    sizes = pads.tolist()
    pairs = [pair for axis in reversed(range(half)) for pair in (sizes[axis], sizes[axis + half])]
    return F.pad(x, pairs, value=0.0 if value is None else float(value))


def _gather(a: dict[str, Any], x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0)
    made = x.index_select(axis, index.reshape(-1) % x.shape[axis])
    return torch.reshape(made, (*x.shape[:axis], *index.shape, *x.shape[axis % x.ndim + 1 :]))


def _reduce(kind: str) -> Callable[..., Tensor]:
    def reduce(a: dict[str, Any], x: Tensor, axes: Tensor | None = None) -> Tensor:
        over, keep = _axes(a, axes), bool(a.get("keepdims", 1))
        return x.mean(over, keepdim=keep) if kind == "mean" else x.amax(over, keepdim=keep)

    return reduce


def _clip(a: dict[str, Any], x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    bounds = [a.get("min") if low is None else float(low), a.get("max") if high is None else float(high)]
    return x.clamp(*bounds)


def _resize(a: dict[str, Any], x: Tensor, *rest: Tensor | None) -> Tensor:
    assert a.get("mode", b"nearest") == b"nearest"
    scales = rest[1] if len(rest) > 1 else rest[0]
    factors = (
        [int(f) for f in scales.tolist()[2:]] if scales is not None and scales.numel() else
        [int(size) // old for size, old in zip(rest[2].tolist()[2:], x.shape[2:], strict=True)]  # type: ignore[union-attr]
    )  # fmt: skip
    return x.repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)


OPS: dict[str, Callable[..., Tensor]] = {
    "Conv": _conv,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda _a, x: x.mean((2, 3), keepdim=True),
    "BatchNormalization": _batch_norm,
    "LRN": _lrn,
    "Relu": lambda _a, x: x.relu(),
    "PRelu": lambda _a, x, slope: torch.where(x > 0, x, x * slope),
    "Resize": _resize,
    "Clip": _clip,
    "Softmax": _softmax,
    "Gemm": _gemm,
    "MatMul": lambda _a, x, y: x @ y,
    "Add": lambda _a, x, y: x + y,
    "Mul": lambda _a, x, y: x * y,
    "Sum": lambda _a, *parts: sum(parts[1:], start=parts[0]),
    "Dropout": lambda _a, x, *_rest: x,
    "Identity": lambda _a, x: x,
    "Constant": lambda a: _tensor(a["value"]),
    "ConstantOfShape": lambda a, shape: torch.full(
        shape.tolist(), _tensor(a["value"]).item() if "value" in a else 0.0, dtype=_tensor(a["value"]).dtype
    ),
    "Shape": lambda _a, x: torch.tensor(x.shape),
    "Cast": lambda a, x: x.to(_TYPES[a["to"]]),
    "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
    "Reshape": _reshape,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "Transpose": lambda a, x: x.permute(a.get("perm", list(reversed(range(x.ndim))))),
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Pad": _pad,
    "Gather": _gather,
    "ReduceMean": _reduce("mean"),
    "ReduceMax": _reduce("max"),
}
