"""Functions of torch whose forward derivative has no right gradient, written out in functions that have one.

torch computes the JVP of LayerNorm from the saved mean and deviation, and takes both for constants when that JVP is
differentiated once more: gradients of a penalty on derivatives come out wrong by tens of per cent, without a word (seen
in torch 2.13). The same holds for normalisation by the batch's or the instance's own statistics; GLU and Hardsigmoid
raise; tests/torch compares the gradient of every layer of torch.nn with finite differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def _normalised(x: torch.Tensor, dims: Sequence[int], eps: float) -> torch.Tensor:
    axes = tuple(dims)
    centred = x - x.mean(dim=axes, keepdim=True)
    scaled: torch.Tensor = centred * torch.rsqrt(centred.square().mean(dim=axes, keepdim=True) + eps)
    return scaled


def _affine(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def layer_norm(
    input: torch.Tensor,  # noqa: A002 - torch's own names, here and below
    normalized_shape: Sequence[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_rest: Any,
) -> torch.Tensor:
    """Return `torch.nn.functional.layer_norm`, in float arithmetic whose derivatives have derivatives."""
    return _affine(_normalised(input, range(-len(normalized_shape), 0), eps), weight, bias)


def instance_norm(
    input: torch.Tensor,  # noqa: A002
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    use_input_stats: bool = True,  # noqa: FBT001, FBT002 - torch's signature
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Return `torch.nn.functional.instance_norm`; with running statistics it is torch's own."""
    if not use_input_stats:
        return functional.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats=False, momentum=momentum, eps=eps
        )
    return _by_channel(_normalised(input, range(2, input.dim()), eps), weight, bias)


def batch_norm(
    input: torch.Tensor,  # noqa: A002
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002 - torch's signature
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Return `torch.nn.functional.batch_norm`; with running statistics it is torch's own."""
    if not training:
        return functional.batch_norm(
            input, running_mean, running_var, weight, bias, training=False, momentum=momentum, eps=eps
        )
    return _by_channel(_normalised(input, [0, *range(2, input.dim())], eps), weight, bias)


def glu(input: torch.Tensor, dim: int = -1) -> torch.Tensor:  # noqa: A002
    """Return `torch.nn.functional.glu`."""
    value, gate = input.chunk(2, dim=dim)
    return value * torch.sigmoid(gate)


def hardsigmoid(input: torch.Tensor, inplace: bool = False) -> torch.Tensor:  # noqa: A002, FBT001, FBT002
    """Return `torch.nn.functional.hardsigmoid`, never in place."""
    del inplace
    return (input / 6 + 0.5).clamp(0, 1)


def _by_channel(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    shape = (1, -1, *[1] * (x.dim() - 2))
    return _affine(x, *(None if v is None else v.reshape(shape) for v in (weight, bias)))


_REPLACED: Mapping[Callable[..., Any], Callable[..., torch.Tensor]] = {
    functional.layer_norm: layer_norm,
    functional.instance_norm: instance_norm,
    functional.batch_norm: batch_norm,
    functional.glu: glu,
    functional.hardsigmoid: hardsigmoid,
}


class WrittenOut(TorchFunctionMode):
    """While active, the functions above stand in for torch's."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, or what is written out for it."""
        del types
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))
