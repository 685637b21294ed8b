"""The images of an audit, as the model takes them, and their tangents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from lieaudit.data.arrays import check_whole
from lieaudit.feeds import Further
from lieaudit.symmetries import tangents
from lieaudit.symmetries.plan import Plan, plan_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lieaudit.data import Dataset
    from lieaudit.derivatives.base import Float32Array
    from lieaudit.metrics.head import Head
    from lieaudit.spec import AuditSpec
    from lieaudit.symmetries import Generator


class Target(Protocol):
    """What measuring needs to know of a model, ONNX or torch."""

    @property
    def channels(self) -> int:
        """C of the input."""
        ...

    @property
    def height(self) -> int:
        """H of the input."""
        ...

    @property
    def width(self) -> int:
        """W of the input."""
        ...

    @property
    def pixel_range(self) -> tuple[int, int] | None:
        """Least and greatest pixel of a model that takes integers; None for floats."""
        ...

    @property
    def head(self) -> Head:
        """The head applied to the raw outputs."""
        ...

    @property
    def output_size(self) -> int:
        """K, the number of output components."""
        ...

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one image's output."""
        ...


@dataclass(frozen=True, slots=True)
class Images:
    """The images of an audit, as the model takes them, their tangents, and what comes with them."""

    dataset: Dataset
    target: Target
    spec: AuditSpec
    further: Further = field(default_factory=Further)

    @property
    def count(self) -> int:
        """N, the number of images audited."""
        return min(self.dataset.count, self.spec.max_images or self.dataset.count)

    @property
    def asked(self) -> tuple[Generator, ...]:
        """The generators of the audit."""
        return self.spec.actions(self.target.height, self.target.width)

    @property
    def plan(self) -> Plan:
        """Which directions are measured, and how the generators are combined from them."""
        target = self.target
        return plan_of(self.asked, target.height, target.width, convention=self.spec.convention)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report's reader should know about the images."""
        notes = self.dataset.notes
        if self.spec.convention == "reference" and "brightness" in self.spec.generators:
            return (*notes, "brightness scales the normalised images, as the reference code does, not raw intensities")
        if self.dataset.dtype != "uint8" and "brightness" in self.spec.generators:
            notes += ("brightness scales the float32 images as given: how they were normalised is not known",)
        return notes

    @property
    def zero_point(self) -> npt.ArrayLike:
        """What brightness scales around, one value or one per channel: what a raw intensity of 0 is in the images.

        The reference convention scales the images as the model takes them, around 0: the published code does.
        """
        if self.spec.convention == "reference":
            return np.zeros(self.target.channels)
        return self.dataset.zero_point(self.spec.preprocessing, self.target.channels)

    def load(self, indices: Sequence[int]) -> Float32Array:
        """Return images (n, C, H, W)."""
        target, preprocessing = self.target, self.spec.preprocessing
        if list(indices) == list(range(indices[0], indices[0] + len(indices))):
            spans = [(indices[0], indices[0] + len(indices))]
        else:
            spans = [(i, i + 1) for i in indices]
        parts = [
            self.dataset.load(
                start,
                stop,
                preprocessing=preprocessing,
                channels=target.channels,
                height=target.height,
                width=target.width,
            )
            for start, stop in spans
        ]
        images = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if target.pixel_range is not None:
            check_whole(images, target.pixel_range, indices)
        return images

    def tangents(self, images: Float32Array, generators: Sequence[str | Generator] | None = None) -> Float32Array:
        """Return X x for G generators, the audit's where none are named: (n, G, C, H, W)."""
        moved = tangents(
            images,
            self.asked if generators is None else generators,
            interpolation=self.spec.interpolation,
            padding=self.spec.padding,
            convention=self.spec.convention,
            zero_point=self.zero_point,
        )
        return np.asarray(moved, np.float32)

    def partner(self, index: int, which: int = 0) -> int:
        """Return one of the `PARTNERS` images that `relative` compares an image with: the next in a seeded order."""
        order = np.random.default_rng([self.spec.seed, which]).permutation(self.count)
        return int(order[(int(np.argsort(order)[index]) + 1) % self.count])

    def spread(self, count: int) -> list[int]:
        """Return up to ``count`` image indices spread evenly over the set."""
        return sorted({int(i) for i in np.linspace(0, self.count - 1, min(count, self.count))}) if count else []
