"""Layers under generators that are combined from the basis, against the same ones attributed alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import lieaudit
from lieaudit import AuditSpec
from lieaudit.graph.load import load_model
from lieaudit.layerwise import Attributor
from lieaudit.symmetries import velocity_field

GENERATORS = ("rotation", "shear_x", "shear_y", "scale", "stretch_y")
CUSTOM = {"tilt": [[0.2, 0.1, 3.0], [0.0, -0.3, 1.0]]}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).standard_normal((3, 3, 64, 96)).astype(np.float32)


def same(whole, alone, rtol):
    for one, other in zip(whole.segments, alone.segments, strict=True):
        assert (one.name, one.commutes) == (other.name, other.commutes)
    for name in ("lee", "norm", "share", "subnetwork"):
        mine, theirs = (
            np.array([getattr(s, name) if getattr(s, name) is not None else 0.0 for s in part.segments])
            for part in (whole, alone)
        )
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max(), err_msg=name)
    assert [s.subnetwork is None for s in whole.segments] == [s.subnetwork is None for s in alone.segments]


@pytest.mark.parametrize("name", ["vit", "unet"])
def test_combined_contributions_are_those_of_each_generator_alone(exported, images, name):
    """Of vectors and of maps, on inner grids that are not square."""
    spec = AuditSpec(
        generators=GENERATORS, custom=CUSTOM, method="forward", layerwise="module", depth=2, threads=1, bootstrap=100
    )
    source = exported(name, 64, 96)
    attributor = Attributor(load_model(source, spec), spec)
    assert len(attributor.parts) == 1
    assert len(attributor.plan(attributor.parts[0]).measured) == 5  # six generators span as many, and no translation
    attributor.close()
    report = lieaudit.audit(source, images[:2], spec)
    for generator in (*GENERATORS, "tilt"):
        custom = CUSTOM if generator == "tilt" else {}
        alone = dataclasses.replace(spec, generators=(generator,), custom=custom)
        # float32 rows of two directions beside each other: rounding of the larger
        same(report.layerwise[generator], lieaudit.audit(source, images[:2], alone).layerwise[generator], 1e-3)


def test_displacements_are_attributed_on_every_grid(exported, images):
    custom = {"turn": np.moveaxis(velocity_field("rotation", 64, 96, convention="central"), 0, -1)}
    spec = AuditSpec(
        generators=("rotation", "turn"), custom=custom, method="forward", layerwise="module", depth=2, threads=1,
        bootstrap=100,
    )  # fmt: skip
    found = lieaudit.audit(exported("unet", 64, 96), images[:2], spec).layerwise
    same(found["turn"], found["rotation"], 1e-4)


def test_differences_are_combined_within_their_bars(exported, images):
    spec = AuditSpec(
        generators=("rotation", "shear_x", "shear_y"), method="finite_difference", layerwise="module", depth=1,
        threads=1, bootstrap=100,
    )  # fmt: skip
    source = exported("vit", 64, 96)
    whole = lieaudit.audit(source, images[:3], spec).layerwise["shear_y"]
    alone = lieaudit.audit(source, images[:3], dataclasses.replace(spec, generators=("shear_y",))).layerwise["shear_y"]
    off = np.abs([a.lee - b.lee for a, b in zip(whole.segments, alone.segments, strict=True)])
    bars = np.array([a.error_bar + b.error_bar for a, b in zip(whole.segments, alone.segments, strict=True)])
    assert np.mean(off <= bars) >= 0.9
