"""What a derivative is where a function has none: one rule for torch and for forward mode (docs/numerics.md, 5).

A unit that lies exactly on its kink counts as flat: a clip at its bound has slope 0, a PReLU at 0 its slope below. Of
equal operands of a maximum or minimum the first wins. torch itself gives a clip at its bound the slope 1, a PReLU at
0 the slope 1, and half to each of two equal operands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Tensor = torch.Tensor


def _clamp(x: Tensor, min: Any = None, max: Any = None) -> Tensor:  # noqa: A002 - torch's signature
    # a NaN is on neither side and stays
    if min is not None:
        x = torch.where(x <= min, min, x)
    return x if max is None else torch.where(x >= max, max, x)


def _clamp_max(x: Tensor, max: Any) -> Tensor:  # noqa: A002 - torch's signature
    return _clamp(x, None, max)


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    shape = [1, -1, *[1] * (x.dim() - 2)] if weight.numel() > 1 and x.dim() > 1 else [1] * x.dim()
    return torch.where(x > 0, x, x * weight.reshape(shape))


def _maximum(a: Tensor, b: Tensor) -> Tensor:
    return torch.where((a >= b) | torch.isnan(a), a, b)


def _minimum(a: Tensor, b: Tensor) -> Tensor:
    return torch.where((a <= b) | torch.isnan(a), a, b)


_aten = torch.ops.aten

TIES: dict[Any, Callable[..., Tensor]] = {
    torch.clamp: _clamp,
    torch.clip: _clamp,
    torch.Tensor.clamp: _clamp,
    torch.Tensor.clip: _clamp,
    torch.clamp_min: _clamp,
    torch.clamp_max: _clamp_max,
    torch.Tensor.clamp_min: _clamp,
    torch.Tensor.clamp_max: _clamp_max,
    _aten.clamp.default: _clamp,
    _aten.clamp_min.default: _clamp,
    _aten.clamp_max.default: _clamp_max,
    torch.prelu: _prelu,
    torch.nn.functional.prelu: _prelu,
    torch.Tensor.prelu: _prelu,
    _aten.prelu.default: _prelu,
    torch.maximum: _maximum,
    torch.Tensor.maximum: _maximum,
    _aten.maximum.default: _maximum,
    torch.minimum: _minimum,
    torch.Tensor.minimum: _minimum,
    _aten.minimum.default: _minimum,
}
"""Functions that are replaced, by functions equal to them whose tangent follows the rule."""
