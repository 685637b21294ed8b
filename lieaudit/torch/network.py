"""A module on a set of images, mapped and ready to be differentiated with respect to the conjugation of its parts.

Every module of the tree that has a grid at its boundaries, and everything that a module does in its own ``forward``
beside its parts, has a row of its own: its contribution C (Gruver et al. 2023, Eq. 5). Where module k is conjugated
with T_{α_k}, what its parent does itself is conjugated with T_{α_parent} around the parent and T_{−α_parent} around k,
so that the boundaries of k move by α_k − α_parent. All rows are derivatives of the network; that they add up to L F,
which is differentiated without any of them, is a check and no identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lieaudit.errors import SourceError
from lieaudit.layouts.axes import image_axes
from lieaudit.layouts.layout import layout_of
from lieaudit.metrics.head import Float64Array, Head
from lieaudit.metrics.lee import OutputAction
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import Generator, check_convention, get_generator
from lieaudit.torch.action import Action
from lieaudit.torch.conjugation import Conjugation
from lieaudit.torch.function import SourceFunction
from lieaudit.torch.head import module_choice
from lieaudit.torch.jvp import Pushforward
from lieaudit.torch.module_map import ModuleMap, map_modules

OWN = "own operations"
"""What a module does in its own ``forward``, outside its parts; the whole network's stand under just this name."""

HEAD = "output head"
"""A pointwise function of a map, applied outside the module: a part of its own."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the network: a module without parts, or what a module does itself.

    Attributes
    ----------
    label
        As reports name it.
    module
        Dotted name; empty for the network and its head.
    own
        Whether it is what the module does itself, beside its parts.
    moves
        Whether it has a row: False where it sees no grid and so contributes exactly nothing.
    """

    label: str
    module: str
    own: bool = False
    moves: bool = True


