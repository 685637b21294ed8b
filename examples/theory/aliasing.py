"""Theorem 1 of Gruver et al. (2023), run: aliasing costs exactly the equivariance that the Fourier series says.

Sampling every s-th pixel lets a frequency n come out as Alias(n), the nearest one modulo the new width. When the image
moves by t widths, its component at n turns by the phase 2π n t; taking the shift back on the coarse grid turns it by
2π Alias(n) t only. What is left over is the Lie derivative of the sampling A along the translation:

    L A(h) = Σ_n 2πi (n − Alias(n)) ĥ(n) e^{2πi Alias(n)·}                                             (C.2, Eq. 9)

The left side is measured by `lieaudit.audit` on an ONNX graph that is one Slice, with the band-limited interpolant
(``fourier``, ``circular``); the right side is a Fourier transform in numpy. Two checks:

* every second pixel along the translation only: every output frequency has one aliased source, so squares add up and
  ‖L A(h)‖² = (2π)² Σ_n (n − Alias(n))² |ĥ(n)|², the theorem as it is printed;
* every second pixel along both axes, or every fourth: several aliased sources meet in one output frequency and add as
  amplitudes. The amplitudes' sum holds to rounding; the sum of squares only on average over phases. Both are shown.

Needs matplotlib for the figure::

    python examples/theory/aliasing.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

import lieaudit

HERE = Path(__file__).resolve().parent
SIZE = 32
IMAGES = 8
STRIDES = (2, 4)

Array = npt.NDArray[np.float64]


def sampling(size: int, stride_y: int, stride_x: int) -> onnx.ModelProto:
    """Return the aliasing operation as ONNX: every stride-th pixel of images (N, 1, size, size)."""
    ints = {"starts": [0, 0], "ends": [size, size], "axes": [2, 3], "steps": [stride_y, stride_x]}
    graph = helper.make_graph(
        [helper.make_node("Slice", ["image", *ints], ["sampled"])],
        "sampling",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, size, size])],
        [helper.make_tensor_value_info("sampled", TensorProto.FLOAT, ["N", 1, size // stride_y, size // stride_x])],
        [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in ints.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def images(count: int, size: int, *, wide: bool) -> npt.NDArray[np.float32]:
    """Draw images without those frequencies whose alias has no sign: half the new width, modulo the new width.

    ``wide``: those along y, too, alias.
    """
    random = np.random.default_rng(0)
    spectrum = np.fft.fft2(random.standard_normal((count, 1, size, size)))
    n = np.abs(_frequencies(size))
    ambiguous = (n == size // 2) | np.any([n % (size // s) == size // (2 * s) for s in STRIDES], axis=0)
    smooth = n < size // (2 * max(STRIDES))
    spectrum[..., ambiguous] = 0
    spectrum[..., ambiguous | ~(smooth | wide), :] = 0
    return np.asarray(np.fft.ifft2(spectrum).real, np.float32)


def measured(x: npt.NDArray[np.float32], stride_y: int, stride_x: int) -> Array:
    """Return ‖L A(h)‖² per image along translation_x, as lieaudit measures it (t in image widths)."""
    spec = lieaudit.AuditSpec(
        generators=("translation_x",), interpolation="fourier", padding="circular", head="spatial", method="forward"
    )
    report = lieaudit.audit(sampling(x.shape[-1], stride_y, stride_x), x, spec)
    pixels = (x.shape[-1] // stride_y) * (x.shape[-1] // stride_x)
    return np.asarray(pixels * np.array(report.results["translation_x"].per_image))


def amplitudes_summed(x: npt.NDArray[np.float32], stride_y: int, stride_x: int) -> Array:
    """Return the exact right side: amplitudes add up in each output frequency, squares over the frequencies."""
    size = x.shape[-1]
    n = _frequencies(size)
    # the unitary transform, so that Parseval's theorem has no factor; sampling divides amplitudes by the stride
    spectrum = np.fft.fft2(x.astype(np.float64))[:, 0]
    turned = 2j * np.pi * (n - _aliased(n, size // stride_x)) * spectrum
    folded = _folded(_folded(turned, stride_x, axis=2), stride_y, axis=1) / (stride_x * stride_y)
    return np.asarray(np.sum(np.abs(folded) ** 2, axis=(1, 2)) / (folded.shape[1] * folded.shape[2]))


def squares_summed(x: npt.NDArray[np.float32], stride_y: int, stride_x: int) -> Array:
    """Return the right side as the theorem prints it: (2π)² Σ (n − Alias(n))² |ĥ(n)|²."""
    size = x.shape[-1]
    n = _frequencies(size)
    power = np.abs(np.fft.fft2(x.astype(np.float64))[:, 0]) ** 2
    weights = (2 * np.pi * (n - _aliased(n, size // stride_x))) ** 2
    kept = (stride_x * stride_y) ** 2 * (size // stride_x) * (size // stride_y)
    return np.asarray(np.sum(weights * power, axis=(1, 2)) / kept)


def _frequencies(size: int) -> Array:
    """Return the signed frequencies of a discrete Fourier transform, in cycles per image."""
    return np.asarray(np.fft.fftfreq(size, 1 / size), np.float64)


def _aliased(n: Array, width: int) -> Array:
    """Return Alias(n): the frequency nearest to 0 that looks the same on ``width`` samples."""
    return n - width * np.round(n / width)


def _folded(spectrum: npt.NDArray[np.complex128], stride: int, axis: int) -> npt.NDArray[np.complex128]:
    """Add up the sources of each output frequency: those that are equal modulo the new size."""
    size = spectrum.shape[axis]
    shape = (*spectrum.shape[:axis], stride, size // stride, *spectrum.shape[axis + 1 :])
    return np.asarray(spectrum.reshape(shape).sum(axis=axis))


def worst(found: Array, expected: Array) -> float:
    """Return the largest relative difference over the images."""
    return float(np.max(np.abs(found / expected - 1)))


def rows(strides: Sequence[int] = STRIDES) -> list[tuple[str, int, int, float, float]]:
    """Measure: (what, stride_y, stride_x, error of the amplitudes' sum, error of the sum of squares)."""
    table = []
    for stride in strides:
        for what, stride_y, wide in (("along x", 1, True), ("both, y smooth", stride, False), ("both", stride, True)):
            x = images(IMAGES, SIZE, wide=wide)
            found = measured(x, stride_y, stride)
            exact, printed = amplitudes_summed(x, stride_y, stride), squares_summed(x, stride_y, stride)
            table.append((what, stride_y, stride, worst(found, exact), worst(found, printed)))
    return table


def draw(path: Path) -> None:
    """Draw the error that every frequency of a wave causes when every second or fourth pixel is kept."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), constrained_layout=True)
    position = np.arange(SIZE) / SIZE
    for stride, marker in zip(STRIDES, "os", strict=True):
        n = np.array([k for k in range(1, SIZE // 2) if (2 * k * stride) % SIZE])
        waves = np.cos(2 * np.pi * n[:, None] * position + 0.3).astype(np.float32)
        found = measured(np.repeat(waves[:, None, None, :], SIZE, axis=2), 1, stride)
        pixels = SIZE * (SIZE // stride)
        axes.plot(
            n, found / pixels, marker, ms=4, label=f"measured, every {stride}{'nd' if stride == 2 else 'th'} pixel"
        )
        theory = 2 * np.pi**2 * (n - _aliased(n.astype(np.float64), SIZE // stride)) ** 2
        axes.plot(n, theory, "kx", ms=8, mew=0.8, label="Theorem 1" if stride == STRIDES[0] else None)
    axes.set(xlabel="frequency of the wave, cycles per image", ylabel="LEE of the sampling, per width²")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    print("| stride | measured against amplitudes | measured against squares |\n|---|---|---|")
    for what, stride_y, stride_x, exact, printed in rows():
        print(f"| {stride_y} × {stride_x}, {what} | {exact:.1e} | {printed:.1e} |")
    if "--no-figure" not in sys.argv:
        draw(HERE / "aliasing.png")


if __name__ == "__main__":
    main()
