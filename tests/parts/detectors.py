"""Small detectors with drawn weights whose heads are those of YOLOv8, YOLOX, RT-DETR and SSD, in torch."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Sequence

import torch

SIZE = 32
CLASSES = 3


class Backbone(torch.nn.Module):
    """Smooth features at strides 4 and 8."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, width, 5, stride=4, padding=2)
        self.second = torch.nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return two maps (N, width, H/4, W/4) and (N, width, H/8, W/8)."""
        fine = torch.tanh(self.first(image))
        return [fine, torch.tanh(self.second(fine))]


class YoloV8(torch.nn.Module):
    """The head of YOLOv8: distances as expectations over bins (DFL), boxes in pixels, (N, 4 + classes, cells)."""

    strides = (4, 8)

    def __init__(self, bins: int = 4) -> None:
        super().__init__()
        self.backbone, self.bins = Backbone(), bins
        self.boxes = torch.nn.ModuleList(torch.nn.Conv2d(8, 4 * bins, 1) for _ in self.strides)
        self.classes = torch.nn.ModuleList(torch.nn.Conv2d(8, CLASSES, 1) for _ in self.strides)
        anchors, steps = [], []
        for stride in self.strides:
            side = SIZE // stride
            y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
            anchors.append(torch.stack([x, y]).flatten(1))
            steps.append(torch.full((1, side * side), float(stride)))
        self.register_buffer("anchors", torch.cat(anchors, dim=1))
        self.register_buffer("steps", torch.cat(steps, dim=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return cx, cy, w, h in pixels and class scores."""
        maps = self.backbone(image)
        boxes = torch.cat([head(m).flatten(2) for head, m in zip(self.boxes, maps, strict=True)], dim=2)
        scores = torch.cat([head(m).flatten(2) for head, m in zip(self.classes, maps, strict=True)], dim=2)
        share = boxes.unflatten(1, (4, self.bins)).softmax(dim=2)
        away = (share * torch.arange(self.bins, dtype=image.dtype).reshape(1, 1, -1, 1)).sum(dim=2)
        low, high = self.anchors - away[:, :2], self.anchors + away[:, 2:]
        found = torch.cat([(low + high) / 2, high - low], dim=1) * self.steps
        return torch.cat([found, scores.sigmoid()], dim=1)


class YoloX(torch.nn.Module):
    """The head of YOLOX before decoding: offsets in cells, logarithms of sizes, objectness, (N, cells, 5 + classes)."""

    strides = (4, 8)

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.heads = torch.nn.ModuleList(torch.nn.Conv2d(8, 5 + CLASSES, 1) for _ in self.strides)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the raw head."""
        maps = [head(m) for head, m in zip(self.heads, self.backbone(image), strict=True)]
        rows = [torch.cat([m[:, :4], m[:, 4:].sigmoid()], dim=1).flatten(2) for m in maps]
        return torch.cat(rows, dim=2).transpose(1, 2)


class RtDetr(torch.nn.Module):
    """The head of RT-DETR: queries attend to the image; boxes as shares (cx, cy, w, h), and class logits."""

    def __init__(self, queries: int = 6, width: int = 8) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.queries = torch.nn.Parameter(torch.randn(queries, width))
        self.place = torch.nn.Parameter(torch.randn((SIZE // 8) ** 2, width))
        self.boxes, self.classes = torch.nn.Linear(width, 4), torch.nn.Linear(width, CLASSES)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (N, queries, classes) and boxes (N, queries, 4)."""
        tokens = self.backbone(image)[1].flatten(2).transpose(1, 2) + self.place
        attention = (self.queries @ tokens.transpose(1, 2) / 8**0.5).softmax(dim=-1)
        found = torch.tanh(attention @ tokens) + self.queries
        return self.classes(found), self.boxes(found).sigmoid()


class Ssd(torch.nn.Module):
    """An SSD pair: offsets in units of anchors with variances, and logits with the background first."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.offsets, self.classes = torch.nn.Conv2d(8, 8, 1), torch.nn.Conv2d(8, 2 * (CLASSES + 1), 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return offsets (N, 2·cells, 4) and logits (N, 2·cells, 1 + classes)."""
        coarse = self.backbone(image)[1]
        rows = [head(coarse).permute(0, 2, 3, 1) for head in (self.offsets, self.classes)]
        return rows[0].reshape(image.shape[0], -1, 4), rows[1].reshape(image.shape[0], -1, CLASSES + 1)


def drawn(kind: type[torch.nn.Module], seed: int = 0) -> torch.nn.Module:
    """Return a detector with drawn weights, in float64."""
    torch.manual_seed(seed)
    return kind().double().eval()


def exported(network: torch.nn.Module, image: torch.Tensor, names: Sequence[str]) -> bytes:
    """Return a network as ONNX, in float32, with a free batch axis."""
    buffer = io.BytesIO()
    axes = {name: {0: "N"} for name in ("images", *names)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(
            copy.deepcopy(network).float(), (image.float(),), buffer, dynamo=False, opset_version=17,
            input_names=["images"], output_names=list(names), dynamic_axes=axes,
        )  # fmt: skip
    return buffer.getvalue()
