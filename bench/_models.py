"""Graphs of well-known sizes with random weights, exported once to ``out/bench/``, and images for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).resolve().parents[1] / "out" / "bench"
SIZE = 224
CLASSES: dict[str, Any] = {"num_labels": 1000}  # a field of every configuration, but of no signature


def resnet50() -> Path:
    """ResNet-50 of transformers' default configuration: 25.6 million parameters, 4.1 G multiply-adds."""

    def build() -> Any:
        from transformers import ResNetConfig, ResNetForImageClassification

        return ResNetForImageClassification(ResNetConfig(**CLASSES))

    return _cached("resnet50", build)


def mobilenet_v2() -> Path:
    """MobileNetV2 1.0 of transformers' default configuration: 3.5 million parameters, 0.3 G multiply-adds."""

    def build() -> Any:
        from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

        return MobileNetV2ForImageClassification(MobileNetV2Config(**CLASSES))

    return _cached("mobilenet_v2", build)


def vit_small() -> Path:
    """ViT-S/16: 12 blocks of width 384, 22 million parameters, 4.6 G multiply-adds."""

    def build() -> Any:
        from transformers import ViTConfig, ViTForImageClassification

        small: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
        return ViTForImageClassification(ViTConfig(**small, **CLASSES))

    return _cached("vit_small", build)


def smooth_images(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return (count, 3, 224, 224) float32 images with the falling spectrum of photographs, mean 0 and variance 1."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None, :])
    spectrum = np.fft.rfft2(rng.standard_normal((count, 3, SIZE, SIZE))) / (frequency + 1 / SIZE)
    images = np.fft.irfft2(spectrum, s=(SIZE, SIZE))
    images -= images.mean((2, 3), keepdims=True)
    scaled: npt.NDArray[np.float32] = (images / images.std((2, 3), keepdims=True)).astype(np.float32)
    return scaled


def _cached(name: str, build: Callable[[], Any]) -> Path:
    path = FOLDER / f"{name}.onnx"
    if path.exists():
        return path
    import torch

    class Logits(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: Any) -> Any:
            return self.model(image).logits

    torch.manual_seed(0)
    model = build().train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # plain mean over the batches below: activations as a trained network's
    with torch.no_grad():
        for start in range(2):
            model(torch.from_numpy(smooth_images(8, seed=start + 1)))
    FOLDER.mkdir(parents=True, exist_ok=True)
    program = torch.onnx.export(
        Logits(model).eval(),
        (torch.zeros(2, 3, SIZE, SIZE),),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError(f"{name} could not be exported")
    partial = path.with_suffix(".part")
    partial.write_bytes(program.model_proto.SerializeToString())
    partial.rename(path)
    return path
