"""Layerwise attribution of a torch module: the exact Jacobian of the conjugated network F(α) at 0.

Its column k is the contribution C_k of module k to the Lie derivative (Gruver et al. 2023, Eq. 5): one forward-mode
row per module, vectorised over modules. Every module of the tree has its own α, so that a module's contribution is
known beside those of its parts: what is left over, C_module − Σ C_parts, belongs to the operations of its own
``forward`` (residual additions, functional calls). These left-overs and the modules without parts add up to the whole
Lie derivative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lieaudit.derivatives.rounding import COVERAGE
from lieaudit.errors import DataError, SourceError
from lieaudit.layerwise.summary import depth_totals, kind_totals
from lieaudit.metrics.head import Float64Array, Head
from lieaudit.metrics.lee import OutputAction
from lieaudit.report import Layerwise, Segment
from lieaudit.spec import AuditSpec
from lieaudit.statistics.bootstrap import bootstrap_interval
from lieaudit.symmetries import check_convention
from lieaudit.torch.action import Action
from lieaudit.torch.conjugation import Conjugation, ModuleMap, changed, map_modules
from lieaudit.torch.function import SourceFunction
from lieaudit.torch.head import module_choice
from lieaudit.torch.jvp import Pushforward, jittered
from lieaudit.torch.layouts import feature_map

OWN = "own operations"
"""What a module does in its own ``forward``, outside its parts; the whole network's stand under just this name."""

_ROUNDING = {"float64": 1e-12, "float32": 1e-5}
"""Left-overs below this share of ‖L F‖ per module are rounding of the subtraction: the module does nothing itself."""

_IMAGES = 8
"""Images at a time."""

