"""What moves with the picture is recognised where one reading is left, asked for elsewhere, and never passed over."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lieaudit
from lieaudit import AuditSpec
from lieaudit.errors import SpecError
from lieaudit.inspection import inspect
from lieaudit.parts import Frame, bind, read_parts
from lieaudit.parts.looking import LANDMARKS, Look, Output
from lieaudit.parts.recognition import PARTS_UNDECLARED, RULES, recognise

torch = pytest.importorskip("torch")

LEAN: dict[str, Any] = {"generators": ("translation_x",), "bootstrap": 100, "threads": 1, "relative_images": 0}
IMAGES = np.random.default_rng(3).standard_normal((5, 3, 32, 32)).astype(np.float32)
NAMES = {"YoloV8": ["output0"], "YoloX": ["output"], "RtDetr": ["logits", "pred_boxes"], "Ssd": ["loc", "conf"]}
CERTAIN = {"YoloV8": True, "YoloX": True, "RtDetr": False, "Ssd": False}


def onnx_of(detectors: ModuleType, kind: str) -> bytes:
    network = detectors.drawn(getattr(detectors, kind))
    return bytes(detectors.exported(network, torch.from_numpy(IMAGES).double(), NAMES[kind]))


@pytest.mark.parametrize("kind", NAMES)
def test_detectors_are_recognised_or_asked_for(detectors: ModuleType, kind: str) -> None:
    report = lieaudit.audit(onnx_of(detectors, kind), IMAGES, AuditSpec(**LEAN))
    assert bool(report.parts) == CERTAIN[kind]
    if CERTAIN[kind]:
        assert report.status == "ok", report.reasons
        assert set(report.parts) == {"boxes.centre", "boxes.size", "scores"}
        assert any(
            note.startswith("recognised as boxes and scores of a detector, --part ") for note in report.model.notes
        )
        again = lieaudit.audit(onnx_of(detectors, kind), IMAGES, AuditSpec(**LEAN, parts=tuple(report.spec["parts"])))
        assert again.parts == report.parts
    else:
        (reason,) = [r for r in report.reasons if r.startswith(PARTS_UNDECLARED)]
        assert "--part 'boxes=" in reason
        assert report.status == "inconclusive"


@pytest.mark.parametrize("head", ["auto", "identity", "sigmoid", "softmax"])
@pytest.mark.parametrize("kind", NAMES)
def test_no_head_makes_a_detector_ok(detectors: ModuleType, kind: str, head: str) -> None:
    report = lieaudit.audit(onnx_of(detectors, kind), IMAGES, AuditSpec(**LEAN, head=head))
    assert report.parts or report.status == "inconclusive"
    if not report.parts:
        assert any(reason.startswith(PARTS_UNDECLARED) for reason in report.reasons)


@pytest.mark.parametrize("name", ["logits", "pred_boxes"])
def test_naming_one_output_of_a_detector_does_not_make_it_ok(detectors: ModuleType, name: str) -> None:
    spec = AuditSpec(**LEAN, head="identity", output=name)
    report = lieaudit.audit(onnx_of(detectors, "RtDetr"), IMAGES, spec)
    assert report.status == "inconclusive"
    assert any(reason.startswith(PARTS_UNDECLARED) for reason in report.reasons)


@pytest.mark.parametrize("kind", NAMES)
def test_inspect_proposes_parts_that_can_be_given(detectors: ModuleType, kind: str) -> None:
    found = inspect(onnx_of(detectors, kind), images=IMAGES)
    assert found.parts_why.startswith("certain: " if CERTAIN[kind] else "to settle: ")
    assert found.parts
    without = inspect(onnx_of(detectors, kind))
    assert without.parts_why.startswith("to settle: ") or not without.parts


def moving(shape: tuple[int, ...], low: float, high: float, name: str = "y", seed: int = 0) -> Output:
    return Output(name, shape, np.random.default_rng(seed).uniform(low, high, (3, *shape)))


def over_cells(strides: tuple[int, ...], size: int, anchors: int = 1, scale: float = 1.0, form: str = "cxcywh") -> Any:
    """Return boxes (3, A, 4) that lie over their cells, as decoded detectors give them."""
    rows = []
    for stride in strides:
        y, x = np.meshgrid(*[stride * (np.arange(size // stride) + 0.5)] * 2, indexing="ij")
        rows += [np.stack([x, y], axis=-1).reshape(-1, 2)] * anchors
    centre = np.concatenate(rows)[None] + np.random.default_rng(1).normal(0, 3, (3, sum(map(len, rows)), 2))
    side = np.random.default_rng(2).uniform(10, 60, centre.shape)
    if form == "xyxy":
        return np.concatenate([centre - side / 2, centre + side / 2], axis=-1) * scale
    return np.concatenate([centre, side], axis=-1) * scale


def rows_of(boxes: Any, scores: int, *, columns: bool = False, name: str = "output0") -> Output:
    values = np.concatenate([boxes, np.random.default_rng(3).uniform(0, 1, (3, boxes.shape[1], scores))], axis=2)
    values = np.moveaxis(values, 1, 2) if columns else values
    return Output(name, values.shape[1:], values)


YOLO = {"names": "{0: 'cat', 1: 'dog', 2: 'cow'}", "task": "detect"}
PYRAMID = (8, 16, 32)
KNOWN: dict[str, tuple[Look, tuple[str, ...], bool]] = {
    "YOLOv8 to v11": (
        Look((rows_of(over_cells(PYRAMID, 160), 3, columns=True),), (160, 160), YOLO),
        ("boxes=output0[:4]:cxcywh,unit=px,weight=output0[4:]", "scores=output0[4:]:invariant"),
        True,
    ),
    "YOLOv8 without metadata": (
        Look((rows_of(over_cells(PYRAMID, 160), 80, columns=True),), (160, 160)),
        ("boxes=output0[:4]:cxcywh,unit=px,weight=output0[4:]", "scores=output0[4:]:invariant"),
        True,
    ),
    "YOLOv8 with masks": (
        Look((rows_of(over_cells(PYRAMID, 160), 3 + 32, columns=True),), (160, 160), YOLO | {"task": "segment"}),
        ("boxes=output0[:4]:cxcywh,unit=px,weight=output0[4:7]", "scores=output0[4:7]:invariant"),
        True,
    ),
    "YOLOv8 with a pose": (
        Look((rows_of(over_cells(PYRAMID, 160), 3 + 51, columns=True),), (160, 160), YOLO | {"task": "pose"}),
        ("boxes=output0[:4]:cxcywh,unit=px,weight=output0[4:7]", "scores=output0[4:7]:invariant"),
        False,
    ),
    "YOLOv5": (
        Look((rows_of(over_cells(PYRAMID, 160, 3), 4),), (160, 160), YOLO),
        ("boxes=output0[:, :4]:cxcywh,unit=px,weight=output0[:, 4]", "scores=output0[:, 4:]:invariant"),
        True,
    ),
    "shares of the size": (
        Look((rows_of(over_cells(PYRAMID, 160, 1, 1 / 160), 3, columns=True),), (160, 160), YOLO),
        ("boxes=output0[:4]:cxcywh,unit=share,weight=output0[4:]", "scores=output0[4:]:invariant"),
        True,
    ),
    "corners": (
        Look((rows_of(over_cells(PYRAMID, 160, form="xyxy"), 3, columns=True),), (160, 160), YOLO),
        ("boxes=output0[:4]:xyxy,unit=px,weight=output0[4:]", "scores=output0[4:]:invariant"),
        True,
    ),
    "rows without places": (
        Look((moving((84, 525), 0, 600, "output0"),), (160, 160)),
        ("boxes=output0[:4]:cxcywh,weight=output0[4:],score=sigmoid", "scores=output0[4:]:invariant"),
        False,
    ),
    "RT-DETR": (
        Look((moving((300, 4), 0, 1, "pred_boxes"), moving((300, 80), -5, 5, "logits")), (640, 640)),
        ("boxes=pred_boxes:cxcywh,unit=share,weight=logits,score=sigmoid", "scores=logits:invariant"),
        True,
    ),
    "DETR": (
        Look((moving((100, 92), -5, 5, "logits"), moving((100, 4), 0, 1, "pred_boxes")), (800, 800)),
        (
            "boxes=pred_boxes:cxcywh,unit=share,weight=logits,score=softmax,background=last",
            "scores=logits:invariant",
        ),
        True,
    ),
    "MoveNet": (
        Look((moving((1, 17, 3), 0, 1),), (192, 192)),
        ("keypoints=y[..., :2]:points,axis=-1,order=yx,unit=share,weight=y[..., 2]", "scores=y[..., 2]:invariant"),
        True,
    ),
    "keypoints in pixels": (
        Look((moving((17, 3), 0, 190),), (192, 192)),
        ("keypoints=y[..., :2]:points,axis=-1,order=yx,unit=share,weight=y[..., 2]", "scores=y[..., 2]:invariant"),
        False,
    ),
    "BlazePose": (
        Look((moving((195,), 0, 250, "Identity"), moving((1,), 0, 1, "flag")), (256, 256)),
        ("landmarks=Identity[:, :2]:points,shape=39x5,unit=px", "flag=flag:invariant"),
        True,
    ),
    "a vector as long as a hand": (
        Look((moving((63,), 0, 200, "output"),), (224, 224)),
        ("landmarks=output[:, :2]:points,shape=21x3,unit=px",),
        False,
    ),
    "suppression": (
        Look((moving((300, 6), 0, 600, "dets"),), (640, 640), {}, ("corners", "points")),
        ("boxes=corners:xyxy,order=yx,weight=points",),
        False,
    ),
    "a name": (Look((moving((7,), -1, 1, "bbox_out"),), (64, 64)), (), False),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_known_outputs_are_read(kind: str) -> None:
    look, parts, certain = KNOWN[kind]
    found = recognise(look)
    assert found is not None
    assert (found.parts, found.certain) == (parts, certain)
    assert found.undeclared.startswith(PARTS_UNDECLARED)
    if certain:
        bind(read_parts(found.parts), {o.name: o.shape for o in look.outputs}, Frame(look.size))


def test_every_rule_recognises_something() -> None:
    firsts = {next(rule for rule in RULES if rule(look) is not None) for look, _, _ in KNOWN.values()}
    ssd = Look((moving((32, 4), -1, 1, "loc"), moving((32, 4), -1, 1, "conf")), (32, 32))
    firsts |= {next(rule for rule in RULES if rule(ssd) is not None)}
    assert firsts == set(RULES)


@pytest.mark.parametrize(
    "output",
    [moving((10,), -5, 5, "logits"), moving((197, 768), -5, 5), moving((19, 64, 64), -5, 5), moving((40, 7), 0, 1)],
    ids=["logits", "tokens", "map", "characters"],
)
def test_other_outputs_are_left_to_heads(output: Output) -> None:
    assert recognise(Look((output,), (160, 160))) is None


def test_landmark_vectors_hold_whole_landmarks() -> None:
    assert all(size % each == 0 for size, each in LANDMARKS.items())


PHOTOS = 4


def photos(real_dir: Path, height: int, width: int) -> np.ndarray:
    files = sorted((real_dir / "images" / "imagenet_100").rglob("*.*"))[:: 100 // PHOTOS][:PHOTOS]
    shown = [np.asarray(Image.open(f).convert("RGB").resize((width, height)), np.float32) for f in files]
    return np.stack(shown).transpose(0, 3, 1, 2)


REAL = {
    "yolox_nano": ((416, 416), lambda x: x[:, ::-1].copy(), {"boxes.centre", "boxes.size", "scores"}),
    "facemesh": ((192, 192), lambda x: x / 255, {"landmarks", "flag"}),
    "movenet_lightning": ((192, 192), lambda x: x, {"keypoints", "scores"}),
    "blazeface_back": ((256, 256), lambda x: x / 127.5 - 1, set()),
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_trained_models_are_recognised_or_asked_for(real_dir: Path, name: str) -> None:
    size, prepare, parts = REAL[name]
    images = prepare(photos(real_dir, *size)).astype(np.float32)
    found = inspect(real_dir / "models" / f"{name}.onnx", images=images)
    named = {part.partition("=")[0] for part in found.parts}
    if parts:
        assert found.parts_why.startswith("certain")
        assert named == {part.partition(".")[0] for part in parts}
    else:
        assert found.parts_why.startswith("to settle")
        assert {"boxes", "landmarks", "scores", "boxes2", "landmarks2", "scores2"} == named
        with pytest.raises(SpecError, match=r"ANCHORS.npy"):
            AuditSpec(parts=found.parts)
