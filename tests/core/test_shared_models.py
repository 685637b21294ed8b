"""Every trained model, through a real server: loaded, right on its images, audited along all ten generators."""

from __future__ import annotations

import numpy as np
import pytest
from lieaudit_client import Client
from lieaudit_server.embedded import EmbeddedServer

from lieaudit import GENERATORS
from lieaudit.data import open_dataset, parse_preprocessing

pytestmark = pytest.mark.real

CIFAR, MNIST, PHOTOS = "cifar10_test_1017", "mnist_test_2000", "imagenet_100"
VIT = "mean=.4914:.4822:.4465,std=.2023:.1994:.2010"
BATCH1 = "mean=.4914:.4822:.4465,std=.2470:.2435:.2616"
CAFFE = "scale=1,mean=104:117:123,order=bgr,resize=256,crop=224"
# Accuracy as published, in percent, and what a few hundred images leave open: two standard errors.
MODELS = {
    "resnet20_cifar10": (CIFAR, "imagenet", 91.6, 3.0),
    "resnet56_cifar10": (CIFAR, "imagenet", 92.7, 3.0),
    "vit_pgd_cifar10": (CIFAR, VIT, 61.1, 5.0),
    "resnet_2b_batch1_cifar10": (CIFAR, BATCH1, 69.2, 5.0),
    "cnn_small_nhwc_cifar10": (CIFAR, "unit", 63.0, 5.0),
    "mnist_cntk": (MNIST, "unit", 99.0, 1.5),
    "mnist_rot_cnn_plain": (MNIST, "mean=.13,std=.3", 93.0, 2.5),
    "mnist_rot_cnn_augmented": (MNIST, "mean=.13,std=.3", 94.8, 2.5),
    "mnist_rot_p4_gcnn": (MNIST, "mean=.13,std=.3", 98.3, 1.5),
    "squeezenet_fp16_imagenet": (PHOTOS, CAFFE, 63.2, 10.0),
    "mobilenet_v1_0.5_160_imagenet": (PHOTOS, "inception,resize=183,crop=160", 74.0, 10.0),
}
IMAGES = {CIFAR: 1017, MNIST: 1000, PHOTOS: 100}
AUDITED = {CIFAR: 8, MNIST: 8, PHOTOS: 2}


@pytest.fixture(scope="module")
def client():
    with EmbeddedServer() as target, Client(target) as client:
        yield client


@pytest.fixture(scope="module")
def images(real_dir, tmp_path_factory):
    """Return the file of a set for a model; photographs are cut to the model's size, with their labels."""
    folder = tmp_path_factory.mktemp("images")

    def find(name, model, preprocessing):
        if name != PHOTOS:
            return real_dir / "images" / f"{name}.npz", preprocessing
        path = folder / f"{model}.npz"
        if not path.exists():
            asked = parse_preprocessing(preprocessing)
            photos = open_dataset(real_dir / "images" / name)
            cut = [photos.raw(i, asked) for i in range(photos.count)]
            x = np.stack([np.broadcast_to(photo, (*photo.shape[:2], 3)) for photo in cut])
            # one photograph for every tenth class; MobileNet counts the background first
            np.savez(path, x=x, y=10 * np.arange(photos.count) + ("mobilenet" in model))
        return path, ",".join(p for p in preprocessing.split(",") if not p.startswith(("resize", "crop")))

    return find


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_right_and_audited(client, real_dir, images, name):
    dataset, preprocessing, percent, margin = MODELS[name]
    path = real_dir / "models" / f"{name}.onnx"
    data, preprocessing = images(dataset, name, preprocessing)
    model = client.upload_model(path).sha256
    spec = {"preprocessing": preprocessing, "max_images": IMAGES[dataset]}
    if "mobilenet" in name:
        spec["class_offset"] = 0  # the labels count the background: 1001 classes alone do not say so
    inspection = client.inspect(model, client.upload_dataset(data).sha256, spec)
    assert inspection.HasField("top1")
    assert 100 * inspection.top1 == pytest.approx(percent, abs=margin)
    assert inspection.exact_share == 1.0
    report = client.audit(path, data, {"preprocessing": preprocessing, "max_images": AUDITED[dataset]})
    assert set(report.results) == set(GENERATORS)
    for generator, result in report.results.items():
        assert result.method == "forward", generator
        assert len(result.per_image) == AUDITED[dataset]
        assert result.lee > 0
        # inconclusive, if anything, because of what the report says, never silently
        assert (result.status == "ok") == (not result.reasons)
        disagrees = result.agreement.verdict == "disagrees"
        assert disagrees == any("disagree" in reason for reason in result.reasons)
    # Black backgrounds make max-pooling tie: there forward mode takes one winner's derivative, a central difference
    # the mean of two, and a report may say that they disagree. Everywhere else they agree.
    ties = 3 if name.startswith("mnist") else 0
    assert sum(result.agreement.verdict == "disagrees" for result in report.results.values()) <= ties
    notes = " ".join(report.model.notes)
    assert ("upcast from float16" in notes) == ("fp16" in name)
    assert ("NHWC" in notes) == ("nhwc" in name)
