"""Train the two digit classifiers of the demo and write them with their held-out images.

One small CNN, trained twice from the same seed on scikit-learn's handwritten digits (1797 scans of 8 × 8 pixels):
once as they are, once rotated and shifted at random in every epoch. Needs the extra ``torch`` and scikit-learn; the
files it writes are committed, so that the demo needs neither. Runs in under a minute on one core::

    python examples/digits/train.py
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F  # noqa: N812

HERE = Path(__file__).resolve().parent
SEED = 7
SIZE, MARGIN = 20, 2
HELD_OUT = 297  # the last ones: other writers than most of the first 1500
EPOCHS = 60
BATCH = 50
MAX_ANGLE = math.radians(40)
MAX_SHIFT = 3.0  # pixels
MEAN, STD = 0.15, 0.30


class DigitsNet(nn.Module):
    """Three convolutions, average pooling between them, and a linear classifier that knows where things are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.pool1 = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1)
        self.pool2 = nn.AvgPool2d(2)
        self.conv3 = nn.Conv2d(16, 24, 3, padding=1)
        self.classifier = nn.Linear(24 * (SIZE // 4) ** 2, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 1, 20, 20) normalised images to (N, 10) logits."""
        h = self.pool1(F.relu(self.conv1(image)))
        h = self.pool2(F.relu(self.conv2(h)))
        h = F.relu(self.conv3(h))
        logits: torch.Tensor = self.classifier(h.flatten(1))
        return logits


def enlarged_digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the digits as uint8 (N, 20, 20, 1): enlarged to 16 × 16, a black margin of 2 around."""
    digits = load_digits()
    scans = (digits.images * (255 / 16)).round().astype(np.uint8)
    x = np.zeros((len(scans), SIZE, SIZE, 1), np.uint8)
    side = SIZE - 2 * MARGIN
    for scan, canvas in zip(scans, x, strict=True):
        enlarged = Image.fromarray(scan).resize((side, side), Image.Resampling.BICUBIC)
        canvas[MARGIN:-MARGIN, MARGIN:-MARGIN, 0] = np.asarray(enlarged)
    return x, digits.target.astype(np.int64)


def moved(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate and shift every image by its own random angle and offset; black comes in from outside."""
    n = len(images)
    angle = (2 * torch.rand(n, generator=generator) - 1) * MAX_ANGLE
    shift = (2 * torch.rand(n, 2, generator=generator) - 1) * (2 * MAX_SHIFT / SIZE)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="zeros")


def unit_range(raw: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Return raw images as float32 (N, 1, H, W) in 0 … 1."""
    return torch.from_numpy(raw.transpose(0, 3, 1, 2).astype(np.float32) / 255)


def train(images: torch.Tensor, labels: torch.Tensor, *, augment: bool) -> DigitsNet:
    """Train one network; the same seed gives both the same start and the same order of images."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = DigitsNet()
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):  # type: ignore[no-untyped-call]
            x = moved(images[batch], generator) if augment else images[batch]
            loss = F.cross_entropy(model((x - MEAN) / STD), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the top-1 accuracy in percent."""
    with torch.no_grad():
        right: torch.Tensor = model((images - MEAN) / STD).argmax(1) == labels
    return 100 * float(right.double().mean())


def export(model: nn.Module, path: Path) -> None:
    """Write ONNX with a dynamic batch and each node's module path, and nothing about this machine."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, SIZE, SIZE),),
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("N")}},
        opset_version=20,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    proto = program.model_proto
    del proto.metadata_props[:]
    graph = proto.graph
    described: list[Any] = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for value in described:
        del value.metadata_props[:]
    for node in graph.node:
        kept = [p for p in node.metadata_props if p.key in {"namespace", "pkg.torch.onnx.name_scopes"}]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString())


def main() -> None:
    """Train, measure, export."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    x, y = enlarged_digits()
    images, labels = unit_range(x), torch.from_numpy(y)
    test_images, test_labels = images[-HELD_OUT:], labels[-HELD_OUT:]
    disturbed = moved(test_images, torch.Generator().manual_seed(SEED))
    np.savez_compressed(HERE / "digits.npz", x=x[-HELD_OUT:], y=y[-HELD_OUT:].astype(np.uint8))
    print("| model | held-out images | the same, rotated and shifted at random |\n|---|---|---|")
    for name, augment in (("plain", False), ("augmented", True)):
        model = train(images[:-HELD_OUT], labels[:-HELD_OUT], augment=augment)
        upright = accuracy(model, test_images, test_labels)
        turned = accuracy(model, disturbed, test_labels)
        export(model, HERE / f"{name}.onnx")
        print(f"| {name} | {upright:.1f} % | {turned:.1f} % |")


if __name__ == "__main__":
    main()
