"""Layerwise attribution of every module against the paper's procedure, and against plain forward passes.

One image, one generator. Gruver et al. (2023, B.3) estimate each ‖C_k‖² from random probes z: E (zᵀC_k)². Beside our
forward rows two forms of it run in torch: as published, a forward that takes every layer's Lie derivative on the way
(here by a JVP per layer) and a backward per probe; and its best form, one retained graph and one set of Lie derivatives
with a backward per probe. 100 probes leave 14 % noise on every layer; the rows have none. Probes cost alike, so
`PROBES_RUN` of the 100 are run and scaled.

All times are CPU seconds of one thread: unlike wall time they do not depend on what else the machine is doing.
"""

from __future__ import annotations

import resource
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
from lieaudit.layerwise.chain import Chain
from lieaudit.layerwise.prepared import prepare
from lieaudit.runtime.session import Session
from lieaudit.symmetries import tangents

REPEATS = 3
PROBES = 100
PROBES_RUN = 5
GENERATOR = "translation_x"
BUDGET_MIB = 1024


def main() -> None:
    table = Table(title=f"layerwise, one image, {GENERATOR}: CPU seconds of one thread, median of {REPEATS}")
    for column in (
        "graph", "segments", "rows N", "ours", "÷ forward", "÷ (N/2)", f"{PROBES} probes", "× ours", "retained graph",
        "× ours", "memory MiB",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "graph" else "right")
    for path, build in ((resnet50(), _torch_resnet50), (vit_small(), _torch_vit_small)):
        table.add_row(path.stem, *measured(path, build))
    Console(width=160).print(table)


def measured(path: Path, build: Callable[[], Any]) -> tuple[str, ...]:
    model = load_model(path)
    spec = AuditSpec(layerwise="module", budget_mib=BUDGET_MIB, threads=1)
    prepared = prepare(model, spec)
    images = smooth_images(1)
    directions = tangents(images, [GENERATOR], interpolation="bilinear", padding="reflect", convention="central")
    directions = directions.astype(np.float32)
    chain = Chain(model, prepared, spec, (GENERATOR,))
    plain = Session(model.model, threads=1)
    batch = np.repeat(images, 8, axis=0)
    _seconds(lambda: plain.run({model.input_name: batch}))
    before = _peak_mib()
    chain(images, directions)
    memory = _peak_mib() - before
    # alternating, so that a busy moment of the machine hits both sides
    forward, ours = [], []
    for _ in range(REPEATS):
        forward.append(_seconds(lambda: plain.run({model.input_name: batch})) / len(batch))
        ours.append(_seconds(lambda: chain(images, directions)))
    ratio = statistics.median(a / b for a, b in zip(ours, forward, strict=True))
    own = statistics.median(ours)
    probes, retained = _paper(build().eval(), images)
    chain.close()
    return (
        str(len(prepared.segmentation.segments)),
        str(chain.rows),
        f"{own:.2f}",
        f"{ratio:.1f}",
        f"{ratio / (chain.rows / 2):.2f}",
        f"{probes:.1f}",
        f"{probes / own:.1f}",
        f"{retained:.1f}",
        f"{retained / own:.1f}",
        f"{memory:.0f} of {BUDGET_MIB}",
    )


def _paper(model: Any, images: np.ndarray) -> tuple[float, float]:
    """Give seconds of both forms for `PROBES` probes: zᵀC_k = ⟨∂(zᵀF)/∂h_k, D f_k[X h_{k−1}] − X f_k(h_{k−1})⟩."""
    import torch

    torch.set_num_threads(1)
    found: list[tuple[Any, Any]] = []

    def lie_derivative(module: Any, args: tuple[Any, ...], out: Any) -> None:
        h = args[0].detach()
        with torch.no_grad():
            both: tuple[Any, ...] = torch.func.jvp(module.forward, (h,), (_act(h),))
            found.append((out, both[1] - _act(both[0])))

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lie_derivative)
    x = torch.from_numpy(images).requires_grad_()

    def forward() -> Any:
        found.clear()
        return torch.softmax(model(x).logits, 1)

    def backward(out: Any, *, retain: bool) -> None:
        ends = [end for end, _ in found]
        gradients = torch.autograd.grad(out, ends, torch.randn_like(out), retain_graph=retain, allow_unused=True)
        for gradient, (_, lie) in zip(gradients, found, strict=True):
            if gradient is not None:
                float(torch.dot(gradient.reshape(-1), lie.reshape(-1)))

    backward(forward(), retain=False)
    probes = statistics.median(_seconds(lambda: backward(forward(), retain=False)) for _ in range(PROBES_RUN))
    out = forward()
    backward(out, retain=True)
    retained = statistics.median(_seconds(lambda: backward(out, retain=True)) for _ in range(PROBES_RUN))
    return PROBES * probes, PROBES * retained


def _act(h: Any) -> Any:
    """Give X h of a horizontal translation: maps (n, C, H, W) and tokens (n, 1 + 14·14, C) move, vectors do not."""
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
    started = time.process_time()
    work()
    return time.process_time() - started


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
