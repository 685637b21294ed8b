"""Layerwise attribution of every module against the paper's procedure, and against plain forward passes.

One image, one generator; wall time with every core, on both sides. Each model is cut twice: at the leaves of its module
tree, and at a coarser depth of about 20 segments.

Gruver et al. (2023, B.3) estimate each ‖C_k‖² from random probes z: E (zᵀC_k)². Beside our forward rows two forms of it
run in torch: as published, a forward that takes every layer's Lie derivative on the way (here by a JVP per layer) and a
backward per probe; and its best form, one retained graph and one set of Lie derivatives with a backward per probe.
100 probes leave 14 % noise on every layer; the rows have none. Probes cost alike, so that one of the 100 is timed, in
every round.

An exact decomposition of N rows costs about N/2 forwards whatever computes it: half of the network is ahead of the
average row. "at most" is what the retained form's 100 backwards would then be over: 100 backwards / (N/2 forwards).
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench._models import CLASSES, resnet50, smooth_images, vit_small
from lieaudit import AuditSpec
from lieaudit.graph.load import load_model
from lieaudit.layerwise.forward_pass import Chain
from lieaudit.layerwise.preparation import prepare
from lieaudit.runtime.providers import usable_cores
from lieaudit.runtime.session import Session
from lieaudit.symmetries import tangents

REPEATS = 5
PROBES = 100
FORWARD_BATCH = 8
GENERATOR = "translation_x"
BUDGET_MIB = 1024
PAUSE = 0.2
"""Seconds between two measurements: long enough for the threads of the one before to stop spinning."""

COARSE = {"resnet50": 6, "vit_small": 3}
"""Depth of the module tree that gives about 20 segments."""


def main() -> None:
    table = Table(
        title=f"layerwise, one image, {GENERATOR}: wall seconds on {usable_cores()} cores, median of {REPEATS} rounds"
    )
    for column in (
        "graph", "segments", "rows N", "forward", "ours", "÷ forward", "÷ (N/2)", f"{PROBES} probes", "× ours",
        "retained graph", "× ours", "at most", "backward ÷ forward", "memory MiB",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "graph" else "right")
    for path, build in ((resnet50(), _torch_resnet50), (vit_small(), _torch_vit_small)):
        for depth in (None, COARSE[path.stem]):
            table.add_row(path.stem if depth is None else f"… depth {depth}", *measured(path, build, depth))
    Console(width=190).print(table)


def measured(path: Path, build: Callable[[], Any], depth: int | None) -> tuple[str, ...]:
    model = load_model(path)
    spec = AuditSpec(layerwise="module", depth=depth, budget_mib=BUDGET_MIB)
    prepared = prepare(model, spec)
    images = smooth_images(1)
    directions = tangents(images, [GENERATOR], interpolation="bilinear", padding="reflect", convention="central")
    directions = directions.astype(np.float32)
    chain = Chain(model, prepared, spec, (GENERATOR,))
    plain = Session(model.model)
    batch = np.repeat(images, FORWARD_BATCH, axis=0)
    before = _peak_mib(restart=True)
    chain(images, directions)
    memory = _peak_mib() - before
    paper = Paper(build().eval(), images, depth)
    sides: dict[str, Callable[[], object]] = {
        "forward": lambda: plain.run({model.input_name: batch}),
        "ours": lambda: chain(images, directions),
        "published": paper.published,
        "retained": paper.retained,
    }
    for work in sides.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in sides}
    # alternating, so that a busy moment of the machine hits all of them
    for _ in range(REPEATS):
        for name, work in sides.items():
            found[name].append(_seconds(work) / (FORWARD_BATCH if name == "forward" else 1))
    chain.close()
    floor = chain.rows / 2

    def ratio(over: str, under: str) -> float:
        return statistics.median(a / b for a, b in zip(found[over], found[under], strict=True))

    seconds = {name: statistics.median(times) for name, times in found.items()}
    return (
        str(len(prepared.segmentation.segments)),
        str(chain.rows),
        f"{seconds['forward']:.3f}",
        f"{seconds['ours']:.2f}",
        f"{ratio('ours', 'forward'):.1f}",
        f"{ratio('ours', 'forward') / floor:.2f}",
        f"{PROBES * seconds['published']:.1f}",
        f"{PROBES * ratio('published', 'ours'):.1f}",
        f"{PROBES * seconds['retained']:.1f}",
        f"{PROBES * ratio('retained', 'ours'):.1f}",
        f"{PROBES * ratio('retained', 'forward') / floor:.1f}",
        f"{ratio('retained', 'forward'):.2f}",
        f"{memory:.0f} of {BUDGET_MIB}",
    )


class Paper:
    """One probe of the paper's procedure: zᵀC_k = ⟨∂(zᵀF)/∂h_k, D f_k[X h_{k−1}] − X f_k(h_{k−1})⟩ for every module."""

    def __init__(self, model: Any, images: np.ndarray, depth: int | None) -> None:
        import torch

        torch.set_num_threads(usable_cores())
        self._model = model
        self._image = torch.from_numpy(images).requires_grad_()
        self._found: list[tuple[Any, Any]] = []
        for module in _cut_at(model, depth):
            module.register_forward_hook(self._lie_derivative)
        self._kept = self._forward()

    def published(self) -> None:
        """Run a forward that takes every Lie derivative on the way, and a backward."""
        self._backward(*self._forward(), retain=False)

    def retained(self) -> None:
        """Run a backward through the graph that is kept."""
        self._backward(*self._kept, retain=True)

    def _lie_derivative(self, module: Any, args: tuple[Any, ...], out: Any) -> None:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        h = args[0].detach()
        # the fused attention has no forward-mode derivative
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            both: tuple[Any, ...] = torch.func.jvp(module.forward, (h,), (_act(h),))
            self._found.append((out, both[1] - _act(both[0])))

    def _forward(self) -> tuple[Any, list[tuple[Any, Any]]]:
        import torch

        self._found = []
        return torch.softmax(self._model(self._image).logits, 1), self._found

    @staticmethod
    def _backward(out: Any, found: list[tuple[Any, Any]], *, retain: bool) -> None:
        import torch

        ends = [end for end, _ in found]
        gradients = torch.autograd.grad(out, ends, torch.randn_like(out), retain_graph=retain, allow_unused=True)
        for gradient, (_, lie) in zip(gradients, found, strict=True):
            if gradient is not None:
                float(torch.dot(gradient.reshape(-1), lie.reshape(-1)))


