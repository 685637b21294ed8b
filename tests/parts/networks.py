"""Networks whose outputs move as can be worked out by hand, on blobs with a black border: moments of the image."""

from __future__ import annotations

import numpy as np
import torch

BORDER = 4


def blobs(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return float64 images (count, 1, H, W) of three blobs each, black on a border of 4 px."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    images = np.zeros((count, 1, height, width))
    for i in range(count):
        for _ in range(3):
            cx, cy = random.uniform(0.3, 0.7, 2) * (width, height)
            sx, sy = random.uniform(1.5, 3.0, 2)
            images[i, 0] += random.uniform(0.5, 1.0) * np.exp(-(((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2) / 2)
    return images * inside(height, width)


def compact(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return float64 images (count, 1, H, W) of two blobs that the grid holds: 1e-8 of them beyond it, or between."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    images = np.zeros((count, 1, height, width))
    for i in range(count):
        for _ in range(2):
            cx, cy = random.uniform(0.45, 0.55, 2) * (width, height)
            images[i, 0] += random.uniform(0.5, 1.0) * np.exp(-(((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.0**2)))
    return images


def inside(height: int, width: int) -> np.ndarray:
    """Return 1 where no border is."""
    found = np.zeros((height, width))
    found[BORDER:-BORDER, BORDER:-BORDER] = 1.0
    return found


class Moments(torch.nn.Module):
    """Mean and covariance of the positions of light, in pixels from the first pixel's centre."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        self.register_buffer("at", torch.stack([x, y], dim=-1).reshape(-1, 2).double())

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the means (N, 2) and the covariances (N, 2, 2)."""
        light = image.sum(dim=1).flatten(1)
        share = light / light.sum(dim=1, keepdim=True)
        at = self.at.to(image.dtype)
        mean = share @ at
        beside = at[None] - mean[:, None]
        return mean, torch.einsum("np,npi,npj->nij", share, beside, beside)


class Keypoint(Moments):
    """The centre of mass, ``factor`` times its distance from ``about``: exactly equivariant with factor 1."""

    def __init__(self, height: int, width: int, factor: float = 1.0, about: float = 0.0) -> None:
        super().__init__(height, width)
        self.factor, self.about = factor, about

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return one point (N, 1, 2) in pixels."""
        mean, _ = super().forward(image)
        return (self.about + self.factor * (mean - self.about))[:, None]


class Box(Moments):
    """A box from second moments: (N, 1, 4) as cx, cy, w, h with w² = 12 (var + 1/2), in pixels from the image's edge.

    The central difference of x² v is exact but for the a of v = a x: it takes half a square pixel of the variance.
    """

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the box."""
        mean, covariance = super().forward(image)
        sides = torch.sqrt(12.0 * (torch.diagonal(covariance, dim1=1, dim2=2) + 0.5))
        return torch.cat([mean + 0.5, sides], dim=1)[:, None]


class Axis(Moments):
    """The angle of the principal axis: (N, 1)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the angle in radians, from +x towards +y."""
        _, c = super().forward(image)
        return (torch.atan2(2 * c[:, 0, 1], c[:, 0, 0] - c[:, 1, 1]) / 2)[:, None]


class Slope(torch.nn.Module):
    """The gradient of a periodic image, (N, 2, H, W), spectral: exact for what the image's grid can hold."""

    def __init__(self, across: np.ndarray, down: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("across", torch.from_numpy(across))
        self.register_buffer("down", torch.from_numpy(down))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return ∂/∂x and ∂/∂y."""
        flat = image.sum(dim=1)
        across, down = self.across.to(image.dtype), self.down.to(image.dtype)
        return torch.stack([flat @ across.T, down @ flat], dim=1)
