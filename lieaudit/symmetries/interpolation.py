"""Interpolation of images off the pixel grid, with weights made from displacements.

Three interpolants Ĩ of an image I, separable in x and y:

* ``bilinear``: hat function (the paper's).
* ``bicubic``: cubic convolution with a = −1/2 (Keys 1981), whose derivative at a pixel is the central
  difference.
* ``fourier``: the band-limited periodic interpolant (the trigonometric polynomial of lowest degree; the
  Nyquist mode of an even period enters as a cosine).

and two continuations beyond the edge: ``reflect`` about the centres of the edge pixels (period 2(n−1)) and
``circular`` (period n).

Weights come from the displacement of a pixel, split into a whole number of pixels and a remainder in
[−1/2, 1/2], never from absolute coordinates: a step of 1e-9 px keeps all its digits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lieaudit.errors import SpecError

Array = npt.NDArray[np.float64]
Floating = npt.NDArray[np.float32] | npt.NDArray[np.float64]

INTERPOLATIONS = ("bilinear", "bicubic", "fourier")
PADDINGS = ("reflect", "circular")

# Elements of one float64 block of work: a few such blocks stay in a core's cache.
BLOCK = 1 << 16
# Beyond this many pixels a float64 displacement holds no fraction of a pixel worth interpolating at.
_FARTHEST = 2.0**40


def wrap(index: Array, size: int, padding: str) -> npt.NDArray[np.intp]:
    """Map whole-numbered pixel positions (float64, any value up to 2^53) into 0 … size−1."""
    if size == 1:
        return np.zeros(index.shape, np.intp)
    period = float(size if padding == "circular" else 2 * (size - 1))
    inside = np.mod(index, period)
    return np.where(inside < size, inside, period - inside).astype(np.intp)


def split(displacement: Array) -> tuple[Array, Array]:
    """Split displacements into whole pixels and a remainder in [−1/2, 1/2].

    A remainder within the rounding error of a non-zero whole displacement is zero: 3/28 of 28 pixels is
    3 pixels.

    Raises
    ------
    SpecError
        A displacement that is not finite or over 2^40 pixels.
    """
    if not np.all(np.abs(displacement) <= _FARTHEST):
        raise SpecError(
            "the transformation moves pixels by more than 2^40 pixels",
            reason="STEP_TOO_LARGE",
            subject="t",
            hint="use a smaller t",
        )
    whole = np.round(displacement)
    rest = displacement - whole
    rest[np.abs(rest) <= 4 * np.finfo(np.float64).eps * np.abs(whole)] = 0.0
    return whole, rest


def resample(images: Floating, dx: Array, dy: Array, *, interpolation: str, padding: str) -> Floating:
    """Evaluate the interpolant of ``images`` (..., H, W) at p + (dx, dy)(p) for every pixel p.

    Parameters
    ----------
    images
        float32 or float64 (..., H, W).
    dx, dy
        Displacements in pixels, float64 (H, W).
    interpolation, padding
        See the module.

    Returns
    -------
    array
        Shape and dtype of ``images``; computed in float64.
    """
    height, width = images.shape[-2:]
    planes = images.reshape(-1, height, width)
    out = np.empty_like(planes)
    block = max(1, BLOCK // (height * width))
    if interpolation == "fourier":
        _resample_fourier(planes, out, dx, dy, padding)
        return out.reshape(images.shape)
    columns, wx = _taps(dx, np.arange(width, dtype=np.float64)[None, :], width, interpolation, padding)
    rows, wy = _taps(dy, np.arange(height, dtype=np.float64)[:, None], height, interpolation, padding)
    taps = [
        (rows[a] * width + columns[b], wy[a] * wx[b])
        for a in range(len(rows))
        for b in range(len(columns))
        if np.any(wy[a]) and np.any(wx[b])
    ]
    flat = planes.reshape(len(planes), height * width)
    for start in range(0, len(planes), block):
        values = flat[start : start + block]
        total = sum(np.take(values, index, axis=1) * weight for index, weight in taps)
        out[start : start + block] = total
    return out.reshape(images.shape)


def _taps(
    displacement: Array, position: Array, size: int, interpolation: str, padding: str
) -> tuple[list[npt.NDArray[np.intp]], list[Array]]:
    """Return source indices and weights of each tap along one axis.

    The taps lie on the side the remainder points to, so that no remainder, of either sign, is rounded.
    """
    whole, rest = split(displacement)
    side, g = np.where(rest < 0, -1.0, 1.0), np.abs(rest)
    if interpolation == "bilinear":
        weights = {0: 1 - g, 1: g}
    else:
        weights = {
            -1: g * (-0.5 + g * (1 - 0.5 * g)),
            0: 1 + g * g * (1.5 * g - 2.5),
            1: g * (0.5 + g * (2 - 1.5 * g)),
            2: g * g * (0.5 * g - 0.5),
        }
    indices = [wrap(position + whole + side * offset, size, padding) for offset in weights]
    return indices, list(weights.values())


def _resample_fourier(planes: Floating, out: Floating, dx: Array, dy: Array, padding: str) -> None:
    height, width = planes.shape[1:]
    separable = bool(np.all(dx == dx[:1]) and np.all(dy == dy[:, :1]))
    if separable:
        kx = _fourier_weights(dx[0], np.arange(width), width, padding)
        ky = _fourier_weights(dy[:, 0], np.arange(height), height, padding)
        for start, plane in enumerate(planes):
            out[start] = ky @ plane.astype(np.float64) @ kx.T
        return
    rows, columns = np.divmod(np.arange(height * width), width)
    points = fourier_at(planes, rows, columns, dx.reshape(-1), dy.reshape(-1), padding=padding)
    out[...] = points.reshape(planes.shape)


def fourier_at(
    planes: Floating,
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    dx: Array,
    dy: Array,
    *,
    padding: str,
) -> Array:
    """Evaluate the Fourier interpolant of planes (c, H, W) at P points, pixels plus displacements: float64 (c, P)."""
    count, height, width = planes.shape
    sources = planes.reshape(count * height, width).astype(np.float64)
    out = np.empty((count, len(rows)))
    block = max(1, 16 * BLOCK // (max(1, count) * height + 2 * (height + width)))
    for start in range(0, len(rows), block):
        points = slice(start, start + block)
        kx = _fourier_weights(dx[points], columns[points], width, padding)
        ky = _fourier_weights(dy[points], rows[points], height, padding)
        lines = (sources @ kx.T).reshape(count, height, len(kx))
        out[:, points] = np.einsum("cyp,py->cp", lines, ky)
    return out


def _fourier_weights(displacement: Array, position: npt.NDArray[np.intp], size: int, padding: str) -> Array:
    """Return the weight of every source pixel at ``position + displacement``: (points, size)."""
    if size == 1:
        return np.ones((len(displacement), 1))
    period = size if padding == "circular" else 2 * (size - 1)
    whole, rest = split(displacement)
    distance = (position + whole)[:, None] - np.arange(period)
    distance -= period * np.round(distance / period)
    rest = rest[:, None]
    # sin π(m + f) = (−1)^m sin πf, which keeps the digits of a tiny f
    numerator = np.where(distance % 2 == 0, 1.0, -1.0) * np.sin(np.pi * rest)
    angle = np.pi * (distance + rest) / period
    denominator = period * (np.tan(angle) if period % 2 == 0 else np.sin(angle))
    here = angle == 0
    kernel = np.where(here, 1.0, numerator / np.where(here, 1.0, denominator))
    return _fold(kernel, size, padding)


def _fold(kernel: Array, size: int, padding: str) -> Array:
    """Add the columns of a reflected period (…, 2(size−1)) onto the pixels they mirror: (…, size)."""
    if padding == "circular":
        return kernel
    folded = kernel[:, :size].copy()
    folded[:, 1 : size - 1] += kernel[:, : size - 1 : -1]
    return folded


def reference_floor(size: int) -> npt.NDArray[np.intp]:
    """Return the pixel at or before each of ``size`` pixels, as a float32 grid over [−1, 1] sees it: (size,).

    The code published with Gruver et al. (2023) samples images at a grid of evenly spaced float32 numbers between the
    centres of the edge pixels (``affine_grid`` with ``align_corners=True``), and takes the floor of
    ((x + 1) / 2)·(n − 1). Where that rounds below j, pixel j lies, for that code, between j − 1 and j. At some sizes
    (32) no pixel is affected, at others 10 to 40 % are. Bit for bit what torch computes: one half of the grid counts
    from −1 and the other from 1, each number rounded once (a fused multiply-add).
    """
    if size == 1:
        return np.zeros(1, np.intp)
    one = np.float32(1.0)
    step = np.float64(np.float32(2.0) / np.float32(size - 1))
    place = np.arange(size)
    # exact in float64, as products of 24 and of some ten bits: rounded once, to float32
    grid = np.where(place < size // 2, step * place - 1.0, 1.0 - step * (size - 1 - place)).astype(np.float32)
    position = ((grid + one) / np.float32(2.0)) * np.float32(size - 1)
    return np.asarray(np.floor(position), np.intp)


def derivative_matrix(size: int, *, interpolation: str, padding: str, right: bool = False) -> Array:
    """Return D, float64 (size, size), with (∂Ĩ/∂x)(j) = Σ_k D[j, k] I[k] along one axis, per pixel.

    For ``bilinear`` the symmetric derivative, or with ``right`` the slope that the reference convention takes,
    I[k+1] − I[k] with k = j or, by `reference_floor`, j − 1; the other interpolants are differentiable at the pixels.
    The y derivative of an image is ``D @ I``, the x derivative ``I @ D.T``.
    """
    if size == 1:
        return np.zeros((1, 1))
    here = np.arange(size, dtype=np.float64)
    row = np.arange(size)
    if interpolation != "fourier":
        matrix = np.zeros((size, size))
        behind, ahead = here - 1, here + 1
        if right:
            behind = reference_floor(size).astype(np.float64)
            ahead = behind + 1
        np.add.at(matrix, (row, wrap(ahead, size, padding)), 1.0 if right else 0.5)
        np.add.at(matrix, (row, wrap(behind, size, padding)), -1.0 if right else -0.5)
        return matrix
    period = size if padding == "circular" else 2 * (size - 1)
    distance = here[:, None] - np.arange(period)
    angle = np.pi * distance / period
    sign = np.where(distance % 2 == 0, 1.0, -1.0)
    same = distance % period == 0
    divisor = np.where(same, 1.0, np.tan(angle) if period % 2 == 0 else np.sin(angle))
    return _fold(np.where(same, 0.0, (np.pi / period) * sign / divisor), size, padding)
