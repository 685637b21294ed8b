"""The ten generators: vector fields, exact finite flows and units.

Pixel (i, j) of an H × W image sits at x = j − (W−1)/2, y = i − (H−1)/2: offsets from the centre of the
grid, in pixels, y pointing down. A generator is a vector field v(x, y) in pixels per unit of its parameter t;
its flow φ_t solves dφ_t/dt = v(φ_t), φ_0 = id. Images are pulled back, (T_t I)(p) = Ĩ(φ_t(p)), so that
X I = v · ∇Ĩ. One generator acts on intensities instead: ``gain`` is its rate, T_t I = z + e^(gain·t) (I − z),
z the value that a raw intensity of 0 has.

To add a generator, add one entry to `GENERATORS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lieaudit.errors import SpecError
from lieaudit.suggestions import unknown

Array = npt.NDArray[np.float64]
Vector = tuple[Array, Array]
Velocity = Callable[[Array, Array, int, int], Vector]
Displacement = Callable[[Array, Array, float, int, int], Vector]

CONVENTIONS = ("central", "reference")


@dataclass(frozen=True, slots=True)
class Generator:
    """One one-parameter group of transformations of images.

    Attributes
    ----------
    id
        Name in specifications and reports.
    unit
        Unit of t.
    velocity
        ``velocity(x, y, width, height)``: v at the points (x, y), pixels per unit t.
    displacement
        ``displacement(x, y, t, width, height)``: φ_t(p) − p in pixels. Not the position, because
        adding a tiny step to a position rounds the step away.
    gain
        Rate of log intensity per unit t; 0 for all that move pixels.
    affine
        Whether v = A p + b, as that of every generator of the table that moves pixels (`lieaudit.symmetries.affine`).
    reference_unit, reference_velocity
        Unit and field under the ``reference`` convention; None where they are the same.
    """

    id: str
    unit: str
    velocity: Velocity
    displacement: Displacement
    gain: float = 0.0
    reference_unit: str | None = None
    reference_velocity: Velocity | None = None
    affine: bool = True

    @property
    def spatial(self) -> bool:
        """Whether it moves pixels (and so acts on dense outputs and features too)."""
        return self.gain == 0.0

    def unit_of(self, convention: str) -> str:
        """Return the unit of t under a convention."""
        return self.reference_unit or self.unit if convention == "reference" else self.unit

    def flow(self, x: Array, y: Array, t: float, width: int, height: int) -> Vector:
        """Return φ_t(x, y), pixel offsets from the centre."""
        dx, dy = self.displacement(x, y, t, width, height)
        return x + dx, y + dy


def _quarter_turns(t: float) -> tuple[float, float]:
    """Return (cos t − 1, sin t): no cancellation at tiny t, exact where t is a quarter turn to rounding."""
    turns = round(t / (math.pi / 2))
    if turns != 0 and abs(t - turns * (math.pi / 2)) <= 4 * math.ulp(t):
        cos, sin = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[turns % 4]
        return cos - 1.0, sin
    return -2.0 * math.sin(t / 2) ** 2, math.sin(t)


def _rotate(x: Array, y: Array, t: float, width: int, height: int) -> Vector:  # noqa: ARG001
    cos1, sin = _quarter_turns(t)
    return cos1 * x + sin * y, cos1 * y - sin * x


def _boost(x: Array, y: Array, t: float, width: int, height: int) -> Vector:  # noqa: ARG001
    cosh1, sinh = 2.0 * np.sinh(t / 2) ** 2, np.sinh(t)
    return cosh1 * x + sinh * y, cosh1 * y + sinh * x


def _constant(x: Array, y: Array, dx: float, dy: float) -> Vector:
    return np.full_like(x, dx), np.full_like(y, dy)


_HALF = "half {} minus half a pixel"

GENERATORS: dict[str, Generator] = {
    g.id: g
    for g in (
        Generator(
            "translation_x",
            "image widths",
            velocity=lambda x, y, w, h: _constant(x, y, w, 0),  # noqa: ARG005
            displacement=lambda x, y, t, w, h: _constant(x, y, t * w, 0),  # noqa: ARG005
            reference_unit=_HALF.format("widths"),
            reference_velocity=lambda x, y, w, h: _constant(x, y, (w - 1) / 2, 0),  # noqa: ARG005
        ),
        Generator(
            "translation_y",
            "image heights",
            velocity=lambda x, y, w, h: _constant(x, y, 0, h),  # noqa: ARG005
            displacement=lambda x, y, t, w, h: _constant(x, y, 0, t * h),  # noqa: ARG005
            reference_unit=_HALF.format("heights"),
            reference_velocity=lambda x, y, w, h: _constant(x, y, 0, (h - 1) / 2),  # noqa: ARG005
        ),
        Generator(
            "rotation",
            "radians",
            velocity=lambda x, y, w, h: (y, -x),  # noqa: ARG005
            displacement=_rotate,
        ),
        Generator(
            "scale",
            "log scale",
            velocity=lambda x, y, w, h: (x, y),  # noqa: ARG005
            displacement=lambda x, y, t, w, h: (np.expm1(t) * x, np.expm1(t) * y),  # noqa: ARG005
        ),
        Generator(
            "shear_x",
            "shear factor",
            velocity=lambda x, y, w, h: (y, 0 * y),  # noqa: ARG005
            displacement=lambda x, y, t, w, h: (t * y, 0 * y),  # noqa: ARG005
        ),
        Generator(
            "shear_y",
            "shear factor",
            velocity=lambda x, y, w, h: (0 * x, x),  # noqa: ARG005
            displacement=lambda x, y, t, w, h: (0 * x, t * x),  # noqa: ARG005
        ),
        Generator(
            "stretch_x",
            "log stretch",
            velocity=lambda x, y, w, h: (x, 0 * y),  # noqa: ARG005
            displacement=lambda x, y, t, w, h: (np.expm1(t) * x, 0 * y),  # noqa: ARG005
        ),
        Generator(
            "stretch_y",
            "log stretch",
            velocity=lambda x, y, w, h: (0 * x, y),  # noqa: ARG005
            displacement=lambda x, y, t, w, h: (0 * x, np.expm1(t) * y),  # noqa: ARG005
        ),
        Generator(
            "hyperbolic_rotation",
            "rapidity",
            velocity=lambda x, y, w, h: (y, x),  # noqa: ARG005
            displacement=_boost,
        ),
        Generator(
            "brightness",
            "log gain",
            velocity=lambda x, y, w, h: _constant(x, y, 0, 0),  # noqa: ARG005
            displacement=lambda x, y, t, w, h: _constant(x, y, 0, 0),  # noqa: ARG005
            gain=1.0,
        ),
    )
}
"""Every generator by its id, in the order of reports."""


def get_generator(name: str | Generator) -> Generator:
    """Look a generator up; one that is no name is itself. Raises `SpecError` where there is none of that name."""
    if isinstance(name, Generator):
        return name
    try:
        return GENERATORS[name]
    except KeyError:
        raise SpecError(
            f"generators: {unknown(name, GENERATORS)}",
            reason="INVALID_SPEC",
            subject="generators",
        ) from None


def pixel_grid(height: int, width: int) -> Vector:
    """Return x and y of every pixel, float64, each (height, width)."""
    y, x = np.meshgrid(
        np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij", copy=True
    )
    return x, y


def velocity_field(name: str | Generator, height: int, width: int, *, convention: str) -> Array:
    """Return v at every pixel: float64 (2, height, width), x then y component, pixels per unit t.

    Zero for a generator that acts on intensities (`Generator.gain`). Under ``reference`` the translations'
    unit is half the size minus half a pixel.

    Raises
    ------
    SpecError
        Unknown generator or convention.
    """
    check_choice("convention", convention, CONVENTIONS)
    generator = get_generator(name)
    velocity = generator.velocity
    if convention == "reference" and generator.reference_velocity is not None:
        velocity = generator.reference_velocity
    return np.stack(velocity(*pixel_grid(height, width), width, height))


BRIGHTNESS_STEP = 0.01
"""t of brightness where a step is stated in pixels: it moves none, and changes intensities by 1 %."""


def step_of_size(name: str | Generator, pixels: float, height: int, width: int) -> float:
    """Return the t at which the field's displacement t·v has the root mean square ``pixels`` over the grid.

    `BRIGHTNESS_STEP` for a generator that moves no pixel.

    Raises
    ------
    SpecError
        Unknown generator, or a grid on which its field is 0 everywhere, as that of one pixel.
    """
    if not get_generator(name).spatial:
        return BRIGHTNESS_STEP
    size = float(np.sqrt(np.mean(np.sum(velocity_field(name, height, width, convention="central") ** 2, axis=0))))
    if size == 0:
        raise SpecError(
            f"{get_generator(name).id} moves no pixel of {height} × {width}, so no step has a size in pixels",
            reason="INVALID_SPEC",
            subject="secant_px",
        )
    return pixels / size


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `SpecError` where ``value`` is not one of ``choices``."""
    if value not in choices:
        raise SpecError(f"{name}: {value!r} is not one of {', '.join(choices)}", reason="INVALID_SPEC", subject=name)