class Network:
    """What attributions under all generators share.

    Attributes
    ----------
    modules
        The map of the submodules.
    names
        Those with a grid at their boundaries.
    parts
        What adds up to the network, its head last.
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
        self._image = layout_of(image_axes(x.shape))
        self._pushforward = Pushforward(function.module)
        self.parts = self._parts()

    def holder(self, name: str) -> str:
        """Return the nearest module of `names` around one; empty for the whole network."""
        parent = self.modules.parents[name]
        while parent and parent not in self.names:
            parent = self.modules.parents[parent]
        return parent

    def _parts(self) -> tuple[Part, ...]:
        holders = {self.holder(name) for name in self.names}
        parts = []
        for name in self.modules.calls:
            if name not in self.names:
                if not any(other.startswith(f"{name}.") for other in self.modules.calls):
                    parts.append(Part(name, name, moves=False))
            elif name not in holders:
                parts.append(Part(name, name))
            elif self._acts(name):
                parts.append(Part(f"{name}: {OWN}", name, own=True))
        if not parts or self._acts(""):
            parts.append(Part(OWN, "", own=True))
        if self.head.spatial and self.head.function != "identity":
            parts.append(Part(HEAD, "", own=True, moves=False))
        return tuple(parts)

    def _acts(self, name: str) -> bool:
        # a declared layout may differ from what the tensor had, so that the action differs between two boundaries
        return self.modules.acts(name) or bool(self.spec.layouts)

    def action(self, generator: str | Generator, zero_point: tuple[float, ...] = (0.0,)) -> Action:
        """Return the infinitesimal action of a generator on this network's tensors."""
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
        """Return z of F(α), α of shape (S,) or (S, n) for the S modules of `names`, their parts included."""
        modules, spatial = self.modules, self._spatial(action)
        with Conjugation(self.function.module, modules, self.names, action, alpha, spatial=spatial):
            return self.function(self.x)

    def contributions(
        self, generator: str | Generator, zero_point: tuple[float, ...] = (0.0,)
    ) -> tuple[Float64Array, dict[str, Float64Array]]:
        """Return L F (n, *K), and C (n, *K) of every part by its label, under one generator."""
        action = self.action(generator, zero_point)
        moving = [part for part in self.parts if part.moves]
        rows = self._rows(action, moving)
        z = self._z.double().cpu().numpy()
        output = OutputAction.of(self.spec)
        moved = output.tangents(z, [generator])[:, 0] if self._spatial(action) else np.zeros_like(z)
        vectors = {
            part.label: row - moved if part.label == OWN else row for part, row in zip(moving, rows, strict=True)
        }
        if vectors:
            headed = self.head.differential(z, np.stack(list(vectors.values()), axis=1))
            vectors = {label: headed[:, k] for k, label in enumerate(vectors)}
        found = {part.label: vectors.get(part.label, np.zeros_like(z)) for part in self.parts}
        if HEAD in found:
            last = output.tangents(self.head.value(z), [generator])[:, 0]
            found[HEAD] = self.head.differential(z, moved[:, None])[:, 0] - last
        return self.lie(action), found

    def lie(self, action: Action) -> Float64Array:
        """Return L F = Dh(z)[Dz(x)[X x]] − X' F, float64 (n, *K), of the network as it is."""
        tangent = action(self.x, self._image, image=True)
        value, pushed = self._pushforward(self.function, self.x, tangent[None])
        _require_finite(pushed, self.function)
        z, dz = value.double().cpu().numpy(), pushed[0].double().cpu().numpy()
        lie = self.head.differential(z, dz[:, None])
        if self.head.spatial:
            lie = lie - OutputAction.of(self.spec).tangents(self.head.value(z), [action.generator])
        return np.asarray(lie[:, 0])

    def _spatial(self, action: Action) -> bool:
        """Say whether the action moves the output; a gain acts on no output."""
        return self.head.spatial and get_generator(action.generator).spatial

    def _rows(self, action: Action, parts: Sequence[Part]) -> Float64Array:
        """Return ∂z/∂α of these parts, (P, n, *K), in chunks under the memory budget."""
        count = len(parts)
        if count == 0:
            return np.zeros((0, *self._z.shape))
        weights = self._weights(parts)
        whole = next((at for at, part in enumerate(parts) if part.label == OWN), None)
        image = action(self.x, self._image, image=True)

        def network(alpha: torch.Tensor) -> torch.Tensor:
            x = self.x if whole is None else self.x + alpha[whole] * image
            modules, spatial = self.modules, self._spatial(action)
            with Conjugation(self.function.module, modules, self.names, action, weights @ alpha, spatial=spatial):
                return self.function(x)

        zero = torch.zeros(count, dtype=self.function.dtype, device=self.function.device)
        basis = torch.eye(count, dtype=zero.dtype, device=zero.device)
        chunk = self._chunk()
        found = [self._pushforward(network, zero, basis[start : start + chunk])[1] for start in range(0, count, chunk)]
        return torch.cat(found).double().cpu().numpy()

    def _weights(self, parts: Sequence[Part]) -> torch.Tensor:
        """Return by how much the boundaries of each module of `names` move with each part's α, (S, P)."""
        weights = np.zeros((len(self.names), len(parts)))
        for column, part in enumerate(parts):
            for row, name in enumerate(self.names):
                weights[row, column] = (name == part.module) - (part.own and self.holder(name) == part.module)
        return torch.as_tensor(weights).to(self.function.device, self.function.dtype)

    def _chunk(self) -> int:
        """How many rows fit: a row holds a few of the largest boundary tensors at a time, here taken as eight."""
        bounds = [b for calls in self.modules.calls.values() for call in calls for b in (*call.inputs, *call.outputs)]
        sample = max(2, len(self.x))
        largest = max((int(np.prod(b.shape)) for b in bounds), default=1) * len(self.x) // sample
        each = 8 * largest * self.x.element_size()
        return max(1, self.spec.budget // max(1, each))

    def inclusive(self, contributions: Mapping[str, Float64Array]) -> dict[str, Float64Array]:
        """Add up the parts of every module of `names`, its own operations included."""
        found = {name: np.zeros(next(iter(contributions.values())).shape) for name in self.names}
        for part in self.parts:
            name = part.module if part.module in found else ""
            while name:
                found[name] += contributions[part.label]
                name = self.holder(name)
        return found


def _require_finite(values: torch.Tensor, function: SourceFunction) -> None:
    if not bool(torch.isfinite(values).all()):
        raise SourceError(
            "the torch module gives NaN or infinity on these images",
            reason="NON_FINITE_OUTPUT",
            subject=function.output or "output",
            hint="check the preprocessing and the module's weights",
        )