_REDRAWN = 2
"""Images on which the rounding errors are redrawn to measure them."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """The contributions under one generator.

    Attributes
    ----------
    lie
        L F, float64 (n, *K).
    inclusive
        C of every module that could be conjugated, parts included: name → (n, *K).
    parts
        What adds up to L F: modules without parts, and left-overs ``name: own operations``; name → (n, *K).
    completeness
        ‖Σ parts − L F‖ / ‖L F‖ over all images.
    layerwise
        The same as a report holds it.
    """

    lie: Float64Array
    inclusive: Mapping[str, Float64Array]
    parts: Mapping[str, Float64Array]
    completeness: float
    layerwise: Layerwise


def attribute(
    module: torch.nn.Module,
    images: npt.NDArray[np.float32],
    spec: AuditSpec | None = None,
    *,
    precision: str = "float64",
    device: str = "cpu",
    others: Mapping[str, object] | None = None,
    zero_point: npt.ArrayLike = 0.0,
    head: Head | None = None,
) -> dict[str, Attribution]:
    """Attribute the Lie derivative of a module to its parts, for each generator of the specification.

    Parameters
    ----------
    module
        Any module.
    images
        float32 (n, C, H, W), as the module takes them.
    spec
        Generators, conventions, head, ``depth`` of the module tree, and ``layouts``: module name → layout of its
        output, where the tracked one is unknown (see `lieaudit.torch.layouts.declared`).
    precision, device, others
        See `lieaudit.torch.SourceFunction`.
    zero_point
        What a raw intensity of 0 is in these images, one value or one per channel (for ``brightness``).
    head
        The head, where an audit has settled it; default: what ``spec.head`` and the outputs say.

    Raises
    ------
    SourceError
        The module fails, has no forward derivative, gives NaN or infinity, or is not called the same way on every
        batch.
    SpecError
        The declared layouts or the head do not fit.
    DataError
        The images are not (n, C, H, W) with n ≥ 1.
    """
    spec = spec or AuditSpec()
    images = check_images(images)
    function = SourceFunction(
        module, precision=precision, device=device, input=spec.input or "", output=spec.output or "", others=others
    )
    zero = tuple(float(v) for v in np.atleast_1d(np.asarray(zero_point, np.float64)))
    networks: list[Network] = []
    for start in range(0, len(images), _IMAGES):
        x = function.tensor(images[start : start + _IMAGES])
        networks.append(Network(function, x, spec, head=networks[0].head if networks else head))
    for network in networks[1:]:
        for name in set(network.modules.calls) ^ set(networks[0].modules.calls):
            raise changed(name)
    redrawn = Network(function, jittered(networks[0].x[:_REDRAWN]), spec, head=networks[0].head)
    found = {}
    for generator in spec.generators:
        pieces = [network.contributions(generator, zero) for network in networks]
        lie = np.concatenate([piece[0] for piece in pieces])
        inclusive = {n: np.concatenate([piece[1][n] for piece in pieces]) for n in networks[0].names}
        moved = redrawn.contributions(generator, zero)
        found[generator] = _attribution(networks[0], spec, lie, inclusive, moved)
    return found


def check_images(images: npt.ArrayLike) -> npt.NDArray[Any]:
    """Give images as an array of floats (n, C, H, W). Raises `DataError` where they are none."""
    found = np.asarray(images)
    if found.ndim != 4 or 0 in found.shape or found.dtype.kind != "f":
        raise DataError(
            f"images are {found.dtype} of shape {found.shape}, not floats (N, C, H, W) with at least one image",
            reason="INVALID_IMAGES",
            subject="images",
        )
    return found


def _attribution(
    network: Network,
    spec: AuditSpec,
    lie: Float64Array,
    inclusive: Mapping[str, Float64Array],
    moved: tuple[Float64Array, Mapping[str, Float64Array]],
) -> Attribution:
    parts = network.parts(inclusive, lie)
    count = len(moved[0])
    change = network.parts(
        {name: value - inclusive[name][:count] for name, value in moved[1].items()},
        moved[0] - lie[:count],
        all_own=True,
    )
    norm = float(np.linalg.norm(lie))
    total = np.sum(list(parts.values()), axis=0)
    completeness = float(np.linalg.norm(total - lie)) / norm if norm > 0 else 0.0
    segments = tuple(_segment(network, spec, label, rows, lie, change[label]) for label, rows in parts.items())
    layerwise = Layerwise(
        segments,
        completeness,
        "torch",
        by_kind=kind_totals(segments),
        by_depth=depth_totals(segments),
        merged=network.modules.merged,
    )
    return Attribution(lie, inclusive, parts, completeness, layerwise)


def _segment(
    network: Network, spec: AuditSpec, label: str, contribution: Float64Array, lie: Float64Array, change: Float64Array
) -> Segment:
    name = label.removesuffix(f": {OWN}")
    known = name in network.modules.calls
    inner = network.function.module.get_submodule(name) if known else network.function.module
    size = int(np.prod(lie.shape[1:]))
    rows, flat = contribution.reshape(len(lie), size), lie.reshape(len(lie), size)
    lee = np.sum(rows**2, axis=1) / size
    mean, total = float(lee.mean()), float(np.sum(flat**2))
    interval: tuple[float, ...] = ()
    if len(lee) > 1:
        ends = bootstrap_interval(lee, resamples=spec.bootstrap, seed=spec.seed) if lee.any() else np.zeros(2)
        interval = tuple(float(end) for end in ends)
    # The redrawn images stand for all: their change, root mean square, bounds the error of every image's square.
    error = COVERAGE * float(np.sqrt(np.mean(np.sum(change.reshape(len(change), size) ** 2, axis=1) / size)))
    return Segment(
        name=label,
        ops=(type(inner).__name__,),
        kind=kind_of(inner) if known and not label.endswith(OWN) else "residual",
        lee=mean,
        norm=float(np.sqrt(lee * size).mean()),
        share=float(np.sum(rows * flat)) / total if total > 0 else 0.0,
        lee_ci95=interval,
        error_bar=(2 * float(np.sqrt(lee).mean()) + error) * error,
        commutes=known and name not in network.names,
        boundary=name,
        layout=network.modules.layout(name).text if known else "",
        depth=name.count(".") + 1 if known else 0,
    )


class Network:
    """A module on a set of images, mapped: what attributions under all generators share.

    Attributes
    ----------
    modules
        The map of the submodules.
    names
        Those with a grid at their boundaries, in the order of their calls.
    head
        The head of the outputs.
    """

    def __init__(self, function: SourceFunction, x: torch.Tensor, spec: AuditSpec, *, head: Head | None = None) -> None:
        self.function = function
        self.x = x
        self.spec = spec
        sample = x if len(x) > 1 else x.expand(2, -1, -1, -1)
        self.modules: ModuleMap = map_modules(function, sample, layouts=spec.layouts, depth=spec.depth)
        self.names = [name for name in self.modules.calls if not self.modules.trivial(name)]
        check_convention(interpolation=spec.interpolation, padding=spec.padding, convention=spec.convention)
        with torch.no_grad():
            self._z = function(x)
        _require_finite(self._z, function)
        self.head: Head = head or module_choice(spec, function, x, self._z).head
        self._pushforward = Pushforward(function.module)

    def action(self, generator: str, zero_point: tuple[float, ...] = (0.0,)) -> Action:
        """Give the infinitesimal action of a generator on this network's tensors."""
        spec = self.spec
        return Action(
            generator,
            spec.interpolation,
            spec.padding,
            spec.convention,
            self.function.dtype,
            self.function.device,
            zero_point,
        )

    def conjugated(self, action: Action, alpha: torch.Tensor) -> torch.Tensor:
        """Give z of F(α), α of shape (S,) or (S, n) for the S modules of `names`."""
        with Conjugation(self.function.module, self.modules, self.names, action, alpha):
            return self.function(self.x)

    def contributions(
        self, generator: str, zero_point: tuple[float, ...] = (0.0,)
    ) -> tuple[Float64Array, dict[str, Float64Array]]:
        """Give L F (n, *K), and C (n, *K) of every module of `names` with its parts, under one generator."""
        action = self.action(generator, zero_point)
        rows = self._rows(action)
        z = self._z.double().cpu().numpy()
        headed = self.head.differential(z, rows.swapaxes(0, 1)).swapaxes(0, 1) if len(rows) else rows
        return self.lie(action), {name: np.asarray(row) for name, row in zip(self.names, headed, strict=True)}

    def lie(self, action: Action) -> Float64Array:
        """Give L F = Dh(z)[Dz(x)[X x]] − X' F, float64 (n, *K)."""
        tangent = action(self.x, feature_map(self.x.shape), image=True)
        value, pushed = self._pushforward(self.function, self.x, tangent[None])
        _require_finite(pushed, self.function)
        z, dz = value.double().cpu().numpy(), pushed[0].double().cpu().numpy()
        lie = self.head.differential(z, dz[:, None])
        if self.head.spatial:
            lie = lie - OutputAction.of(self.spec).tangents(self.head.value(z), [action.generator])
        return np.asarray(lie[:, 0])

    def _rows(self, action: Action) -> Float64Array:
        """Give ∂z/∂α_k for every module of `names`: (S, n, *K), in chunks under the memory budget."""
        count = len(self.names)
        alpha = torch.zeros(count, dtype=self.function.dtype, device=self.function.device)
        if count == 0:
            return np.zeros((0, *self._z.shape))
        basis = torch.eye(count, dtype=alpha.dtype, device=alpha.device)
        chunk = self._chunk()
        parts = [
            self._pushforward(lambda a: self.conjugated(action, a), alpha, basis[start : start + chunk])[1]
            for start in range(0, count, chunk)
        ]
        return torch.cat(parts).double().cpu().numpy()

    def _chunk(self) -> int:
        """How many rows fit: a row holds a few of the largest boundary tensors at a time, here taken as eight."""
        bounds = [b for calls in self.modules.calls.values() for call in calls for b in (*call.inputs, *call.outputs)]
        sample = max(2, len(self.x))
        largest = max((int(np.prod(b.shape)) for b in bounds), default=1) * len(self.x) // sample
        each = 8 * largest * self.x.element_size()
        return max(1, self.spec.budget_mib * 2**20 // max(1, each))

    def parts(
        self, inclusive: Mapping[str, Float64Array], lie: Float64Array, *, all_own: bool = False
    ) -> dict[str, Float64Array]:
        """Give each module's contribution without its parts; modules without a grid contribute exactly 0.

        Left-overs that are rounding of the subtraction are left out, unless ``all_own``.
        """
        own: dict[str, Float64Array] = {name: value.copy() for name, value in inclusive.items()}
        rest = lie.copy()
        holders = set()
        for name, value in inclusive.items():
            parent = self.modules.parents[name]
            while parent and parent not in own:
                parent = self.modules.parents[parent]
            if parent:
                own[parent] -= value
                holders.add(parent)
            else:
                rest -= value
        limit = -1.0 if all_own else _ROUNDING[self.function.precision] * float(np.linalg.norm(lie)) * len(own)
        parts: dict[str, Float64Array] = {}
        for name in self.modules.calls:
            if name not in own:
                if not any(other.startswith(f"{name}.") for other in self.modules.calls):
                    parts[name] = np.zeros_like(lie)
            elif name not in holders:
                parts[name] = own[name]
            elif float(np.linalg.norm(own[name])) > limit:
                parts[f"{name}: {OWN}"] = own[name]
        if not parts or float(np.linalg.norm(rest)) > limit:
            parts[OWN] = rest
        return parts


def _require_finite(values: torch.Tensor, function: SourceFunction) -> None:
    if not bool(torch.isfinite(values).all()):
        raise SourceError(
            "the torch module gives NaN or infinity on these images",
            reason="NON_FINITE_OUTPUT",
            subject=function.output or "output",
            hint="check the preprocessing and the module's weights",
        )


_KINDS: tuple[tuple[str, tuple[type[torch.nn.Module], ...]], ...] = (
    ("attention", (torch.nn.MultiheadAttention,)),
    (
        "normalisation",
        (
            torch.nn.modules.batchnorm._BatchNorm,  # noqa: SLF001 - the base class has no other name
            torch.nn.LayerNorm,
            torch.nn.GroupNorm,
            torch.nn.RMSNorm,
            torch.nn.LocalResponseNorm,
        ),
    ),
    (
        "pooling",
        (
            torch.nn.modules.pooling._MaxPoolNd,  # noqa: SLF001
            torch.nn.modules.pooling._AvgPoolNd,  # noqa: SLF001
            torch.nn.modules.pooling._AdaptiveAvgPoolNd,  # noqa: SLF001
            torch.nn.modules.pooling._AdaptiveMaxPoolNd,  # noqa: SLF001
        ),
    ),
    ("upsampling", (torch.nn.Upsample, torch.nn.PixelShuffle, torch.nn.ConvTranspose2d)),
    ("pointwise linear", (torch.nn.Linear,)),
    ("rearrangement", (torch.nn.Identity, torch.nn.Flatten, torch.nn.Unflatten, torch.nn.Dropout)),
)


def kind_of(module: torch.nn.Module) -> str:
    """Say what kind of layer a module is, in the words of the layerwise report."""
    if isinstance(module, torch.nn.Conv2d):
        if max(module.stride) > 1:
            patches = module.kernel_size == module.stride
            return "patch embedding" if patches and module.in_channels <= 4 else "downsampling"
        return "pointwise linear" if max(module.kernel_size) == 1 else "convolution"
    for kind, types in _KINDS:
        if isinstance(module, types):
            return kind
    if type(module).__module__.startswith("torch.nn.modules.activation") or "Activation" in type(module).__name__:
        return "nonlinearity"
    return "module"
