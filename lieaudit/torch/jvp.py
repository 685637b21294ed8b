"""Exact directional derivatives of a torch module by forward-mode differentiation (`torch.func.jvp`).

The value is computed once for all directions of an image batch (`torch.func.vmap` over the directions). A module
that does not vectorise (control flow on values, random functions) is differentiated one direction at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lieaudit.derivatives.base import NOTHING, Columns, Derivatives, Float32Array, Float64Array, FurtherRows
from lieaudit.derivatives.rounding import COVERAGE, patterns
from lieaudit.errors import LieauditError, SourceError
from lieaudit.torch.function import SourceFunction, batches, first_line

_DIRECTION = float(np.finfo(np.float32).eps) / 2
"""Directions arrive in float32, rounded to so much, whatever the module is differentiated in."""


def pushforward(
    function: Callable[[torch.Tensor], torch.Tensor],
    point: torch.Tensor,
    directions: torch.Tensor,
    *,
    vectorised: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differentiate a function along D directions at once.

    Parameters
    ----------
    function
        Of a tensor of the shape of ``point``.
    point, directions
        Shapes s and (D, *s), D ≥ 1.
    vectorised
        Over the directions, with the value computed once; False: one direction after the other.

    Returns
    -------
    The value, and the derivatives with a leading axis D; both detached.
    """

    def along(direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, tangent, *_ = torch.func.jvp(function, (point,), (direction,))
        return value, tangent

    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")  # an op vmap runs in a loop
        warnings.filterwarnings("ignore", message="`torch.jit")  # torch's own forward rules still use it
        if vectorised:
            # The value is the same in every direction: expanded without memory, the first is taken.
            values, tangents = torch.func.vmap(along)(directions)
            return values[0].detach(), tangents.detach()
        parts = [along(direction) for direction in directions]
        return parts[0][0].detach(), torch.stack([tangent for _, tangent in parts]).detach()


class Pushforward:
    """`pushforward` of one module, which finds out whether the module vectorises."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self.vectorised = True

    def __call__(
        self, function: Callable[[torch.Tensor], torch.Tensor], point: torch.Tensor, directions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Differentiate. Raises `SourceError` where the module fails or has no forward derivative."""
        if self.vectorised:
            try:
                return pushforward(function, point, directions)
            except (LieauditError, RuntimeError) as problem:
                if isinstance(problem, SourceError) and problem.reason == "NO_FORWARD_DERIVATIVE":
                    raise
                self.vectorised = False
        try:
            return pushforward(function, point, directions, vectorised=False)
        except RuntimeError as problem:
            raise SourceError(
                f"the module cannot be differentiated: {first_line(problem)}",
                reason="TORCH_RUN_FAILED",
                subject=type(self._module).__name__,
                hint="audit the ONNX model by forward mode or finite differences",
            ) from problem


class TorchDifferentiator:
    """The `lieaudit.derivatives.base.Differentiator` of a torch module.

    The error bar is the change of the derivative when every pixel of image and direction is moved by one unit of its
    rounding, which redraws the rounding errors of all operations: measured on every image in float32, where an
    activation at its kink can make one image far worse than another, and on a few images of every call in float64.

    Parameters
    ----------
    function
        The module as a function of images.
    batch
        The only batch size the module takes (an exported program of static shape); None: any.
    budget_mib
        Memory for activations in MiB: images and directions go through in pieces that fit.
    """

    method = "torch"

    def __init__(self, function: SourceFunction, *, batch: int | None = None, budget_mib: int = 2048) -> None:
        self.function = function
        self.batch = batch
        self._budget = budget_mib * 2**20
        self._row_bytes = 0
        self._pushforward = Pushforward(function.module)
        self.rows_done = 0
        self.fallback_ops: dict[str, int] = {}

    def __call__(
        self,
        images: Float32Array,
        directions: Float32Array,
        columns: Columns = 0,  # noqa: ARG002
        further: FurtherRows = NOTHING,  # noqa: ARG002 - none is there: `one_for_all`
        *,
        judged: int | None = None,
    ) -> Derivatives:
        """Differentiate at ``images`` (n, C, H, W) along ``directions`` (n, D, C, H, W), of any generators.

        Errors are estimated along the first ``judged`` directions; None: along all.

        Raises `SourceError` where the module fails or gives NaN or infinity.
        """
        x, v = self.function.tensor(images), self.function.tensor(directions)
        value, tangent = self._differentiate(x, v)
        if not (torch.isfinite(value).all() and torch.isfinite(tangent).all()):
            raise SourceError(
                "the torch module gives NaN or infinity on these images",
                reason="NON_FINITE_OUTPUT",
                subject=self.function.output or "output",
                hint="check the preprocessing and the module's weights",
            )
        if judged == 0:
            return Derivatives(value.cpu().numpy(), tangent.double().cpu().numpy(), (), COVERAGE)
        some = slice(None) if judged is None else slice(judged)
        value_error, error = self._errors(x, v[:, some], value, tangent[:, some])
        return Derivatives(
            value=value.cpu().numpy(),
            tangent=tangent.double().cpu().numpy(),
            spreads=patterns(error, tuple(tangent[:, some].shape)),
            coverage=COVERAGE,
            value_spreads=patterns(value_error, tuple(value.shape)),
        )

    def _differentiate(self, x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count, lanes = v.shape[:2]
        images, at_once = self._plan(x, lanes)
        parts = []
        for piece in batches(count, images):
            tangents = []
            for start in range(0, lanes, at_once):
                some = v[piece, start : start + at_once].transpose(0, 1)
                value, tangent = self._pushforward(self.function, x[piece], some)
                tangents.append(tangent.transpose(0, 1))
                self.rows_done += images * (1 + len(some))
            parts.append((value, torch.cat(tangents, dim=1)))
        values, joined = (torch.cat(tensors)[:count] for tensors in zip(*parts, strict=True))
        return values, joined

    def _plan(self, x: torch.Tensor, lanes: int) -> tuple[int, int]:
        """Return how many images and directions go through at once; at least one of each."""
        batch = self.batch or 1
        if self._row_bytes == 0:
            sample = x[next(batches(len(x), batch))]
            self._row_bytes = max(1, _LIVE * _largest(self.function, sample) * x.element_size() // batch)
        rows = max(2, self._budget // self._row_bytes)
        at_once = max(1, min(lanes, rows // batch - 1))
        return self.batch or max(1, min(len(x), rows // (1 + at_once))), at_once

    def _errors(
        self, x: torch.Tensor, v: torch.Tensor, value: torch.Tensor, tangent: torch.Tensor
    ) -> tuple[Float64Array, Float64Array]:
        """Return the norms of the errors of z, (n,), and of the derivatives, (n, D)."""
        single = self.function.precision == "float32"
        some = slice(None) if single else slice(_REDRAWN)
        moved_value, moved = self._differentiate(jittered(x[some]), jittered(v[some], _DIRECTION))
        # Outputs of all images are of one size: their mean square knows more than each alone.
        pooled = np.sqrt(np.mean(_norms(moved_value - value[some], 1) ** 2))
        errors = _norms(moved - tangent[some], 2)
        sizes = _norms(value, 1), _norms(tangent, 2)
        if single:
            return np.full_like(sizes[0], pooled), errors
        shares = (
            _share(error, size[some])
            for error, size in ((np.full_like(sizes[0][some], pooled), sizes[0]), (errors, sizes[1]))
        )
        return sizes[0] * next(shares), sizes[1] * next(shares)


_REDRAWN = 4
"""Images of a call that show the rounding of float64, which is all but the same on every image."""

_LIVE = 8
"""How many tensors as large as the largest a row is taken to hold at a time: value and tangent, in and out, and those
that skip connections keep."""


def _share(error: Float64Array, size: Float64Array) -> float:
    """Return how large errors are for their size; where all of it is 0, exactly on kinks, a unit of rounding."""
    whole = float(np.sum(size**2))
    return float(np.sqrt(np.sum(error**2) / whole)) if whole > 0 else float(np.finfo(np.float64).eps)


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds the largest tensor that any operator makes while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *(tensor.numel() for tensor in tensors)])
        return result


def _largest(function: SourceFunction, x: torch.Tensor) -> int:
    with torch.no_grad(), _Largest() as mode:
        function(x)
    return int(mode.elements)


def _norms(values: torch.Tensor, lead: int) -> Float64Array:
    norms: Float64Array = values.double().reshape(*values.shape[:lead], -1).norm(dim=-1).cpu().numpy()
    return norms


def jittered(values: torch.Tensor, unit: float | None = None) -> torch.Tensor:
    """Move every element by one relative unit of rounding (default: of its precision), up or down."""
    unit = float(torch.finfo(values.dtype).eps) if unit is None else unit
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=tuple(values.shape))
    return values * (1 + torch.as_tensor(signs).to(values) * unit)
