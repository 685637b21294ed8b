"""Small networks of the published families that bench/bars.py measures, with drawn weights.

They have the families' joints: dense concatenation, parallel branches, exchange between resolutions, grouped
bottlenecks, cheap "ghost" channels, and residual beside dense paths. Widths are small, the input is of real size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

CLASSES = 100


def unit(inner: int, outer: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, act: bool = True) -> nn.Module:
    """Return convolution, batch normalisation and ReLU."""
    layers = [
        nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outer),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if act else []))


class Concatenated(nn.Module):
    """Branches side by side (Inception); the input itself may be one (DenseNet)."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Ghost(nn.Module):
    """Half of the channels by a 1×1 convolution, the others by a depthwise one from them."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.first, self.cheap = unit(inner, outer // 2), unit(outer // 2, outer // 2, 3, groups=outer // 2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return torch.cat([first, self.cheap(first)], 1)


class DualPath(nn.Module):
    """A grouped bottleneck that adds to the first channels and appends the rest."""

    def __init__(self, inner: int, kept: int, added: int) -> None:
        super().__init__()
        self.kept = kept
        self.body = nn.Sequential(unit(inner, 32), unit(32, 32, 3, groups=8), unit(32, kept + added, act=False))

    def forward(self, x: Tensor) -> Tensor:
        made = self.body(x)
        same = x[:, : self.kept] + made[:, : self.kept]
        return torch.relu(torch.cat([same, x[:, self.kept :], made[:, self.kept :]], 1))


class Exchange(nn.Module):
    """Two resolutions that work apart and then add each other, resampled (HRNet)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine, self.coarse = unit(width, width, 3), unit(width, 2 * width, 3, 2)
        self.down, self.up = unit(width, 2 * width, 3, 2, act=False), unit(2 * width, width, act=False)

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = self.fine(x), self.coarse(x)
        raised = nn.functional.interpolate(self.up(coarse), scale_factor=2.0, mode="nearest")
        return torch.cat([torch.relu(fine + raised), nn.functional.interpolate(
            torch.relu(coarse + self.down(fine)), scale_factor=2.0, mode="nearest")], 1)  # fmt: skip


def _stem(width: int) -> list[nn.Module]:
    return [unit(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]


def _tail(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)]


def densenet() -> nn.Module:
    """DenseNet: every layer sees all before it."""
    layers, width = _stem(16), 16
    for block in range(3):
        for _ in range(4):
            layers.append(Concatenated([nn.Identity(), nn.Sequential(unit(width, 32), unit(32, 8, 3))]))
            width += 8
        if block < 2:
            layers += [unit(width, width // 2), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*layers, *_tail(width))


def inception() -> nn.Module:
    """Inception: 1×1, 3×3, double 3×3 and pooled branches."""
    layers, width = _stem(24), 24
    for block in range(5):
        layers.append(
            Concatenated(
                [
                    unit(width, 16),
                    nn.Sequential(unit(width, 12), unit(12, 16, 3)),
                    nn.Sequential(unit(width, 8), unit(8, 12, 3), unit(12, 12, 3)),
                    nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(width, 8)),
                ]
            )
        )
        width = 52
        if block in {1, 3}:
            layers.append(nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*layers, *_tail(width))


def hrnet() -> nn.Module:
    """HRNet: a fine and a coarse path that exchange."""
    layers, width = [unit(3, 16, 3, 2), unit(16, 16, 3, 2)], 16
    for _ in range(3):
        layers += [Exchange(width), unit(3 * width, width)]
    return nn.Sequential(*layers, *_tail(width))


def regnet() -> nn.Module:
    """RegNet: residual bottlenecks with grouped convolutions."""
    layers, inner = [unit(3, 16, 3, 2)], 16
    for width in (24, 48, 96):
        for stride in (2, 1):
            body = nn.Sequential(unit(inner, width), unit(width, width, 3, stride, 4), unit(width, width, act=False))
            shortcut = unit(inner, width, 1, stride, act=False) if stride == 2 else None
            layers.append(Residual(body, shortcut))
            inner = width
    return nn.Sequential(*layers, *_tail(inner))


def ghostnet() -> nn.Module:
    """GhostNet: depthwise reductions between ghost modules."""
    layers, inner = [unit(3, 16, 3, 2)], 16
    for width in (24, 40, 80, 112):
        layers += [Ghost(inner, 2 * width), unit(2 * width, 2 * width, 3, 2, 2 * width), Ghost(2 * width, width)]
        inner = width
    return nn.Sequential(*layers, *_tail(inner))


def dpn() -> nn.Module:
    """DPN: dual paths."""
    layers, width = [*_stem(32)], 32
    for block in range(3):
        for _ in range(2):
            layers.append(DualPath(width, 32, 8))
            width += 8
        if block < 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *_tail(width))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "DenseNet": densenet,
    "Inception": inception,
    "HRNet": hrnet,
    "RegNet": regnet,
    "GhostNet": ghostnet,
    "DPN": dpn,
}


def draw(name: str, seed: int = 0) -> nn.Module:
    """Return a network with weights that keep the size of activations, and statistics unlike the neutral ones."""
    torch.manual_seed(seed)
    network = NETWORKS[name]().eval()
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.7, 1.3)
            nn.init.normal_(part.bias, 0.0, 0.2)
    return network
