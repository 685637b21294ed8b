"""One precision everywhere in a call, and forward rules for the functions torch has none for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch._decomp import decomposition_table
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from lieaudit.errors import SourceError
from lieaudit.torch.ties import TIES

_LOWER = {
    torch.float32: (torch.float16, torch.bfloat16),
    torch.float64: (torch.float16, torch.bfloat16, torch.float32),
}
_CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)


class Precision(TorchFunctionMode):
    """Run torch functions in one floating-point precision, and differentiable in forward mode.

    Casts to a lower precision inside the module (``softmax(dtype=torch.float32)``, ``.float()``, constants kept as
    plain attributes) become casts to the working one: a float64 derivative through a float32 softmax would be a float32
    derivative. A function without a forward rule is replaced by its decomposition into functions that have one.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._lower = _LOWER[dtype]
        self._default = torch.get_default_dtype()

    def __enter__(self) -> Self:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)  # type: ignore[no-untyped-call]
        torch.set_default_dtype(self._default)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` with its dtypes raised; called by torch for every torch function."""
        if func in _CASTS:
            return args[0].to(self.dtype)
        args, kwargs = tree_map(self._raised, args), tree_map(self._raised, kwargs or {})
        if func in TIES and args and isinstance(args[0], torch.Tensor) and args[0].is_floating_point():
            return TIES[func](*args, **kwargs)
        try:
            return func(*args, **kwargs)
        except NotImplementedError as problem:
            if "forward AD" not in str(problem):
                raise
            return _decomposed(func, problem)(*args, **kwargs)

    def _raised(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return self.dtype if value in self._lower else value
        if isinstance(value, torch.Tensor) and value.dtype in self._lower:
            return value.to(self.dtype)
        return value


def _euclidean(a: torch.Tensor, b: torch.Tensor, p: float = 2.0, *_: Any, **__: Any) -> torch.Tensor:
    distance: torch.Tensor = torch.linalg.vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), ord=p, dim=-1)
    return distance


def _grid_sample(
    image: torch.Tensor,
    grid: torch.Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,  # noqa: FBT001 - torch's signature
) -> torch.Tensor:
    modes, paddings = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")
    return _grid_sampler(image, grid, modes.index(mode), paddings.index(padding_mode), bool(align_corners))


def _grid_sampler(*arguments: Any) -> torch.Tensor:
    sampled: torch.Tensor = decomposition_table[torch.ops.aten.grid_sampler_2d.default](*arguments)
    return sampled


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.nn.functional.grid_sample: _grid_sample,
    torch.grid_sampler: _grid_sampler,
    torch.grid_sampler_2d: _grid_sampler,
    torch.ops.aten.grid_sampler.default: _grid_sampler,
    torch.ops.aten.grid_sampler_2d.default: _grid_sampler,
    torch.cdist: _euclidean,
    torch.ops.aten.cdist.default: _euclidean,
}


def _decomposed(func: Callable[..., Any], problem: NotImplementedError) -> Callable[..., Any]:
    if func in _DECOMPOSITIONS:
        return _DECOMPOSITIONS[func]
    if isinstance(func, torch._ops.OpOverload) and func in decomposition_table:  # noqa: SLF001 - the only name it has
        return decomposition_table[func]
    name = getattr(func, "__name__", str(func))
    raise SourceError(
        f"torch has no forward derivative for {name}",
        reason="NO_FORWARD_DERIVATIVE",
        subject=name,
        hint="replace it in the source by differentiable functions, or audit the ONNX model by finite differences",
    ) from problem
