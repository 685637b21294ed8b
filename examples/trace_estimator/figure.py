"""Draw how the paper's stochastic trace estimator converges to the exact layerwise contributions.

The counterpart of Figure 9, right, of Gruver et al. (2023), on the demo's digit classifier and held-out images. Every
point is measured here: the estimate from P probes is repeated over disjoint blocks of probes and compared with the
exact contribution of the same module. Needs the extra ``torch`` and what ``requirements.txt`` beside this file names::

    pip install 'lieaudit[cpu,torch]' -r examples/trace_estimator/requirements.txt
    python examples/trace_estimator/figure.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from lieaudit import AuditSpec
from lieaudit.torch import attribute, estimate

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).resolve().parent
DIGITS = HERE.parent / "digits"
GENERATOR = "rotation"
IMAGES = 16
PROBES = 8192
COUNTS = 2 ** np.arange(2, 9)
TOLERANCE = 0.05


class DigitsNet(nn.Module):
    """The demo's classifier, with its activations as modules so that they have contributions of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)
        self.conv2, self.relu2, self.pool2 = nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)
        self.conv3, self.relu3 = nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()
        self.classifier = nn.Linear(600, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        h = self.pool1(self.relu1(self.conv1(image)))
        h = self.pool2(self.relu2(self.conv2(h)))
        logits: torch.Tensor = self.classifier(self.relu3(self.conv3(h)).flatten(1))
        return logits


def trained() -> tuple[nn.Module, npt.NDArray[np.float32]]:
    """Return the demo's plain classifier with its trained weights, and held-out images as it takes them."""
    graph = onnx.load(DIGITS / "plain.onnx").graph
    stored = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    module = DigitsNet()
    module.load_state_dict({name: stored[name] for name in module.state_dict()})
    with np.load(DIGITS / "digits.npz") as data:
        raw = data["x"][:IMAGES].astype(np.float32) / 255
    return module.eval(), np.ascontiguousarray(((raw - 0.15) / 0.30).transpose(0, 3, 1, 2), dtype=np.float32)


def deviations(history: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the root mean square relative error of estimates from P probes, for P in COUNTS: (counts, modules)."""
    found = []
    for count in COUNTS:
        blocks = history[: len(history) // count * count].reshape(-1, count, history.shape[1]).mean(axis=1)
        found.append(np.sqrt(np.mean((blocks / truth - 1) ** 2, axis=0)))
    return np.array(found)


def main() -> None:
    torch.set_num_threads(1)
    module, images = trained()
    spec = AuditSpec(generators=(GENERATOR,))
    exact = attribute(module, images, spec)[GENERATOR]
    names = list(exact.inclusive)
    size = exact.lie[0].size
    truth = np.array([np.mean(np.sum(exact.inclusive[n] ** 2, axis=1)) / size for n in names])
    names = [n for n, value in zip(names, truth, strict=True) if value > 1e-9 * truth.max()]
    truth = np.array([np.mean(np.sum(exact.inclusive[n] ** 2, axis=1)) / size for n in names])
    stopped = estimate(module, images, spec, tolerance=TOLERANCE, limit=PROBES)[GENERATOR]
    full = estimate(module, images, spec, tolerance=1e-6, limit=PROBES)[GENERATOR]
    history = full.history[:, [list(full.lee).index(n) for n in names]]
    errors = deviations(history, truth)
    slopes = np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]
    for n, value, slope in zip(names, truth, slopes, strict=True):
        away = (stopped.lee[n] - value) / stopped.error[n]
        print(
            f"{n:10s} exact {value:.4e}  estimated {stopped.lee[n]:.4e}  off by {away:+.2f} standard errors"
            f"  slope {slope:+.3f}"
        )
    print(f"mean slope {slopes.mean():+.3f}; tolerance {TOLERANCE:.0%} reached after {stopped.probes} probes")
    draw(names, truth, errors, stopped.lee, stopped.error, stopped.probes, float(slopes.mean()))


def draw(
    names: list[str],
    truth: npt.NDArray[np.float64],
    errors: npt.NDArray[np.float64],
    lee: Mapping[str, float],
    error: Mapping[str, float],
    probes: int,
    slope: float,
) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), constrained_layout=True)
    x = np.arange(len(names))
    left.bar(x, truth, color="#9db7d5", label="exact (forward mode)")
    left.errorbar(
        x, [lee[n] for n in names], yerr=[3 * error[n] for n in names], fmt="o", ms=4, capsize=3, color="#1f3d5c",
        label=f"estimated, P = {probes}, ±3 standard errors",
    )  # fmt: skip
    left.set(ylim=(0, 1.35 * truth.max()), ylabel="E‖C‖²/K", title=f"Contributions to the {GENERATOR} LEE")
    left.set_xticks(x, names, rotation=30)
    left.legend(fontsize=8, loc="upper left")
    for n, line in zip(names, errors.T, strict=True):
        right.plot(COUNTS, line, marker="o", ms=3, label=n)
    right.plot(COUNTS, errors[0].mean() * np.sqrt(COUNTS[0] / COUNTS), "k--", label="1/√P")
    right.set(
        xscale="log", yscale="log", xlabel="probes P", ylabel="relative error (rms)",
        title=f"Convergence, fitted slope {slope:+.3f}",
    )  # fmt: skip
    right.legend(fontsize=8)
    figure.savefig(HERE / "figure.png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
