"""What torch calls an op that `lieaudit.ops` knows, and one call of an operator as the layout rules see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from lieaudit.layouts.axes import Axes, plain
from lieaudit.ops import OPS, Op

_ONNX: dict[str, tuple[str, ...]] = {
    "Conv": (
        "convolution", "_convolution", "conv2d", "mkldnn_convolution", "cudnn_convolution", "conv1d", "conv3d",
    ),
    "MatMul": ("mm", "bmm", "baddbmm", "linear"),
    "Gemm": ("addmm",),
    "Add": ("add",),
    "Sub": ("sub", "rsub"),
    "Mul": ("mul",),
    "Div": ("div",),
    "Relu": ("relu",),
    "Clip": ("clamp", "clamp_min", "clamp_max", "hardtanh", "relu6"),
    "ThresholdedRelu": ("threshold",),
    "LeakyRelu": ("leaky_relu", "rrelu_with_noise"),
    "PRelu": ("_prelu_kernel", "prelu"),
    "Elu": ("elu",),
    "Selu": ("selu",),
    "Celu": ("celu",),
    "Gelu": ("gelu",),
    "Swish": ("silu",),
    "Mish": ("mish",),
    "Erf": ("erf",),
    "Sigmoid": ("sigmoid", "log_sigmoid_forward"),
    "HardSigmoid": ("hardsigmoid",),
    "HardSwish": ("hardswish",),
    "Softplus": ("softplus",),
    "Tanh": ("tanh",),
    "Abs": ("abs",),
    "Sin": ("sin",),
    "Sqrt": ("sqrt", "rsqrt"),
    "Pow": ("pow",),
    "Max": ("maximum",),
    "Min": ("minimum",),
    "Softmax": ("_softmax", "_safe_softmax"),
    "LogSoftmax": ("_log_softmax",),
    "BatchNormalization": (
        "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm",
    ),
    "LayerNormalization": ("native_layer_norm", "layer_norm"),
    "GroupNormalization": ("native_group_norm",),
    "RMSNormalization": ("_fused_rms_norm",),
    "MaxPool": ("max_pool2d_with_indices", "max_pool2d", "adaptive_max_pool2d"),
    "AveragePool": ("avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d"),
    "Resize": (
        "upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d",
    ),
    "DepthToSpace": ("pixel_shuffle",),
    "SpaceToDepth": ("pixel_unshuffle",),
    "Pad": ("constant_pad_nd", "pad", "_pad_enum", "_pad_circular", "reflection_pad2d", "replication_pad2d"),
    "ReduceMean": ("mean",),
    "ReduceSum": ("sum",),
    "ReduceMax": ("amax", "max"),
    "ReduceMin": ("amin", "min"),
    "ReduceL2": ("linalg_vector_norm", "var", "var_mean"),
    "ReduceLogSumExp": ("logsumexp",),
    "Slice": ("slice",),
    "Identity": ("clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh"),
    "Reshape": ("view", "_unsafe_view", "reshape", "_reshape_alias"),
    "Transpose": ("permute", "transpose", "t"),
    "Dropout": ("native_dropout",),
}  # fmt: skip

ONNX_NAMES = {name: onnx for onnx, names in _ONNX.items() for name in names}
"""Operator of torch → the op of the ONNX standard that does the same to axes, and makes the same kind of layer."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of an operator.

    Attributes
    ----------
    func
        The operator.
    arguments
        By the names of its schema, defaults filled in.
    known
        The id of each tensor that depends on the image → its axes.
    outputs
        The tensors it made.
    """

    func: Any
    arguments: Mapping[str, Any]
    known: Mapping[int, Axes]
    outputs: Sequence[torch.Tensor]
    inputs: tuple[torch.Tensor, ...] = field(default=())

    @classmethod
    def of(cls, func: Any, args: Any, kwargs: Any, known: Mapping[int, Axes], outputs: Sequence[Any]) -> Operation:
        """Bind the arguments of a call."""
        bound = {}
        for position, argument in enumerate(func._schema.arguments):  # noqa: SLF001 - the only list of them
            given = args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
            bound[argument.name] = given
        leaves = tuple(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
        return cls(func, bound, known, outputs, leaves)

    @property
    def name(self) -> str:
        """Name without its namespace, of an operator in place that of the one that is not."""
        return name_of(self.func)

    @property
    def entry(self) -> Op | None:
        """What `lieaudit.ops` knows of it; None where it has no counterpart."""
        onnx = ONNX_NAMES.get(self.name, "")
        if onnx == "Conv" and self.arguments.get("transposed"):
            onnx = "ConvTranspose"
        return OPS.get(("", onnx))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the first output."""
        return tuple(self.outputs[0].shape)

    def given(self, *names: str) -> Any:
        """Return the first of these arguments that the operator has."""
        return next((self.arguments[name] for name in names if name in self.arguments), None)

    def first(self) -> torch.Tensor:
        """Return the first operand."""
        return self.inputs[0]

    def operands(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two factors of a matrix product."""
        first = self.given("mat1", "batch1") if "mat1" in self.arguments or "batch1" in self.arguments else self.first()
        return first, self.given("mat2", "batch2", "weight")

    def varies(self, tensor: Any) -> bool:
        """Say whether an operand depends on the image."""
        return isinstance(tensor, torch.Tensor) and id(tensor) in self.known

    def axes(self, tensor: torch.Tensor) -> Axes:
        """Return the axes of an operand; of a constant, free ones."""
        found = self.known.get(id(tensor))
        return found if found is not None else tuple(plain("free", size) for size in tensor.shape)

    def dims(self, given: int | Sequence[int] | None, rank: int | None = None) -> list[int]:
        """Return axes as numbers that are not negative; None or no number: all of them."""
        rank = self.first().dim() if rank is None else rank
        listed = [given] if isinstance(given, int) else list(given or ()) or list(range(rank))
        return [d % rank if rank else 0 for d in listed]


def name_of(func: Any) -> str:
    """Return an operator's name without its namespace; of an operator in place, that of the one that is not."""
    name: str = func._schema.name  # noqa: SLF001 - the only name it has
    name = name.removeprefix("aten::")
    return name[:-1] if name.endswith("_") and not name.startswith("_") else name
