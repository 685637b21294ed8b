"""The names that a policy, a specification and a report share."""

from __future__ import annotations

GENERATORS = (
    "translation_x",
    "translation_y",
    "rotation",
    "scale",
    "shear_x",
    "shear_y",
    "stretch_x",
    "stretch_y",
    "hyperbolic_rotation",
    "brightness",
)
"""Ids of the generators, in the order of a report; `lieaudit.symmetries.GENERATORS` says what each one is."""

GROUPS: dict[str, tuple[str, ...]] = {
    "*": GENERATORS,
    "translation": ("translation_x", "translation_y"),
    "shear": ("shear_x", "shear_y"),
    "stretch": ("stretch_x", "stretch_y"),
    "geometric": tuple(g for g in GENERATORS if g != "brightness"),
}
"""Names that stand for several generators in a rule."""
