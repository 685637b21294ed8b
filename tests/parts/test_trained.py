"""Trained detectors and landmarks against secants in float64, by ONNX's own reference evaluator, within the bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from PIL import Image

import lieaudit
from lieaudit import AuditSpec
from lieaudit.symmetries import transform

pytestmark = [pytest.mark.real, pytest.mark.slow]

COUNT = 2


def photos(real_dir: Path, side: int) -> np.ndarray:
    files = sorted((real_dir / "images" / "imagenet_100").rglob("*.*"))[17::45][:COUNT]
    shown = [np.asarray(Image.open(f).convert("RGB").resize((side, side)), np.float32) for f in files]
    # equal pixels tie in a MaxPool, where a function has two derivatives and a secant takes their mean
    dither = np.random.default_rng(0).uniform(0, 1, (COUNT, side, side, 3)).astype(np.float32)
    return (254 / 255 * np.stack(shown) + dither).transpose(0, 3, 1, 2)


def doubled(path: Path) -> onnx.ModelProto:
    """Return a graph that computes in float64."""
    model = onnx.load(str(path))

    def widen(tensor: onnx.TensorProto) -> None:
        if tensor.data_type == TensorProto.FLOAT:
            wide = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))

    for tensor in model.graph.initializer:
        widen(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                widen(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    del model.graph.value_info[:]
    return model


def cells(side: int, stride: int, each: int) -> np.ndarray:
    """Return the centres of cells in pixels, as many times in a row as there are anchors."""
    y, x = np.meshgrid(*[stride * (np.arange(side // stride) + 0.5)] * 2, indexing="ij")
    return np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), each, axis=0)


ANCHORS = np.concatenate([cells(256, 16, 2), np.full((512, 2), 256.0)], axis=1)


def facemesh(outputs: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    points = outputs["output_mesh"].reshape(-1, 468, 3)[..., :2] - 191 / 2
    return {"landmarks": (points, None), "flag": (outputs["output_faceflag"].reshape(-1, 1, 1), None)}


def blazeface(outputs: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    raw, logits = outputs["Identity_2:0"].reshape(-1, 512, 8, 2), outputs["Identity:0"]
    weight = 1 / (1 + np.exp(-logits[..., 0]))
    at = ANCHORS[:, :2] - 128
    marks = (raw[:, :, 2:] + at[:, None]).reshape(len(raw), -1, 2)
    return {
        "boxes.centre": (raw[:, :, 0] + at, weight),
        "boxes.size": (raw[:, :, 1], weight),
        "landmarks": (marks, None),
        "scores": (logits.reshape(len(raw), -1, 1), None),
    }


Decoded = Callable[[Mapping[str, np.ndarray]], dict[str, tuple[np.ndarray, "np.ndarray | None"]]]
MODELS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray], tuple[str, ...], Decoded]] = {
    "facemesh": (192, lambda x: x / 255, (), facemesh),
    "blazeface_back": (
        256,
        lambda x: x / 127.5 - 1,
        (
            "boxes=Identity_2:0[:, 0]:cxcywh,shape=512x4x4,unit=px,anchors=a.npy,weight=Identity:0,score=sigmoid",
            "landmarks=Identity_2:0[:, 2:]:points,shape=512x8x2,unit=px,origin=edge,anchors=a.npy",
            "scores=Identity:0:invariant",
        ),
        blazeface,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_trained_models_match_float64_secants(real_dir: Path, name: str) -> None:
    side, prepare, parts, decoded = MODELS[name]
    path = real_dir / "models" / f"{name}.onnx"
    images = prepare(photos(real_dir, side)).astype(np.float32)
    anchors: dict[str, Any] = {"a.npy": ANCHORS} if parts else {}
    spec = AuditSpec(generators=("translation_x", "scale"), method="forward", parts=parts, anchors=anchors,
                     relative_images=0, bootstrap=100)  # fmt: skip
    report = lieaudit.audit(path, images, spec)
    model = doubled(path)
    evaluator, taken = ReferenceEvaluator(model), model.graph.input[0].name
    names = [value.name for value in model.graph.output]

    def outputs(generator: str, t: float) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
        wide = images.astype(np.float64)
        moved = transform(wide, generator, t, interpolation="bilinear", padding="reflect") if t else wide
        rows = [evaluator.run(None, {taken: np.asarray(x)[None].transpose(0, 2, 3, 1)}) for x in moved]
        return decoded({n: np.concatenate([row[i] for row in rows]) for i, n in enumerate(names)})

    step = 1e-10
    here = outputs("scale", 0.0)
    for generator in spec.generators:
        ahead, behind = outputs(generator, step), outputs(generator, -step)
        for part, own in report.parts.items():
            value, weight = here[part]
            lie = (ahead[part][0] - behind[part][0]) / (2 * step)
            if report.parts[part].unit and part != "boxes.size":
                lie = lie + (np.array([side, 0.0]) if generator == "translation_x" else value)
            elif part == "boxes.size" and generator == "scale":
                lie = lie + value
            w = np.ones(lie.shape[:2]) if weight is None else weight
            lee = np.sum(w * np.sum(lie**2, axis=2), axis=1) / w.sum(axis=1)
            result = own.results[generator]
            errors = np.abs(np.asarray(result.per_image) - lee)
            # secants of so small a step cross few kinks; they carry rounding of 1e-14 / 1e-10 of a hundred pixels
            assert np.all(errors <= np.asarray(result.per_image_error) + 1e-6 * lee), (part, generator)
