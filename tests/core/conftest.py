"""A float64 oracle that shares no code with lieaudit: the ONNX graph run op by op in torch, differentiated by torch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

torch = pytest.importorskip("torch")
F = torch.nn.functional


def _ints(value):
    return [int(v) for v in value]


def _conv(x, w, b=None, *, strides=(1, 1), pads=None, dilations=(1, 1), group=1, auto_pad="NOTSET", kernel_shape=None):
    if auto_pad in ("SAME_UPPER", b"SAME_UPPER"):
        extra = [
            max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, k, s, d in zip(x.shape[2:], w.shape[2:], strides, dilations, strict=True)
        ]
        pads = [e // 2 for e in extra] + [e - e // 2 for e in extra]
    if pads:
        x = F.pad(x, (pads[1], pads[3], pads[0], pads[2]))
    return F.conv2d(x, w, b, stride=tuple(strides), dilation=tuple(dilations), groups=group)


def _max_pool(x, *, kernel_shape, strides=(1, 1), pads=(0, 0, 0, 0), ceil_mode=0, auto_pad="NOTSET", **_):
    x = F.pad(x, (pads[1], pads[3], pads[0], pads[2]), value=float("-inf"))
    return F.max_pool2d(x, tuple(kernel_shape), tuple(strides), ceil_mode=bool(ceil_mode))


def _slice(x, starts, ends, axes=None, steps=None):
    axes = _ints(axes) if axes is not None else list(range(len(starts)))
    steps = _ints(steps) if steps is not None else [1] * len(axes)
    for start, end, axis, step in zip(_ints(starts), _ints(ends), axes, steps, strict=True):
        size = x.shape[axis]
        index = torch.tensor(range(*slice(start, end, step).indices(size)), dtype=torch.int64)
        x = x.index_select(axis, index)
    return x


def _reshape(x, shape, *, allowzero=0):
    return x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(_ints(shape))])


def _pad(x, pads, value):
    pads, rank = _ints(pads), x.dim()
    order = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[axis + rank])]
    return F.pad(x, order, value=0.0 if value is None else float(value))


def _axes(node_axes, given):
    return tuple(_ints(given)) if given is not None else tuple(node_axes)


def _unsqueeze(x, given=None, *, axes=None):
    for axis in sorted(_axes(axes, given)):
        x = x.unsqueeze(axis)
    return x


OPS = {
    "Conv": _conv,
    "Relu": torch.relu,
    "Tanh": torch.tanh,
    "Add": torch.add,
    "Mul": torch.mul,
    "Sub": torch.sub,
    "Div": lambda a, b: a / b if a.is_floating_point() else a // b,
    "MatMul": torch.matmul,
    "Gemm": lambda a, b, c=0.0, *, alpha=1.0, beta=1.0, transA=0, transB=0: (
        alpha * (a.T if transA else a) @ (b.T if transB else b) + beta * c
    ),
    "MaxPool": _max_pool,
    "AveragePool": lambda x, *, kernel_shape, strides=(1, 1), **_: F.avg_pool2d(x, tuple(kernel_shape), tuple(strides)),
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": lambda x, *, perm: x.permute(perm),
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "Pad": lambda x, pads, value=None, *, mode="constant": _pad(x, pads, value),
    "Flatten": lambda x, *, axis=1: x.flatten(axis) if axis else x.reshape(1, -1),
    "Shape": lambda x: torch.tensor(x.shape),
    "Gather": lambda x, i, *, axis=0: x.select(axis, int(i)) if i.dim() == 0 else x.index_select(axis, i.flatten()),
    "Unsqueeze": _unsqueeze,
    "Squeeze": lambda x, given=None, *, axes=None: x.squeeze(_axes(axes, given)),
    "Cast": lambda x, *, to: x if to in (1, 10, 11) and x.is_floating_point() else x.to(torch.int64),
    "ConstantOfShape": lambda shape, *, value: value.flatten()[0].expand(_ints(shape)).clone(),
    "ReduceMean": lambda x, given=None, *, axes=None, keepdims=1: x.mean(_axes(axes, given), keepdim=bool(keepdims)),
    "ReduceMax": lambda x, given=None, *, axes=None, keepdims=1: x.amax(_axes(axes, given), keepdim=bool(keepdims)),
    "Softmax": lambda x, *, axis=-1: x.softmax(axis),
    "Identity": lambda x: x,
    "Dropout": lambda x, *_, **__: x,
    "Clip": lambda x, low=None, high=None, *, min=None, max=None: x.clamp(
        low if low is not None else min, high if high is not None else max
    ),
    "BatchNormalization": lambda x, s, b, m, v, *, epsilon=1e-5, **_: F.batch_norm(
        x, m, v, s, b, training=False, eps=epsilon
    ),
    "Constant": lambda *, value: value,
}


def _tensor(proto):
    array = numpy_helper.to_array(proto)
    return torch.from_numpy(array.astype(np.float64) if array.dtype.kind == "f" else array.astype(np.int64))


def _attribute(attribute):
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    return value.decode() if isinstance(value, bytes) else value


class Float64Graph:
    """An ONNX model as a torch float64 function of its image."""

    def __init__(self, proto):
        self.graph = proto.graph
        self.weights = {t.name: _tensor(t) for t in proto.graph.initializer}
        self.input = next(i.name for i in proto.graph.input if i.name not in self.weights)

    def __call__(self, x):
        values = {**self.weights, self.input: x}
        for node in self.graph.node:
            inputs = [values[name] if name else None for name in node.input]
            attributes = {a.name: _attribute(a) for a in node.attribute}
            values[node.output[0]] = OPS[node.op_type](*inputs, **attributes)
        return values[self.graph.output[0].name]

    def jvp(self, x, v):
        """Return z(x) and Dz(x)[v], float64 arrays, for images (n, C, H, W) and one direction each."""
        # a lone float64 weight meeting a dual number must not warn: everything is float64 here
        z, dz = torch.func.jvp(
            self, (torch.from_numpy(x.astype(np.float64)),), (torch.from_numpy(v.astype(np.float64)),)
        )
        return z.numpy(), dz.numpy()


@pytest.fixture(scope="session")
def float64_graph():
    """Build the oracle of an ONNX file or ModelProto."""
    return lambda source: Float64Graph(source if isinstance(source, onnx.ModelProto) else onnx.load(source))
