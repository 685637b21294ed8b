"""Appendix C.1 of Gruver et al. (2023), run: consistency regularisation with small transforms is the LEE.

The Π-model penalises E‖F(T_u x) − F(x)‖² for a small random transform u = Σ_i u_i X_i with covariance Σ, or
E‖F(T_u x) − F(T_w x)‖² for two independent ones. As the transforms shrink, Σ → s² Σ, the penalty over s² tends to

    tr(Σ M),  twice that for two independent transforms,   M_ij = E_x ⟨L_i F, L_j F⟩

the quadratic form whose diagonal is K times the LEE of each generator. The limit comes from float64 derivatives by
torch; the penalties are computed by moving images a finite way, with expectations over u by a quadrature that is exact
far beyond the order in question, so that no sampling noise hides the rate:

* the band-limited interpolant (``fourier``, ``circular``), translations and a smooth network: order 2 in s;
* the bilinear interpolant: the penalty does not tend to tr(Σ M) at all, because for t ≠ 0 it blurs as well as moves,
  on either side of 0 alike (docs/numerics.md, "Which derivative, and why central").

Needs torch, and matplotlib for the figure::

    python examples/theory/consistency.py
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lieaudit.symmetries import tangents, transform
from lieaudit.torch import SourceFunction, TorchDifferentiator

HERE = Path(__file__).resolve().parent
SIZE, IMAGES = 12, 6
GENERATORS = ("translation_x", "translation_y")
# standard deviations in image sizes at scale 1, and their correlation: Σ is not diagonal
DEVIATIONS, CORRELATION = (0.06, 0.04), 0.5
SCALES = 2.0 ** -np.arange(0, 7)
NODES = 7
"""Gauss-Hermite nodes an axis: exact for polynomials up to degree 13 in u."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Penalties over s² at each scale, for one transform and for two, and tr(Σ M)."""

    one: Array
    two: Array
    trace: float

    def slope(self, which: str) -> float:
        """Fit the order in s at which the penalty approaches its limit, over the scales that rounding spares."""
        value, limit = (self.one, self.trace) if which == "one" else (self.two, 2 * self.trace)
        away = np.abs(value / limit - 1)
        usable = (away > 1e-5) & (away < 0.1)
        if usable.sum() < 3:
            raise RuntimeError("fewer than three scales show the rate: choose other scales")
        return float(np.polyfit(np.log(SCALES[usable]), np.log(away[usable]), 1)[0])


def network(seed: int = 0) -> nn.Module:
    """Return a smooth network without any invariance: convolution, tanh, a linear map of all positions."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Flatten(), nn.Linear(6 * SIZE**2, 4)
    ).double()


def images() -> Array:
    """Draw smooth images: noise with the upper half of its frequencies removed."""
    spectrum = np.fft.fft2(np.random.default_rng(0).standard_normal((IMAGES, 1, SIZE, SIZE)))
    low = np.abs(np.fft.fftfreq(SIZE, 1 / SIZE)) <= SIZE // 4
    return np.ascontiguousarray(np.fft.ifft2(spectrum * (low[:, None] & low)).real)


def quadrature() -> tuple[Array, Array]:
    """Return points (P, 2) and weights (P,) of a centred normal distribution with covariance Σ."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    points = np.array(list(product(nodes, repeat=2)))
    root = np.linalg.cholesky(covariance())
    return points @ root.T, np.array([a * b for a, b in product(weights, repeat=2)]) / (2 * np.pi)


def covariance() -> Array:
    """Return Σ of the translations' parameters at scale 1."""
    shape = np.array([[1, CORRELATION], [CORRELATION, 1]])
    return np.asarray(np.outer(DEVIATIONS, DEVIATIONS) * shape)


def gram(model: nn.Module, x: Array, interpolation: str, padding: str) -> Array:
    """Return M, (2, 2), from exact derivatives in float64."""
    moved = tangents(x, GENERATORS, interpolation=interpolation, padding=padding, convention="central")
    derivative = TorchDifferentiator(SourceFunction(model))(x, moved).tangent  # type: ignore[arg-type]
    return np.asarray(np.einsum("nik,njk->ij", derivative, derivative) / len(x))


def outputs(model: nn.Module, x: Array, points: Array, interpolation: str, padding: str) -> Array:
    """Return F(T_u x) for every point u: (P, images, K)."""
    found = []
    for u in points:
        moved = x
        for generator, t in zip(GENERATORS, u, strict=True):  # translations commute
            shifted = transform(moved, generator, float(t), interpolation=interpolation, padding=padding)
            moved = np.asarray(shifted, np.float64)
        with torch.no_grad():
            found.append(model(torch.from_numpy(moved)).numpy())
    return np.array(found)


def limits(interpolation: str, padding: str) -> Limits:
    """Measure both penalties at every scale, and the limit they should have."""
    model, x = network(), images()
    points, weights = quadrature()
    one, two = [], []
    (still,) = outputs(model, x, np.zeros((1, 2)), interpolation, padding)
    for scale in SCALES:
        moved = outputs(model, x, scale * points, interpolation, padding) - still
        square = np.einsum("p,pnk,pnk->", weights, moved, moved) / len(x)
        mean = np.einsum("p,pnk->nk", weights, moved)
        # E‖a − b‖² of independent a and b is twice the square less twice the product of their means
        one.append(square / scale**2)
        two.append(2 * (square - np.sum(mean**2) / len(x)) / scale**2)
    trace = float(np.trace(covariance() @ gram(model, x, interpolation, padding)))
    return Limits(np.array(one), np.array(two), trace)


def draw(smooth: Limits, bilinear: Limits, path: Path) -> None:
    """Draw how far each penalty is from its limit, over the size of the transforms."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), constrained_layout=True)
    pixels = SCALES * max(DEVIATIONS) * SIZE
    for name, found, marker in (("fourier", smooth, "o"), ("bilinear", bilinear, "s")):
        for count, value, limit in (("one", found.one, found.trace), ("two", found.two, 2 * found.trace)):
            style = "-" if count == "one" else "--"
            axes.plot(
                pixels,
                np.abs(value / limit - 1),
                style + marker,
                ms=4,
                label=f"{name}, {count} transform{'s' if count == 'two' else ''}",
            )
    axes.plot(pixels, 0.02 * (pixels / pixels[0]) ** 2, "k:", label="order 2")
    axes.set(
        xscale="log", yscale="log", xlabel="standard deviation of the shift, pixels",
        ylabel="penalty against tr(ΣM), relative",
    )  # fmt: skip
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    torch.set_num_threads(1)
    smooth, bilinear = limits("fourier", "circular"), limits("bilinear", "circular")
    print(f"fourier:  tr(ΣM) = {smooth.trace:.6g}; order {smooth.slope('one'):.3f} (one transform), ", end="")
    print(f"{smooth.slope('two'):.3f} (two); at the smallest scale {smooth.one[-1] / smooth.trace - 1:+.1e}")
    print(f"bilinear: tr(ΣM) = {bilinear.trace:.6g}; at the smallest scale the penalty of one transform is ", end="")
    print(f"{bilinear.one[-1] / bilinear.trace:.3f} (not 1) times that, of two {bilinear.two[-1] / bilinear.trace:.3f}")
    if "--no-figure" not in sys.argv:
        draw(smooth, bilinear, HERE / "consistency.png")


if __name__ == "__main__":
    main()
