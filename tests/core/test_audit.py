"""Audits end to end: closed forms, determinism, resuming, and what cannot be measured."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec, Preprocessing, Report
from lieaudit.data import Dataset
from lieaudit.errors import DataError, LieauditError, ModelError
from lieaudit.shards import DirectoryShards
from lieaudit.symmetries import tangents
from lieaudit.symmetries.interpolation import reference_floor

RNG = np.random.default_rng(6)
CONV = (0.5 * RNG.standard_normal((5, 3, 3, 3))).astype(np.float32)
WEIGHT = RNG.standard_normal((3, 4)).astype(np.float32)
CNN = [
    ("Conv", ["image", "conv"], ["c"]),
    ("Relu", ["c"], ["r"]),
    ("GlobalAveragePool", ["r"], ["p"]),
    ("Flatten", ["p"], ["logits"]),
]
POOLED = [
    ("GlobalAveragePool", ["image"], ["p"]),
    ("Flatten", ["p"], ["f"]),
    ("MatMul", ["f", "weight"], ["logits"]),
]


def network(nodes, classes):
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 10])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(CONV, "conv"), numpy_helper.from_array(WEIGHT, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(n=40, seed=7):
    return np.random.default_rng(seed).standard_normal((n, 3, 8, 10)).astype(np.float32)


@pytest.mark.parametrize("method", ["finite_difference", "forward"])
def test_a_pooled_linear_model_has_its_closed_form(assert_covers, method):
    """F = Wᵀ mean(I), so L F = Wᵀ mean(X I): no softmax, no nonlinearity, no interpolation in the way."""
    x = images(128)
    report = lieaudit.audit(network(POOLED, 4), x, AuditSpec(head="identity", method=method))
    for generator, result in report.results.items():
        moved = tangents(
            x.astype(np.float64), [generator], interpolation="bilinear", padding="reflect", convention="central"
        )[:, 0]
        exact = np.mean((moved.mean(axis=(2, 3)) @ WEIGHT.astype(np.float64)) ** 2, axis=1)
        difference = np.abs(np.array(result.per_image) - exact)
        assert_covers(difference <= np.array(result.per_image_error))
        # a float32 mean of 80 pixels that nearly cancel, relative to the pixels' own size
        scale = np.mean(moved**2)
        assert np.max(difference) < (1e-4 if method == "finite_difference" else 1e-6) * scale


def test_translations_of_a_pooled_model_vanish_on_a_torus():
    spec = AuditSpec(generators=("translation_x", "translation_y"), padding="circular", head="identity")
    report = lieaudit.audit(network(POOLED, 4), images(), spec)
    for result in report.results.values():
        assert result.lee < 1e-9 * np.mean(images() ** 2)
        assert result.status == "ok"


@pytest.mark.parametrize(("method", "tolerance"), [("finite_difference", 5e-3), ("forward", 1e-5)])
def test_the_reference_convention_is_the_right_hand_derivative(float64_graph, assert_covers, method, tolerance):
    """An independent JVP: torch float64 through the graph, along one-sided differences written out here.

    On which side is the published code's float32 grid (tests/symmetries/test_reference_grid.py).
    """
    x, proto = images(128), network(CNN, 5)
    spec = AuditSpec(
        generators=("translation_x", "translation_y"),
        convention="reference",
        head="identity",
        method=method,
    )
    report = lieaudit.audit(proto, x, spec)
    wide = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    columns, rows = reference_floor(10) + 1, reference_floor(8) + 1
    directions = {
        "translation_x": (10 - 1) / 2 * (wide[:, :, 1:-1, columns + 1] - wide[:, :, 1:-1, columns]),
        "translation_y": (8 - 1) / 2 * (wide[:, :, rows + 1, 1:-1] - wide[:, :, rows, 1:-1]),
    }
    for generator, direction in directions.items():
        _, exact = float64_graph(proto).jvp(x, direction)
        result = report.results[generator]
        covered = np.abs(np.array(result.per_image) - np.mean(exact**2, axis=1)) <= result.per_image_error
        assert_covers(covered)
        assert result.mean_abs == pytest.approx(np.abs(exact).mean(), rel=tolerance)


def test_equal_audits_give_equal_bits():
    first, second = (lieaudit.audit(network(CNN, 5), images()) for _ in range(2))
    assert first.results == second.results


def test_an_interrupted_audit_resumes_bit_identically(tmp_path):
    whole = lieaudit.audit(network(CNN, 5), images(100))

    class KilledError(Exception):
        pass

    def kill_in_the_third_shard(progress):
        if progress.stage == "audit" and progress.done > 64:
            raise KilledError

    with pytest.raises(KilledError):
        lieaudit.audit(network(CNN, 5), images(100), progress=kill_in_the_third_shard, shards=DirectoryShards(tmp_path))
    seen = []
    resumed = lieaudit.audit(network(CNN, 5), images(100), progress=seen.append, shards=DirectoryShards(tmp_path))
    assert resumed.results == whole.results
    assert resumed.timing.rows < whole.timing.rows
    assert [(p.done, p.total) for p in seen if p.stage == "audit"][:2] == [(32, 100), (64, 100)]


def test_progress_counts_every_image_of_every_stage():
    seen = []
    lieaudit.audit(network(CNN, 5), images(), progress=seen.append)
    stages = list(dict.fromkeys(p.stage for p in seen))
    assert stages[0] == "load"
    assert stages[-1] == "statistics"
    assert [p.done for p in seen if p.stage == "audit"][-1] == 40


def test_one_image_has_no_interval_and_says_so():
    report = lieaudit.audit(network(CNN, 5), images(1), AuditSpec(generators=("rotation",)))
    assert report.status == "inconclusive"
    assert report.results["rotation"].ci95 == ()
    assert report.results["rotation"].relative is None
    assert {s.what for s in report.skipped} >= {"results.rotation.ci95", "results.rotation.relative"}


def test_relative_can_be_left_out():
    report = lieaudit.audit(network(CNN, 5), images(), AuditSpec(generators=("scale",), relative_images=0))
    assert report.results["scale"].relative is None
    assert any(s.what == "results.scale.relative" for s in report.skipped)


def test_reports_survive_json():
    raw = np.random.default_rng(8).integers(0, 255, (3, 8, 10, 3), dtype=np.uint8)
    spec = AuditSpec(preprocessing=Preprocessing(mean=(0.5,), std=(0.2,)))
    report = lieaudit.audit(network(CNN, 5), raw, spec, labels=np.array([0, 1, 2]))
    assert Report.from_json(report.to_json()) == report
    assert report.data.top1 is not None
    assert len(report.pictures) == 20


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "lieaudit.report/1"}', '{"schema": "lieaudit.report/2"}'])
def test_what_is_no_report_is_refused(text):
    with pytest.raises(DataError) as caught:
        Report.from_json(text)
    assert caught.value.reason == "NOT_A_REPORT"


def test_a_model_that_outputs_nan_is_named_with_its_image():
    nodes = [*CNN[:3], ("Flatten", ["p"], ["f"]), ("Log", ["f"], ["logits"])]
    x = images()
    x[17] = -100.0 * np.abs(x[17])
    with pytest.raises(ModelError) as caught:
        lieaudit.audit(network(nodes, 5), x)
    assert caught.value.reason == "OUTPUT_NOT_FINITE"


def reason(x, **kwargs):
    with pytest.raises(LieauditError) as caught:
        lieaudit.audit(network(CNN, 5), x, **kwargs)
    return caught.value.reason


def test_images_that_do_not_fit_are_refused():
    assert reason(images()[:, :, :, :9]) == "WRONG_SIZE"
    assert reason(images()[:, :2]) == "WRONG_CHANNELS"
    assert reason(np.full_like(images(), np.nan)) == "NON_FINITE"
    assert reason(np.zeros((4, 8, 10, 3), np.uint8)) == "PREPROCESSING_REQUIRED"
    assert reason(Dataset.from_arrays(images()), labels=np.zeros(40, int)) == "LABELS_TWICE"


def test_a_provider_that_is_not_there_is_an_error():
    assert reason(images(), spec=AuditSpec(provider="cuda")) == "PROVIDER_MISSING"
    assert reason(images(), spec=AuditSpec(provider="quantum")) == "UNKNOWN_PROVIDER"


def test_brightness_acts_on_raw_intensities():
    """With x = (raw/255 − m)/s the tangent is x + m/s: a model linear in the mean shows exactly that."""
    raw = np.random.default_rng(9).integers(0, 255, (6, 8, 10, 3), dtype=np.uint8)
    spec = AuditSpec(
        generators=("brightness",),
        head="identity",
        preprocessing=Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
    )
    report = lieaudit.audit(network(POOLED, 4), raw, spec)
    unnormalised = raw.mean(axis=(1, 2)) / 255 / np.array([0.2, 0.25, 0.3])
    exact = np.mean((unnormalised @ WEIGHT) ** 2, axis=1)
    assert not any("brightness" in note for note in report.model.notes)
    # float32 images and weights
    assert np.allclose(report.results["brightness"].per_image, exact, rtol=1e-4)


def test_brightness_of_normalised_images_is_said_to_act_on_them_as_given():
    report = lieaudit.audit(network(CNN, 5), images(4), AuditSpec(generators=("brightness", "rotation")))
    assert any("brightness" in note for note in report.model.notes)


@pytest.mark.parametrize("method", ["forward", "secant"])
def test_relative_is_the_geometric_mean_of_ratios_image_by_image(float64_graph, method):
    """By torch float64 JVPs, or by float64 secants' parts, along the tangents of the partners that the seed chooses."""
    x, proto = images(12), network(CNN, 5)
    # in the limit a secant answers to another image's change as the derivative does
    size = 1e-3 if method == "secant" else None
    spec = AuditSpec(generators=("rotation",), head="identity", method=method, secant_px=size)
    result = lieaudit.audit(proto, x, spec).results["rotation"]
    central = {"interpolation": "bilinear", "padding": "reflect", "convention": "central"}
    own = tangents(x.astype(np.float64), ("rotation",), **central)[:, 0]
    norms = np.linalg.norm(own.reshape(12, -1), axis=1)[:, None, None, None]
    logs = []
    for which in range(2):
        order = np.random.default_rng([spec.seed, which]).permutation(12)
        partner = np.empty(12, int)
        partner[order] = np.roll(order, -1)
        other = own[partner] * norms / norms[partner]
        mine, theirs = (np.mean(float64_graph(proto).jvp(x, d)[1] ** 2, axis=1) for d in (own, other))
        logs.append(np.log(mine / theirs))
    assert result.relative == pytest.approx(np.exp(np.mean(logs)), rel=1e-4 if method == "forward" else 2e-2)
    assert result.relative_ci95[0] < result.relative < result.relative_ci95[1]
    assert result.response > 0


