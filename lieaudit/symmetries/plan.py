"""Which directions an audit measures, and how every generator that was asked for is combined from them.

Affine fields span six dimensions (`lieaudit.symmetries.affine`), and everything that is measured of a model is linear
in the field. So only as many directions are measured as the asked generators span; where that is fewer than there are
generators, directions of the basis, each as one asked generator where one is a multiple of it. What shares no part of
the basis with the others is measured itself: a single shear costs one direction.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lieaudit.symmetries.affine import BASIS, basis_generators, coefficients, displacement_matrix, field_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lieaudit.symmetries.generators import Generator

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plan:
    """G generators that were asked for, as combinations of M measured directions.

    Attributes
    ----------
    asked, measured
        The generators, and the directions that are measured in their place.
    weights
        float64 (G, M): asked_g = Σ_m weights[g, m] measured_m.
    basis
        float64 (6, M): the same for `lieaudit.symmetries.affine.BASIS`; None where what is measured does not span it.
    """

    asked: tuple[Generator, ...]
    measured: tuple[Generator, ...]
    weights: Array
    basis: Array | None = None

    @classmethod
    def direct(cls, asked: Sequence[Generator]) -> Plan:
        """Return the plan that measures every generator itself."""
        return cls(tuple(asked), tuple(asked), np.eye(len(asked)))

    @property
    def digest(self) -> str:
        """What tells what is measured by one plan from what is by another, 16 hex digits."""
        names = [generator.id for generator in self.measured]
        return hashlib.sha256(repr((names, self.weights.tolist())).encode()).hexdigest()[:16]

    @property
    def combined_from(self) -> tuple[tuple[str, ...], ...]:
        """The directions that each asked generator is combined from; none where it is measured itself."""
        names = [generator.id for generator in self.measured]
        found = []
        for generator, row in zip(self.asked, self.weights, strict=True):
            sources = tuple(names[m] for m in np.flatnonzero(row))
            found.append(() if sources == (generator.id,) else sources)
        return tuple(found)

    def combined(self, rows: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Yield for each asked generator its combination (n, …) of the rows of the measured directions (n, M, …)."""
        for weights in self.weights:
            yield combination(rows, weights)

    def bars(self, bars: Array) -> Array:
        """Return bounds for the asked generators (n, G) from those of the measured directions (n, M)."""
        return np.asarray(bars @ np.abs(self.weights).T)


def combination(rows: npt.NDArray[Any], weights: Array) -> npt.NDArray[Any]:
    """Return Σ_m weights[m] rows[:, m]; what is measured itself passes unchanged, to the last bit."""
    parts = np.flatnonzero(weights)
    if not len(parts):
        return np.zeros_like(rows[:, 0])
    total = rows[:, parts[0]] if weights[parts[0]] == 1.0 else weights[parts[0]] * rows[:, parts[0]]
    for m in parts[1:]:
        total = total + weights[m] * rows[:, m]
    return total


def plan_of(asked: Sequence[Generator], height: int, width: int, *, convention: str) -> Plan:
    """Choose the fewest directions that the asked generators are combinations of.

    Parameters
    ----------
    asked
        Generators of different ids.
    height, width
        Of the images.
    convention
        Decides the unit of the translations.
    """
    affine = [g for g, generator in enumerate(asked) if generator.spatial and generator.affine]
    fields = {g: coefficients(field_of(asked[g], height, width, convention=convention), height, width) for g in affine}
    size = np.sqrt(np.diag(displacement_matrix(height, width)))
    found: list[tuple[Generator, Array | None, dict[int, float]]] = []
    for members in _related(fields):
        found += _chosen(asked, {g: fields[g] for g in members}, np.where(size > 0, size, 1.0))
    found += [(generator, None, {g: 1.0}) for g, generator in enumerate(asked) if g not in fields]
    # in the order asked for; what was not comes last
    names = [generator.id for generator in asked]
    found.sort(key=lambda entry: names.index(entry[0].id) if entry[0] in asked else len(names))
    weights = np.zeros((len(asked), len(found)))
    for m, (_, _, shares) in enumerate(found):
        for g, share in shares.items():
            weights[g, m] = share
    return Plan(tuple(asked), tuple(entry[0] for entry in found), weights, _basis([entry[1] for entry in found]))


def _related(fields: dict[int, Array]) -> list[list[int]]:
    """Group generators that share parts of the basis, directly or by others, in the order of the basis."""
    groups: list[tuple[set[int], list[int]]] = []
    for g, c in fields.items():
        parts, members = set(np.flatnonzero(c).tolist()), [g]
        for group in [group for group in groups if group[0] & parts]:
            groups.remove(group)
            parts, members = parts | group[0], [*group[1], *members]
        groups.append((parts, sorted(members)))
    return [members for _, members in sorted(groups, key=lambda group: min(group[0]))]


def _chosen(
    asked: Sequence[Generator], fields: dict[int, Array], size: Array
) -> list[tuple[Generator, Array | None, dict[int, float]]]:
    """Choose directions for generators that share parts of the basis: direction, coefficients, shares by generator."""
    matrix = np.stack(list(fields.values()))
    parts = np.flatnonzero(np.any(matrix != 0, axis=0))
    rank = int(np.linalg.matrix_rank(matrix[:, parts] * size[parts]))
    if rank == len(fields):
        return [(asked[g], c, {g: 1.0}) for g, c in fields.items()]
    if rank == len(parts):
        found = []
        for i in parts:
            own = next((g for g, c in fields.items() if set(np.flatnonzero(c)) == {i}), None)
            direction = basis_generators()[i] if own is None else asked[own]
            unit = np.eye(len(BASIS))[i] * (1.0 if own is None else fields[own][i])
            found.append((direction, unit, {g: float(c[i] / unit[i]) for g, c in fields.items() if c[i]}))
        return found
    return _independent(asked, fields, size, rank)


def _independent(
    asked: Sequence[Generator], fields: dict[int, Array], size: Array, rank: int
) -> list[tuple[Generator, Array | None, dict[int, float]]]:
    """Choose as many of the generators as are independent, those first that stand out most from the chosen ones."""
    names, matrix = list(fields), np.stack(list(fields.values())) * size
    rest = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    chosen: list[int] = []
    for _ in range(rank):
        chosen.append(int(np.argmax(np.round(np.linalg.norm(rest, axis=1), 6))))
        axis = rest[chosen[-1]] / np.linalg.norm(rest[chosen[-1]])
        rest = rest - np.outer(rest @ axis, axis)
    shares = np.linalg.lstsq(matrix[chosen].T, matrix.T, rcond=None)[0]
    shares[:, chosen] = np.eye(rank)
    return [
        (asked[names[at]], fields[names[at]], {g: float(share) for g, share in zip(names, shares[m], strict=True)})
        for m, at in enumerate(chosen)
    ]


def _basis(measured: list[Array | None]) -> Array | None:
    """Return the basis as combinations of measured directions with these coefficients, or None where they span less."""
    affine = {m: c for m, c in enumerate(measured) if c is not None}
    if len(affine) < len(BASIS):
        return None
    found = np.zeros((len(BASIS), len(measured)))
    found[:, list(affine)] = np.linalg.inv(np.stack(list(affine.values())))
    return found
