"""Parts on the outputs of a model: every slice checked, and the elements that the audit needs of each output.

The audited function's raw output is one vector, the elements of all parts and weights behind one another, each once;
what is no part's is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lieaudit.parts.indexing import IndexingError
from lieaudit.parts.placing import Array
from lieaudit.parts.representations import REPRESENTATIONS, Anchors, Frame, Representation
from lieaudit.parts.text import PartText, Slice, invalid
from lieaudit.parts.weighting import Weighting, weighting_of

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Reading:
    """One result of a part: which elements of the raw vector it is made of, and how they move.

    Attributes
    ----------
    name
        ``boxes.centre`` for a result of a part that has two, else the part's name.
    part, representation
        What the user wrote, and how its items move.
    places, shape
        Where in the raw vector (n, K) the part's elements lie, and their shape.
    weighting, weight_places, weight_shape
        The same of its weights; None without.
    scale, weight_scales
        What the elements of the raw vector are multiplied by to be the output's own: powers of two.
    """

    name: str
    part: PartText
    representation: Representation
    places: Indices
    shape: tuple[int, ...]
    weighting: Weighting | None = None
    weight_places: Indices | None = None
    weight_shape: tuple[int, ...] = ()
    scale: float = 1.0
    weight_scales: Array | float = 1.0

    def raw(self, z: npt.NDArray[np.floating]) -> Array:
        """Return the part's elements (…, *S) of raw vectors (…, K), float64, as the output holds them."""
        found = np.asarray(z[..., self.places], np.float64).reshape(*z.shape[:-1], *self.shape)
        return found * self.scale if self.scale != 1.0 else found

    def weights(self, z: npt.NDArray[np.floating]) -> Array:
        """Return one weight for each item, (n, P); 1 where none were asked for."""
        if self.weighting is None or self.weight_places is None:
            return np.ones((len(z), math.prod(self.representation.items)))
        scores = np.asarray(z[:, self.weight_places], np.float64) * self.weight_scales
        return self.weighting(scores.reshape(len(z), *self.weight_shape))


@dataclass(frozen=True, slots=True)
class BoundParts:
    """All parts of an audit on the outputs of its model.

    Attributes
    ----------
    outputs, sizes
        The outputs that are read, in the order in which they are joined, and how many elements each has.
    kept
        Which elements of the joined outputs make the raw vector (K,).
    readings
        What is measured.
    """

    outputs: tuple[str, ...]
    sizes: tuple[int, ...]
    kept: Indices
    readings: tuple[Reading, ...]

    def scaled(self, factors: Array) -> BoundParts:
        """Return the same parts of raw vectors whose elements were multiplied by factors (K,), equal within a part."""
        readings = [
            replace(
                reading,
                scale=1.0 / float(factors[reading.places[0]]),
                weight_scales=1.0 / factors[reading.weight_places] if reading.weight_places is not None else 1.0,
            )
            for reading in self.readings
        ]
        return replace(self, readings=tuple(readings))


def outputs_of(parts: Sequence[PartText]) -> tuple[str, ...]:
    """Return the outputs that parts and weights are slices of, each once."""
    slices = [found for part in parts for found in (part.source, part.weight) if found is not None]
    return tuple(dict.fromkeys(found.output for found in slices))


def bind(
    parts: Sequence[PartText], shapes: Mapping[str, tuple[int, ...]], frame: Frame, anchors: Anchors | None = None
) -> BoundParts:
    """Fit parts to the shapes of outputs, without their batch axis.

    Raises
    ------
    SpecError
        INVALID_PART, with the tensor's shape: a slice is empty or overlaps another part's, a shape does not fit its
        representation, weights do not fit their items, or there is no output of that name.
    """
    names = outputs_of(parts)
    _check_outputs(parts, shapes)
    sizes = tuple(math.prod(shapes[name]) for name in names)
    starts = dict(zip(names, np.cumsum([0, *sizes[:-1]]), strict=True))
    taken: dict[int, str] = {}
    found = []
    for part in parts:
        places, shape = _places(part, part.source, shapes)
        _claim(part, places, taken, starts[part.source.output], shapes)
        weighted = _places(part, part.weight, shapes, reshape=False) if part.weight is not None else None
        found.append((part, places, shape, weighted))
    used = [starts[part.source.output] + places for part, places, _, _ in found]
    used += [starts[part.weight.output] + w[0] for part, _, _, w in found if w is not None and part.weight is not None]
    kept = np.fromiter(dict.fromkeys(np.concatenate([u.ravel() for u in used]).tolist()), np.intp)
    where = np.full(sum(sizes), -1, np.intp)
    where[kept] = np.arange(len(kept))
    readings: list[Reading] = []
    for (part, places, shape, weighted), joined in zip(found, used, strict=False):
        del places
        for representation in REPRESENTATIONS[part.representation](part, shape, frame, anchors or {}):
            name = ".".join(filter(None, (part.name, representation.suffix)))
            reading = Reading(name, part, representation, where[joined.ravel()], shape)
            if weighted is not None and part.weight is not None:
                at = where[starts[part.weight.output] + weighted[0].ravel()]
                weighting = weighting_of(part, weighted[1], representation.items)
                reading = replace(reading, weighting=weighting, weight_places=at, weight_shape=weighted[1])
            readings.append(reading)
    return BoundParts(names, sizes, kept, tuple(readings))


def _check_outputs(parts: Sequence[PartText], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for part in parts:
        for source in (part.source, part.weight):
            if source is not None and source.output not in shapes:
                listed = ", ".join(f"{name!r} {_shown(shape)}" for name, shape in shapes.items())
                raise invalid(part.name, f"the graph has no output {source.output!r}", f"it has {listed}")


def _places(
    part: PartText, source: Slice, shapes: Mapping[str, tuple[int, ...]], *, reshape: bool = True
) -> tuple[Indices, tuple[int, ...]]:
    """Return the flat places of a slice in its output, and its shape."""
    tensor = shapes[source.output]
    whole = np.arange(math.prod(tensor), dtype=np.intp)
    shape = part.shape if reshape and part.shape is not None else tensor
    if math.prod(shape) != len(whole):
        raise invalid(part.name, f"shape={'x'.join(map(str, shape))} holds {math.prod(shape)} numbers, "
                                 f"output {source.output!r} {len(whole)}: its shape is {_shown(tensor)}")  # fmt: skip
    try:
        found = source.index.of(whole.reshape(shape))
    except IndexingError as problem:
        reshaped = f" as {_shown(shape)}" if shape != tensor else ""
        raise invalid(part.name, f"{problem}; output {source.output!r} has shape {_shown(tensor)}{reshaped}") from None
    return found, found.shape


def _claim(
    part: PartText, places: Indices, taken: dict[int, str], start: int, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse elements that another part has already."""
    for place in (start + places.ravel()).tolist():
        other = taken.setdefault(place, part.name)
        if other != part.name:
            output = part.source.output
            raise invalid(part.name, f"{part.source.text} overlaps part {other!r}; output {output!r} has shape "
                                     f"{_shown(shapes[output])}")  # fmt: skip


def _shown(shape: tuple[int, ...]) -> str:
    return f"(N, {', '.join(map(str, shape))})"