def test_few_images_are_said_to_decide_the_mean():
    report = lieaudit.audit(network(CNN, 5), images(40), AuditSpec(generators=("rotation", "scale")))
    (note,) = [note for note in report.model.notes if "few for a mean" in note]
    assert note.startswith("40 images are few")
    for result in report.results.values():
        values = np.sort(result.per_image)[::-1]
        assert result.top_share == pytest.approx(values[0] / values.sum())
        assert result.geometric_mean == pytest.approx(np.exp(np.mean(np.log(values))))
        assert f"{100 * result.top_share:.0f}" in note
    many = lieaudit.audit(network(CNN, 5), images(256), AuditSpec(generators=("rotation",)))
    assert not [note for note in many.model.notes if "few for a mean" in note]


@pytest.mark.real
@pytest.mark.parametrize(("model", "preprocessing"), [
    ("vit_pgd_cifar10", Preprocessing(mean=(.4914, .4822, .4465), std=(.2023, .1994, .2010))),
    ("cnn_small_nhwc_cifar10", Preprocessing()),
])  # fmt: skip
def test_relative_hardly_follows_the_seed(real_dir, model, preprocessing):
    """Five seeds lie inside the interval that any one of them prints."""
    data = np.load(real_dir / "images" / "cifar10_test_1017.npz")["x"][:128]
    found = []
    for seed in range(5):
        spec = AuditSpec(
            generators=("shear_y", "translation_x"), preprocessing=preprocessing, seed=seed, head="softmax",
            method="forward", threads=1,
        )  # fmt: skip
        found.append(lieaudit.audit(real_dir / "models" / f"{model}.onnx", data, spec).results)
    for generator in found[0]:
        values = [results[generator].relative for results in found]
        for results in found:
            low, high = results[generator].relative_ci95
            assert low < min(values)
            assert max(values) < high