def _cut_at(model: Any, depth: int | None) -> list[Any]:
    """Return the leaves of the module tree, or its modules at a depth and the leaves above it."""
    found = []
    for name, module in model.named_modules():
        level, leaf = name.count(".") + 1, not list(module.children())
        if name and (leaf if depth is None else level == depth or (leaf and level < depth)):
            found.append(module)
    return found


def _act(h: Any) -> Any:
    """Return X h of a horizontal translation: maps (n, C, H, W) and tokens (n, 1 + 14·14, C) move, vectors do not."""
    import torch

    if h.ndim == 4:
        padded = torch.nn.functional.pad(h, (1, 1, 0, 0), mode="reflect" if h.shape[-1] > 1 else "replicate")
        return (padded[..., 2:] - padded[..., :-2]) * (h.shape[-1] / 2)
    if h.ndim == 3 and h.shape[1] in {196, 197}:
        grid = h[:, -196:].transpose(1, 2).reshape(h.shape[0], -1, 14, 14)
        moved = _act(grid).reshape(h.shape[0], -1, 196).transpose(1, 2)
        return torch.cat([torch.zeros_like(h[:, :-196]), moved], 1)
    return torch.zeros_like(h)


def _torch_resnet50() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig(**CLASSES))


def _torch_vit_small() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    small: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    return ViTForImageClassification(ViTConfig(**small, **CLASSES))


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    time.sleep(PAUSE)
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _peak_mib(*, restart: bool = False) -> float:
    """Return the peak of resident memory; ``restart`` makes what is resident now the peak (Linux)."""
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
