"""A penalty for training: the LEE of a batch, estimated without bias by one JVP that gradients flow through.

Consistency regularisation with small transforms penalises tr(Σ M), the Lie derivatives' quadratic form (Gruver et al.
2023, C.1; examples/theory). `LieLoss` penalises the same without a step size: it draws one random combination of the
generators per image and squares the derivative along it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lieaudit.errors import SourceError, SpecError
from lieaudit.symmetries import derivative_matrix, get_generator, velocity_field
from lieaudit.symmetries.tangent import check_convention
from lieaudit.torch.function import evaluation, first_line, plain_kernels
from lieaudit.torch.written_out import WrittenOut

HEADS = ("identity", "softmax", "sigmoid", "spatial")


class LieLoss(torch.nn.Module):
    """Penalty Σ_g w_g LEE_g(F) of a batch (Gruver et al. 2023, Eq. 4), estimated with one JVP.

    Each image x moves along v = Σ_g ε_g √w_g X_g x with independent random signs ε_g. The cross terms of
    ‖DF[v] − X'_v F‖² vanish on average, so the estimate is unbiased, for any number of generators.

    The module is evaluated in evaluation mode (running statistics, no dropout), as it will be used and audited; its
    training flags are restored. Fused attention, which has no forward derivative, is switched off for the call, and
    functions whose forward derivative has a wrong gradient in torch are written out (`lieaudit.torch.written_out`).

    Parameters
    ----------
    generators
        Ids from `lieaudit.symmetries.GENERATORS`; with a mapping, the weight w_g of each.
    head
        What is penalised is F = h ∘ z of the module's raw output z: ``softmax`` over axis 1 (the audit's choice for
        logits), ``identity``, ``sigmoid``, or ``spatial`` for maps (n, C, H, W) that should move with the image.
    interpolation, padding
        As in `lieaudit.AuditSpec`; the derivative is the central one.
    zero_point
        What a raw intensity of 0 is in the images, one value or one per channel (brightness only).
    share
        Share of the batch that is differentiated, drawn at random in every call: cheaper, still unbiased.
    seed
        Of the signs and the share; None: torch's global generator.

    Raises
    ------
    SpecError
        INVALID_SPEC: unknown generator, head, interpolation or padding, no generator, a negative weight, a share
        outside (0, 1].
    """

    def __init__(
        self,
        generators: Sequence[str] | Mapping[str, float],
        *,
        head: str = "softmax",
        interpolation: str = "bilinear",
        padding: str = "reflect",
        zero_point: Sequence[float] = (0.0,),
        share: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        weights = dict(generators) if isinstance(generators, Mapping) else dict.fromkeys(generators, 1.0)
        if not weights or not all(w >= 0 for w in weights.values()):
            raise _invalid("generators", f"{weights or 'none'}: name at least one, with weights of at least 0")
        if head not in HEADS:
            raise _invalid("head", f"{head!r} is not one of {', '.join(HEADS)}")
        if not 0 < share <= 1:
            raise _invalid("share", f"{share} is not in (0, 1]")
        check_convention(interpolation=interpolation, padding=padding, convention="central")
        self.weights = {get_generator(name).id: float(w) for name, w in weights.items()}
        self.head = head
        self.share = share
        self._interpolation, self._padding = interpolation, padding
        self._zero_point = tuple(zero_point)
        self._random = None if seed is None else torch.Generator().manual_seed(seed)
        self._grids: dict[tuple[object, ...], tuple[torch.Tensor, ...]] = {}

    def forward(self, module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Return the estimate of Σ_g w_g LEE_g, a scalar that gradients of the module's parameters flow from.

        Parameters
        ----------
        module
            Maps images to one tensor z, (n, K) or (n, C', H', W').
        images
            (n, C, H, W), floating point, as the module takes them.

        Raises
        ------
        SourceError
            NO_FORWARD_DERIVATIVE: an operator of the module has none; NO_OUTPUT: z is not one tensor.
        """
        signs = self._signs(len(images)).to(images)
        if self.share < 1:
            kept = self._kept(len(images)).to(images.device)
            images, signs = images[kept], signs[kept]
        scaled = signs * torch.tensor([w**0.5 for w in self.weights.values()], dtype=torch.float64).to(images)
        tangent = self._act(images, scaled, zero_point=self._zero_point)
        with evaluation(module), plain_kernels(), WrittenOut():
            try:
                output, moved, *_ = torch.func.jvp(module, (images,), (tangent,))
            except (RuntimeError, NotImplementedError) as problem:
                if not any(words in str(problem) for words in ("forward AD", "forward-mode", "setup_context")):
                    raise
                raise SourceError(
                    f"the module has no forward derivative: {first_line(problem)}",
                    reason="NO_FORWARD_DERIVATIVE",
                    subject=type(module).__name__,
                    hint="replace that operator, or give its autograd.Function a jvp",
                ) from problem
        if not isinstance(output, torch.Tensor):
            raise SourceError(
                f"the module returns {type(output).__name__}, not one tensor",
                reason="NO_OUTPUT",
                subject=type(module).__name__,
                hint="penalise a module that returns the logits alone",
            )
        return self._lie_derivative(output, moved, scaled).square().mean()

    def _lie_derivative(self, z: torch.Tensor, dz: torch.Tensor, scaled: torch.Tensor) -> torch.Tensor:
        """Return Dh(z)[dz] − X' h(z)."""
        if self.head == "spatial":
            return dz - self._act(z, scaled)
        if self.head == "softmax":
            p = torch.softmax(z, dim=1)
            return p * (dz - (p * dz).sum(dim=1, keepdim=True))
        if self.head == "sigmoid":
            p = torch.sigmoid(z)
            return p * (1 - p) * dz
        return dz

    def _signs(self, count: int) -> torch.Tensor:
        draws = torch.randint(2, (count, len(self.weights)), generator=self._random)
        return 2.0 * draws - 1.0

    def _kept(self, count: int) -> torch.Tensor:
        return torch.randperm(count, generator=self._random)[: max(1, round(self.share * count))]

    def _act(self, h: torch.Tensor, scaled: torch.Tensor, zero_point: Sequence[float] | None = None) -> torch.Tensor:
        """Return Σ_g scaled_g X_g h for maps h (n, C, H, W) and coefficients (n, G); brightness acts on images only."""
        across, down, vx, vy = self._grid(h)
        gradient = (h @ across.mT, down @ h)
        fields = (torch.einsum("ng,ghw->nhw", scaled, v)[:, None] for v in (vx, vy))
        moved: torch.Tensor = sum(v * g for v, g in zip(fields, gradient, strict=True))  # type: ignore[assignment]
        gains = torch.tensor([get_generator(name).gain for name in self.weights]).to(h)
        if zero_point is not None and bool(gains.any()):
            zero = torch.tensor(zero_point).to(h).reshape(-1, 1, 1)
            moved = moved + (scaled @ gains)[:, None, None, None] * (h - zero)
        return moved

    def _grid(self, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the differentiation matrices and the fields of every generator on h's grid."""
        height, width = h.shape[-2:]
        key = (height, width, h.dtype, h.device)
        if key not in self._grids:
            across, down = (
                derivative_matrix(size, interpolation=self._interpolation, padding=self._padding)
                for size in (width, height)
            )
            vx, vy = np.stack(
                [velocity_field(name, height, width, convention="central") for name in self.weights], axis=1
            )
            self._grids[key] = tuple(torch.as_tensor(array).to(h) for array in (across, down, vx, vy))
        return self._grids[key]


def _invalid(subject: str, problem: str) -> SpecError:
    return SpecError(f"{subject}: {problem}", reason="INVALID_SPEC", subject=subject)
