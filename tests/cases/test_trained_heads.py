"""Trained models from the wild: the head that a person would choose, or inconclusive with the right choices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from lieaudit import AuditSpec
from lieaudit.data import open_dataset
from lieaudit.graph.load import load_model
from lieaudit.heads.checking import check
from lieaudit.heads.settle import settle
from lieaudit.images import Images
from lieaudit.spec import Preprocessing

CIFAR, MNIST, IMAGENET = "cifar10_test_1017.npz", "mnist_test_2000.npz", "imagenet_100"
RGB = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
DIGITS = Preprocessing(mean=(0.13,), std=(0.3,))


def _inception(resize: int, crop: int) -> Preprocessing:
    return Preprocessing(scale=127.5, mean=(1.0,), resize=resize, crop=crop)


def _pixels(size: int, order: str = "rgb") -> Preprocessing:
    return Preprocessing(scale=1.0, resize=size, crop=size, order=order)


@dataclass(frozen=True)
class Row:
    """One model of docs/heads.md: its images, what is chosen, a word of the evidence; empty head: undeclared."""

    images: str
    preprocessing: Preprocessing
    head: str
    why: str
    output: str | None = None
    by: str = "value"


ROWS = {
    **{f"resnet{depth}_cifar10": Row(CIFAR, RGB, "softmax", "name") for depth in (20, 44, 56)},
    "vit_pgd_cifar10": Row(
        CIFAR, Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)), "softmax", "is the label"
    ),
    "resnet_2b_batch1_cifar10": Row(
        CIFAR, Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)), "softmax", "is the label"
    ),
    "cnn_small_nhwc_cifar10": Row(CIFAR, Preprocessing(), "softmax", "is the label"),
    "mnist_cntk": Row(MNIST, Preprocessing(), "softmax", "is the label"),
    **{
        f"mnist_rot_{name}": Row(MNIST, DIGITS, "softmax", "name") for name in ("cnn_plain", "cnn_augmented", "p4_gcnn")
    },
    "mobilenet_v1_0.5_160_imagenet": Row(IMAGENET, _inception(183, 160), "softmax", "name"),
    "efficientnet_lite0_imagenet": Row(IMAGENET, _inception(256, 224), "softmax", "name"),
    "mobilenet_v1_0.25_224_imagenet": Row(IMAGENET, _inception(256, 224), "softmax", "ends in Softmax"),
    "squeezenet_fp16_imagenet": Row(
        IMAGENET,
        Preprocessing(scale=1.0, mean=(104.0, 117.0, 123.0), order="bgr", resize=256, crop=224),
        "softmax",
        "ends in Softmax",
    ),
    "resnet8_cifar10": Row(CIFAR, Preprocessing(scale=1.0), "softmax", "ends in Softmax"),
    "resnet8_cifar10_int8": Row(
        CIFAR, Preprocessing(scale=1.0, mean=(128.0,)), "softmax", "ends in Softmax", by="top1"
    ),
    "mobilenet_v1_0.25_128_int8_imagenet": Row(
        IMAGENET, Preprocessing(scale=1.0, resize=147, crop=128), "softmax", "ends in Softmax", by="top1"
    ),
    "ppocr_direction_cls": Row(IMAGENET, _inception(48, 48), "softmax", "ends in Softmax"),
    "selfie_segmentation": Row(
        IMAGENET, Preprocessing(resize=256, crop=256), "spatial", "height and width, and the graph ends in Sigmoid"
    ),
    "facemesh output_faceflag": Row(IMAGENET, Preprocessing(resize=192, crop=192), "sigmoid", "ends in Sigmoid"),
    "facemesh output_mesh": Row(IMAGENET, Preprocessing(resize=192, crop=192), "", "(N, 1404)"),
    "facemesh output_contours": Row(IMAGENET, Preprocessing(resize=192, crop=192), "", "(N, 266)"),
    "mobilefacenet_112": Row(
        IMAGENET, Preprocessing(scale=128.0, mean=(127.5 / 128,), resize=112, crop=112), "", "(N, 128)"
    ),
    "blazeface_back Identity:0": Row(IMAGENET, _inception(256, 256), "", "box scores"),
    "blazeface_back Identity_2:0": Row(IMAGENET, _inception(256, 256), "", "boxes or keypoints"),
    "movenet_lightning": Row(IMAGENET, _pixels(192), "", "boxes or keypoints"),
    "yolox_nano": Row(IMAGENET, _pixels(416, "bgr"), "", "boxes or keypoints"),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_head_of_a_trained_model(real_dir, name):
    row = ROWS[name]
    model, _, output = name.partition(" ")
    path = real_dir / "models" / f"{model}.onnx"
    spec = AuditSpec(preprocessing=row.preprocessing, output=output or None, threads=1)
    dataset = open_dataset(real_dir / "images" / row.images)
    loaded = load_model(path, spec, data=dataset)
    images = Images(dataset, loaded, spec, loaded.further)
    settled = settle(loaded, spec, images)
    checked = check(path, settled, replace(images, target=settled.model))
    fidelity = checked.checks.fidelity
    assert fidelity is not None
    assert fidelity.ok
    assert fidelity.by == row.by
    if row.head:
        assert (settled.model.head.name, checked.reasons) == (row.head, ())
        assert row.why in settled.choice.why
        return
    (reason,) = checked.reasons
    assert reason.startswith("HEAD_UNDECLARED")
    assert "no --head judges them rightly" in reason
    assert "--head" in reason
    assert row.why in reason


def test_every_trained_model_has_a_row(real_dir):
    models = {path.stem for path in (real_dir / "models").glob("*.onnx")}
    assert models == {name.partition(" ")[0] for name in ROWS}
