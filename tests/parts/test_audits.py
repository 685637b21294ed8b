"""Audits of parts through ONNX: closed forms to 1e-4, and detectors against float64 secants written out here."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import lieaudit
from lieaudit import AuditSpec, Report
from lieaudit.errors import LieauditError, SpecError
from lieaudit.symmetries import GENERATORS, transform
from lieaudit.symmetries.affine import field_of

torch = pytest.importorskip("torch")

HEIGHT, WIDTH = 40, 48
GEOMETRIC = tuple(name for name in GENERATORS if GENERATORS[name].spatial)
LEAN: dict[str, Any] = {"bootstrap": 100, "threads": 1, "relative_images": 2}
FLOAT32 = 1e-4
"""Of what moves: float32 sums over two thousand pixels are off by some 1e-6."""


def audited(
    module: ModuleType, network: Any, images: np.ndarray, names: list[str], parts: list[str], **spec: Any
) -> Report:
    exported = module.exported(network, torch.from_numpy(images), names)
    return lieaudit.audit(exported, images.astype(np.float32), AuditSpec(parts=tuple(parts), **(LEAN | spec)))


@pytest.fixture(scope="module")
def moments(networks: ModuleType, detectors: ModuleType) -> Report:
    class Network(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.point, self.wrong = (networks.Keypoint(HEIGHT, WIDTH, factor) for factor in (1.0, 0.8))
            self.box, self.axis = networks.Box(HEIGHT, WIDTH), networks.Axis(HEIGHT, WIDTH)

        def forward(self, image: Any) -> Any:
            scores = torch.stack([image.mean((1, 2, 3)), image[:, 0, 20, 24]], dim=1)
            return torch.cat([self.point(image), self.wrong(image)], dim=1), self.box(image), self.axis(image), scores

    parts = ["right=points[0]:points", "wrong=points[1]:points", "boxes=boxes:cxcywh,weight=scores[0]",
             "axis=axis:angle", "score=scores:invariant"]  # fmt: skip
    images = networks.blobs(6, HEIGHT, WIDTH)
    return audited(detectors, Network(), images, ["points", "boxes", "axis", "scores"], parts, generators=GEOMETRIC)


def test_several_outputs_are_measured_by_one_audit(moments: Report) -> None:
    assert list(moments.parts) == ["right", "wrong", "boxes.centre", "boxes.size", "axis", "score"]
    assert dict(moments.results) == {}
    assert (moments.model.head, moments.checks.head.chosen) == ("parts", "parts")
    assert moments.checks.fidelity is not None
    assert moments.checks.fidelity.ok
    assert [(p.unit, p.items) for p in moments.parts.values()] == [("px", 1)] * 4 + [("rad", 1), ("", 2)]
    assert Report.from_json(moments.to_json()) == moments


@pytest.mark.parametrize("name", GEOMETRIC)
def test_what_moves_exactly_follows_exactly_in_float32(moments: Report, name: str) -> None:
    parts = ["right", "boxes.centre", "boxes.size", "axis"]
    if name not in {"translation_x", "translation_y", "scale", "stretch_x", "stretch_y"}:
        parts.remove("boxes.size")
        assert any(skip.what == f"parts.boxes.size.results.{name}" for skip in moments.skipped)
        assert name not in moments.parts["boxes.size"].results
    if name not in {"translation_x", "translation_y", "rotation", "scale"}:
        parts.remove("axis")
    for part in parts:
        result = moments.parts[part].results[name]
        still = (part in {"boxes.size", "axis"} and name.startswith("translation")) or (part, name) == ("axis", "scale")
        reach = 1.0 if still else float(np.mean((moments.parts[part].size,)))
        # the residual beside how far such a field moves this part: a pixel, or a radian
        assert np.sqrt(result.lee) < FLOAT32 * max(1.0, reach) * (WIDTH if name.startswith("translation") else 1.0), (
            part
        )
        if result.follow is not None and not still:
            assert result.follow == pytest.approx(1.0, abs=FLOAT32), part


def test_a_wrong_factor_is_found_in_float32(moments: Report) -> None:
    origin = -np.array([WIDTH - 1, HEIGHT - 1]) / 2
    for name, result in moments.parts["wrong"].results.items():
        field = field_of(name, HEIGHT, WIDTH)
        due = 0.2 * (field[:, :2] @ origin + field[:, 2])
        assert result.lee == pytest.approx(float(due @ due), rel=FLOAT32), name
        assert result.ci95[0] <= result.lee * (1 + 1e-6)
    shift = moments.parts["wrong"].results["translation_x"]
    assert shift.follow == pytest.approx(0.8, abs=FLOAT32)
    assert shift.lee_per_px2 == pytest.approx(0.04, rel=FLOAT32)


def test_weights_are_those_of_the_scores(moments: Report, networks: ModuleType) -> None:
    images = networks.blobs(6, HEIGHT, WIDTH)
    assert moments.parts["boxes.centre"].weights == pytest.approx(images.mean(axis=(1, 2, 3)), rel=1e-5)
    assert moments.parts["right"].weights == ()


DETECTORS = {
    "YoloV8": (["output0"], ["boxes=output0[:4]:cxcywh,weight=output0[4:],power=2", "scores=output0[4:]:invariant"]),
    "YoloX": (
        ["output"],
        [
            "boxes=output[:, :4]:cxcywh,unit=grid,strides=4:8,decode=exp,weight=output[:, 4]",
            "scores=output[:, 4:]:invariant",
        ],
    ),
    "RtDetr": (
        ["logits", "pred_boxes"],
        ["boxes=pred_boxes:cxcywh,unit=share,weight=logits,score=sigmoid", "scores=logits:invariant"],
    ),
    "Ssd": (
        ["loc", "conf"],
        ["boxes=loc:cxcywh,unit=grid,anchors=a.npy,variance=0.1:0.2,decode=exp,weight=conf,score=softmax,background=first",
         "scores=conf:invariant"],
    ),
}  # fmt: skip
SSD_ANCHORS = np.stack(
    [[8 * x + 4, 8 * y + 4, 6.0 + 4 * a, 9.0 - 2 * a] for y in range(4) for x in range(4) for a in range(2)]
).astype(np.float64)


def decoded(kind: str, outputs: list[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return centres and sizes in pixels (n, P, 2), weights (n, P) and scores: what the detectors mean, by hand."""
    if kind == "YoloV8":
        (z,) = outputs
        return z[:, :2].transpose(0, 2, 1) - size / 2, z[:, 2:4].transpose(0, 2, 1), z[:, 4:].max(axis=1) ** 2, z[:, 4:]
    if kind == "YoloX":
        (z,) = outputs
        cells = np.concatenate(
            [np.stack(np.meshgrid(np.arange(size // s), np.arange(size // s)), -1).reshape(-1, 2) for s in (4, 8)]
        )
        stride = np.concatenate([np.full((size // s) ** 2, s) for s in (4, 8)])[:, None]
        return (z[..., :2] + cells) * stride - size / 2, np.exp(z[..., 2:4]) * stride, z[..., 4], z[..., 4:]
    if kind == "RtDetr":
        logits, boxes = outputs
        weight = (1 / (1 + np.exp(-logits))).max(axis=2)
        return boxes[..., :2] * size - size / 2, boxes[..., 2:] * size, weight, logits
    offsets, logits = outputs
    p = np.exp(logits)
    weight = (p / p.sum(axis=2, keepdims=True))[..., 1:].max(axis=2)
    centre = SSD_ANCHORS[:, :2] + 0.1 * offsets[..., :2] * SSD_ANCHORS[:, 2:]
    return centre - size / 2, SSD_ANCHORS[:, 2:] * np.exp(0.2 * offsets[..., 2:]), weight, logits


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request: pytest.FixtureRequest, detectors: ModuleType) -> tuple[str, Any, np.ndarray, Report]:
    names, parts = DETECTORS[request.param]
    network = detectors.drawn(getattr(detectors, request.param))
    images = np.random.default_rng(3).standard_normal((5, 3, 32, 32)).astype(np.float32).astype(np.float64)
    anchors = {"a.npy": SSD_ANCHORS} if request.param == "Ssd" else {}
    return request.param, network, images, audited(detectors, network, images, names, parts, anchors=anchors)


def carried(points: np.ndarray, field: np.ndarray, t: float) -> np.ndarray:
    """Return where the exact flow of v = A p + b takes points in time t: the series of the exponential, to rounding."""
    matrix = np.zeros((3, 3))
    matrix[:2] = field
    total, term = np.eye(3), np.eye(3)
    for k in range(1, 30):
        term = term @ (t * matrix) / k
        total = total + term
    return points @ total[:2, :2].T + total[:2, 2]


@pytest.mark.parametrize("name", ["translation_x", "rotation", "scale", "shear_y", "stretch_x", "brightness"])
def test_detectors_match_float64_secants(detector: tuple[str, Any, np.ndarray, Report], name: str) -> None:
    kind, network, images, report = detector
    size = images.shape[-1]
    step = 1e-7
    field = field_of(name, size, size) if name != "brightness" else np.zeros((2, 3))

    def outputs(t: float) -> tuple[np.ndarray, ...]:
        moved = images if t == 0 else transform(images, name, t, interpolation="bilinear", padding="reflect")
        with torch.no_grad():
            found = network(torch.from_numpy(np.asarray(moved)))
        return decoded(kind, [z.numpy() for z in (found if isinstance(found, tuple) else (found,))], size)

    ahead, here, behind = (outputs(t) for t in (step, 0.0, -step))
    weight = here[2]
    expected = {
        "boxes.centre": (carried(ahead[0], field, step) - carried(behind[0], field, -step)) / (2 * step),
        "scores": ((ahead[3] - behind[3]) / (2 * step)).reshape(len(images), -1, 1),
    }
    if field[0, 1] == field[1, 0] == 0:
        grown = [b * np.exp(np.diag(field) * t) for b, t in ((ahead[1], step), (behind[1], -step))]
        expected["boxes.size"] = (grown[0] - grown[1]) / (2 * step)
    assert {part for part, own in report.parts.items() if name in own.results} == set(expected)
    for part, lie in expected.items():
        w = weight if part != "scores" else np.ones(lie.shape[:2])
        lee = np.sum(w * np.sum(lie**2, axis=2), axis=1) / np.sum(w, axis=1)
        result = report.parts[part].results[name]
        errors = np.abs(np.asarray(result.per_image) - lee)
        # a secant's own error: curved paths meet other pieces of the bilinear interpolant on either side, by t times
        # some 10 px, and rounding of 1e-16 / t
        assert np.all(errors <= np.asarray(result.per_image_error) + 2e-6 * lee), part
        assert result.per_image == pytest.approx(lee, rel=1e-3), part
        assert result.lee == pytest.approx(float(np.sum(w.mean(axis=1) * lee) / np.sum(w.mean(axis=1))), rel=1e-3)
        assert result.error_bar <= 0.05 * result.lee, part


def test_finite_differences_measure_parts_too(detectors: ModuleType) -> None:
    names, parts = DETECTORS["YoloV8"]
    images = np.random.default_rng(3).standard_normal((4, 3, 32, 32)).astype(np.float32)
    network = detectors.drawn(detectors.YoloV8)
    spec = {"generators": ("translation_x", "scale")}
    forward, differences = (
        audited(detectors, network, images.astype(np.float64), names, parts, method=method, **spec)
        for method in ("forward", "finite_difference")
    )
    for part, own in forward.parts.items():
        for name, result in own.results.items():
            other = differences.parts[part].results[name]
            bars = np.asarray(result.per_image_error) + np.asarray(other.per_image_error)
            assert np.all(np.abs(np.asarray(result.per_image) - other.per_image) <= bars), (part, name)
            assert other.step is not None


def test_parts_without_any_detection_are_not_measured(detectors: ModuleType) -> None:
    class Network(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, image: Any) -> Any:
            point = torch.tanh(image[:, 0, :2, 0])
            return point, torch.relu(image[:, 0, 3, :1] - 1e6)

    images = np.random.default_rng(3).standard_normal((3, 3, 32, 32))
    report = audited(detectors, Network(), images, ["p", "s"], ["p=p:points,weight=s"], generators=("scale",))
    assert dict(report.parts["p"].results) == {}
    assert report.status == "inconclusive"
    assert report.reasons == ("p: NO_DETECTIONS: its weights, s to the power 1, are 0 on all images",)
    assert any(skip.what == "parts.p" and "NO_DETECTIONS" in skip.why for skip in report.skipped)


def test_a_weight_of_logits_is_refused(detectors: ModuleType) -> None:
    names, parts = DETECTORS["RtDetr"]
    images = np.random.default_rng(3).standard_normal((3, 3, 32, 32))
    with pytest.raises(LieauditError) as caught:
        audited(detectors, detectors.drawn(detectors.RtDetr), images, names, [parts[0].replace(",score=sigmoid", "")])
    assert caught.value.reason == "NEGATIVE_WEIGHT"
    assert "score=sigmoid" in str(caught.value)


REFUSED: dict[str, dict[str, Any]] = {
    "secant_px": {"secant_px": 0.5},
    "method": {"method": "torch"},
    "output": {"output": "pred_boxes"},
    "head": {"head": "identity"},
    "anchors": {"anchors": {"a.npy": SSD_ANCHORS}},
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_contradicts_parts_is_refused(detectors: ModuleType, field: str) -> None:
    names, parts = DETECTORS["RtDetr"]
    images = np.random.default_rng(3).standard_normal((3, 3, 32, 32))
    with pytest.raises(SpecError) as caught:
        audited(detectors, detectors.drawn(detectors.RtDetr), images, names, parts, **REFUSED[field])
    assert caught.value.subject == field


def test_layers_of_parts_are_skipped_with_their_reason(detectors: ModuleType) -> None:
    names, parts = DETECTORS["RtDetr"]
    images = np.random.default_rng(3).standard_normal((3, 3, 32, 32))
    network = detectors.drawn(detectors.RtDetr)
    report = audited(detectors, network, images, names, parts, generators=("scale",), layerwise="op")
    assert report.parts["scores"].results["scale"].lee > 0
    assert report.status == "inconclusive"
    assert any(skip.what == "layerwise" and "parts have several" in skip.why for skip in report.skipped)
