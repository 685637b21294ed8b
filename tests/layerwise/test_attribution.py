"""Attribution inside an audit: report, shards, budget, errors."""

from __future__ import annotations

import numpy as np
import pytest

import lieaudit
from lieaudit.errors import BudgetError, SpecError
from lieaudit.graph.load import load_model
from lieaudit.layerwise import Attributor
from lieaudit.report import Report
from lieaudit.spec import AuditSpec

GENERATORS = ("rotation", "brightness", "translation_y")


class Shards(dict[str, bytes]):
    """Keeps shards in memory."""

    def put(self, key: str, data: bytes) -> None:
        self[key] = data


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).standard_normal((10, 3, 64, 96)).astype(np.float32)


@pytest.fixture(scope="module")
def spec():
    return AuditSpec(
        generators=GENERATORS, layerwise="module", method="forward", threads=1, relative_images=0, bootstrap=200
    )


@pytest.fixture(scope="module")
def report(exported, images, spec):
    seen = []
    report = lieaudit.audit(exported("unet", 64, 96), images, spec, progress=seen.append)
    assert [p for p in seen if p.stage == "layerwise"][-1].done == 10 * 2  # the gain has a pass of its own
    return report


def test_report_holds_every_generator(report):
    assert tuple(report.layerwise) == GENERATORS
    for name, found in report.layerwise.items():
        assert found.method == "forward"
        assert found.completeness <= 1e-4
        assert found.status == "ok"
        assert sum(s.share for s in found.segments) == pytest.approx(1, abs=1e-4)
        assert sum(k.share for k in found.by_kind) == pytest.approx(1, abs=1e-4)
        assert found.by_depth[-1].depth == 1
        assert found.by_depth[-1].share == pytest.approx(1, abs=1e-4)
        assert all(s.lee == 0 and s.share == 0 for s in found.segments if s.commutes)
        assert all(s.lee_ci95[0] <= s.lee <= s.lee_ci95[1] for s in found.segments)
        measured = [s for s in found.segments if not s.commutes]
        assert all(s.subnetwork is not None for s in measured)
        # the bars hold what a ReLU within rounding of its kink may move (see test_completeness)
        assert sum(s.error_bar for s in measured) <= 0.05 * sum(s.lee for s in measured)
        assert len({s.name for s in found.segments}) == len(found.segments)
        assert name in report.results


def test_last_subnetwork_is_the_whole(report):
    """Up to the output the sub-network is the network: its LEE is the audit's."""
    for name in ("rotation", "translation_y"):
        last = [s for s in report.layerwise[name].segments if s.subnetwork is not None][-1]
        assert last.subnetwork == pytest.approx(report.results[name].lee, rel=1e-4)


def test_report_survives_json(report):
    assert Report.from_json(report.to_json()) == report


def test_cancellations_point_against_each_other(report):
    found = report.layerwise["rotation"].cancellations
    assert all(c.inner < 0 for c in found)
    assert [c.inner for c in found] == sorted(c.inner for c in found)


def test_an_interrupted_attribution_resumes_bit_identically(exported, images, spec, report):
    shards = Shards()
    lieaudit.audit(exported("unet", 64, 96), images, spec, shards=shards)
    lost = sorted(key for key in shards if key.startswith("layerwise"))[1::2]
    assert lost
    for key in lost:
        del shards[key]
    again = lieaudit.audit(exported("unet", 64, 96), images, spec, shards=shards)
    assert again.layerwise == report.layerwise


def test_finite_differences_resume_bit_identically(exported, images, spec):
    import dataclasses

    spec = dataclasses.replace(spec, method="finite_difference", generators=("rotation",))
    shards = Shards()
    first = lieaudit.audit(exported("vit", 64, 96), images, spec, shards=shards)
    assert first.layerwise["rotation"].method == "finite_difference"
    assert first.layerwise["rotation"].completeness <= 0.05
    assert all(s.subnetwork is None for s in first.layerwise["rotation"].segments)
    key = max(key for key in shards if key.startswith("layerwise") and "calibration" not in key)
    del shards[key]
    assert lieaudit.audit(exported("vit", 64, 96), images, spec, shards=shards).layerwise == first.layerwise


def test_a_small_budget_splits_the_passes_and_changes_nothing(exported, images):
    source = exported("unet", 64, 96)
    generators = ("rotation", "scale", "translation_x")
    found = []
    for budget in (2048, 40):
        spec = AuditSpec(generators=generators, layerwise="module", method="forward", threads=1, budget_mib=budget)
        attributor = Attributor(load_model(source, spec), spec)
        report = lieaudit.audit(source, images[:3], spec)
        found.append((attributor.parts, report.layerwise))
    (wide, whole), (narrow, split) = found
    assert len(wide) == 1
    assert len(narrow) > 1
    for g in generators:
        a, b = ([s.norm for s in w[g].segments] for w in (whole, split))
        # another blocking of the rows: rounding only
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * max(a))


def test_a_budget_below_one_row_is_refused(tools):
    source = tools.export(tools.build("unet", 256, 384), 256, 384)
    spec = AuditSpec(generators=("rotation",), layerwise="module", method="forward", threads=1, budget_mib=16)
    with pytest.raises(BudgetError) as caught:
        Attributor(load_model(source, spec), spec)
    assert caught.value.reason == "ROW_OVER_BUDGET"


def test_a_wrong_layout_is_refused(exported, images):
    spec = AuditSpec(generators=("rotation",), layerwise="module", layouts={"nothing": "NCHW"}, threads=1)
    with pytest.raises(SpecError, match="nothing"):
        lieaudit.audit(exported("vit", 64, 96), images[:2], spec)


def test_uniform_images_have_no_shares(exported):
    """Where L F is zero there is nothing to share out; the report says so instead of giving numbers."""
    spec = AuditSpec(generators=("brightness",), layerwise="module", method="forward", threads=1, relative_images=0)
    flat = np.zeros((2, 3, 64, 96), np.float32)
    found = lieaudit.audit(exported("vit", 64, 96), flat, spec).layerwise["brightness"]
    assert found.status == "inconclusive"
    assert any("zero" in reason for reason in found.reasons)


@pytest.mark.parametrize("method", ["forward", "finite_difference"])
def test_a_network_without_contributions(tools, method):
    """A 1×1 convolution on a map commutes: no row, and nothing to share out."""
    import torch

    model = torch.nn.Conv2d(3, 2, 1).eval()
    spec = AuditSpec(
        generators=("rotation",), layerwise="module", method=method, head="spatial", threads=1, relative_images=0
    )
    images = np.random.default_rng(0).standard_normal((3, 3, 9, 12)).astype(np.float32)
    found = lieaudit.audit(tools.export(model, 9, 12), images, spec).layerwise["rotation"]
    assert [s.commutes for s in found.segments] == [True]
    assert found.segments[0].lee == 0


def test_a_single_image_has_no_interval(exported, images, spec):
    """Nothing is known of how images differ: the interval is missing, not of width zero."""
    found = lieaudit.audit(exported("unet", 64, 96), images[:1], spec).layerwise["rotation"]
    assert {segment.lee_ci95 for segment in found.segments} == {()}
