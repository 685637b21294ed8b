"""An affine field in words: the one-parameter family that it is nearest to, and how much of it that is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lieaudit.symmetries.affine import coefficients, displacement_matrix

Array = npt.NDArray[np.float64]

_ALL = 0.95
"""Of the mean square displacement: nothing else is worth naming."""

_MOST = 0.6
_ANGLES = np.arange(0, 180, 1)


def _families() -> list[tuple[str, Array]]:
    """Return names and fields, simple ones first; angles in degrees from the x axis towards y, which points down."""
    found: list[tuple[str, Array]] = [
        ("rotation", np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])),
        ("scale", np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])),
    ]
    kinds: list[tuple[str, list[tuple[int, Array]]]] = [("translation", []), ("stretch", []), ("shear", [])]
    squeezes: list[tuple[int, Array]] = []
    for degrees in _ANGLES:
        along = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        across = np.array([-along[1], along[0]])
        for (_, fields), linear in zip(
            kinds, (np.zeros((2, 2)), np.outer(along, along), np.outer(along, across)), strict=True
        ):
            shift = along if not linear.any() else np.zeros(2)
            fields.append((int(degrees), np.column_stack([linear, shift])))
        if degrees < 90:  # from there on the same fields with the other sign
            linear = np.outer(along, along) - np.outer(across, across)
            squeezes.append((int(degrees), np.column_stack([linear, np.zeros(2)])))
    for name, fields in (kinds[0], ("squeeze", squeezes), *kinds[1:]):
        found += [(f"{name} along {_axis(degrees)}", field) for degrees, field in fields]
    return found


def _axis(degrees: int) -> str:
    return {0: "x", 90: "y"}.get(degrees, f"{degrees}° from x towards y")


_FAMILIES = _families()


def in_words(field: Array, height: int, width: int) -> str:
    """Say what a field (2, 3) does to an image, up to its sign: ``mostly shear along x``.

    Shares are of the mean square displacement over the grid.
    """
    gram = displacement_matrix(height, width)
    rows = np.stack([coefficients(family, height, width) for _, family in _FAMILIES])
    sizes = np.einsum("fi,ij,fj->f", rows, gram, rows)
    rest = coefficients(field, height, width)
    whole = float(rest @ gram @ rest)
    if whole <= 0:
        return "nothing moves"
    named: list[tuple[str, float]] = []
    for _ in range(2):
        along = rows @ gram @ rest
        shares = np.where(sizes > 0, along**2 / np.where(sizes > 0, sizes, 1.0), 0.0) / whole
        # equal to rounding: the simplest
        best = int(np.argmax(shares >= shares.max() - 1e-9))
        named.append((_FAMILIES[best][0], float(shares[best])))
        rest = rest - rows[best] * along[best] / sizes[best]
    (first, share), (second, other) = named
    if share >= _ALL:
        return first
    if share >= _MOST:
        return f"mostly {first} ({100 * share:.0f} %), with {second} ({100 * other:.0f} %)"
    both = f"{first} ({100 * share:.0f} %) and {second} ({100 * other:.0f} %)"
    return both if share + other >= _ALL else f"{both}, among others"
