"""Moving maps by stated amounts, without losing more than the grid cannot hold (Karras et al. 2021, Appendix E)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lieaudit.symmetries import get_generator, pixel_grid, transform
from lieaudit.symmetries.interpolation import Floating, fourier_at

Array = npt.NDArray[np.float64]


def translate(maps: Floating, tx: float, ty: float, interpolation: str, padding: str) -> Floating:
    """Shift by shares of width and height, one axis after the other."""
    along_x = transform(maps, "translation_x", tx, interpolation=interpolation, padding=padding)
    return transform(along_x, "translation_y", ty, interpolation=interpolation, padding=padding)


def rotate(maps: Floating, angle: float, padding: str) -> Floating:
    """Rotate exactly after removing the frequencies that the rotated grid cannot hold."""
    height, width = maps.shape[-2:]
    canvas, top, left = _canvas(maps, padding)
    canvas = _band_limit(canvas, angle)
    rows, columns = (index.reshape(-1) for index in np.mgrid[:height, :width])
    dx, dy = (
        d.reshape(-1) for d in get_generator("rotation").displacement(*pixel_grid(height, width), angle, width, height)
    )
    planes = canvas.reshape(-1, *canvas.shape[-2:])
    points = fourier_at(planes, rows + top, columns + left, dx, dy, padding="circular")
    out = np.empty_like(maps)
    out[...] = points.reshape(maps.shape)
    return out


def band_limited(maps: Array, angle: float, padding: str) -> Array:
    """Remove from a map what `rotate` by the opposite angle has removed from its twin."""
    height, width = maps.shape[-2:]
    canvas, top, left = _canvas(maps, padding)
    return _band_limit(canvas, angle)[..., top : top + height, left : left + width]


def _canvas(maps: Floating, padding: str) -> tuple[Array, int, int]:
    """Continue maps by half their size on every side, which holds any rotation of them."""
    height, width = maps.shape[-2:]
    top = left = max(height, width) // 2
    pads = [(0, 0)] * (maps.ndim - 2) + [(top, top), (left, left)]
    wide = maps.astype(np.float64)
    wide = np.pad(wide, pads, mode="wrap") if padding == "circular" else np.pad(wide, pads, mode="reflect")
    return wide, top, left


def _band_limit(canvas: Array, angle: float) -> Array:
    """Keep the frequencies that lie in the grid's square also after turning by ``angle``: an octagon."""
    fy, fx = (np.fft.fftfreq(size) for size in canvas.shape[-2:])
    # e^(2πi k·q) at q = A p is the wave of frequency Aᵀ k
    u = np.cos(angle) * fx[None, :] - np.sin(angle) * fy[:, None]
    v = np.cos(angle) * fy[:, None] + np.sin(angle) * fx[None, :]
    # a hair wider, so that a quarter turn keeps the Nyquist frequencies themselves
    keep = np.maximum(np.abs(u), np.abs(v)) <= 0.5 + 1e-9
    return np.asarray(np.fft.ifft2(np.fft.fft2(canvas) * keep).real)


def inside(x: Array, y: Array, height: int, width: int, margin: int) -> npt.NDArray[np.bool_]:
    """Say which points lie on the map, ``margin`` pixels (at most an eighth of the map) off its edges."""
    right, bottom = ((size - 1) / 2 - min(margin, size // 8) + 1e-9 for size in (width, height))
    return np.asarray((np.abs(x) <= right) & (np.abs(y) <= bottom))
