"""Symmetries of images: generators, finite flows and tangents (docs/numerics.md, sections 2 and 3)."""

from lieaudit.symmetries.flow import transform
from lieaudit.symmetries.generators import (
    GENERATORS,
    Generator,
    get_generator,
    pixel_grid,
    step_of_size,
    velocity_field,
)
from lieaudit.symmetries.interpolation import derivative_matrix
from lieaudit.symmetries.tangent import check_convention, tangent, tangents

__all__ = [
    "GENERATORS",
    "Generator",
    "check_convention",
    "derivative_matrix",
    "get_generator",
    "pixel_grid",
    "step_of_size",
    "tangent",
    "tangents",
    "transform",
    "velocity_field",
]
