"""What forward mode costs, against finite differences and the two ways of torch: ratios of one run, same threads.

Usage: ``python bench/forward.py [--threads 2] [--repeat 9] [MODEL ...]``. Random weights; G = 8 directions. Finite
differences need 2G plain forwards per image. torch is eager float32. Times are the best of the repeats, taken in turns;
ratios are also given as the median over the turns, which a busy machine disturbs less.

All ten generators are 7 directions (`lieaudit.symmetries.plan`): "ten" are the ratios of measuring and combining those,
against all ten as directions of their own (10 and the value, 11 rows), and against the double backward for each.

Forward mode pushes 1 + G rows through every convolution and matrix product, and onnxruntime's kernels decide what a row
costs. "at_most" is how much faster than the double backward 1 + G plain forwards of onnxruntime would be.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers

from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.graph.load import load_model
from lieaudit.runtime.session import Session
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import GENERATORS as TABLE
from lieaudit.symmetries.plan import plan_of

hf: Any = transformers  # its configurations are typed without their base's fields

DIRECTIONS = 8
GENERATORS = tuple(TABLE.values())
IMAGES = 4
PLAIN_BATCH = 8


class Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x).logits  # type: ignore[no-any-return]


def vit_s() -> Any:
    config = hf.ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000)
    model = hf.ViTForImageClassification(config)
    model.set_attn_implementation("eager")  # forward AD of torch knows no fused attention
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "resnet50": lambda: hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=1000)),
    "vit_s16": vit_s,
    "mobilenet_v2": lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config(num_labels=1000)),
}


def randomise(module: torch.nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)


def double_backward(module: torch.nn.Module, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """J v as the derivative of uᵀ J (one backward pass) along u (a second one), as the paper's code takes it."""
    x = x.requires_grad_()
    z = module(x)
    u = torch.ones_like(z, requires_grad=True)
    (pulled,) = torch.autograd.grad(z, x, u, create_graph=True)
    (pushed,) = torch.autograd.grad(pulled, u, v, create_graph=True)
    return pushed


def measure(name: str, threads: int, repeat: int) -> dict[str, float]:
    torch.manual_seed(0)
    module = Logits(MODELS[name]()).eval()
    randomise(module)
    buffer: Any = io.BytesIO()
    torch.onnx.export(
        module, (torch.randn(2, 3, 224, 224),), buffer, dynamo=False, opset_version=17, input_names=["x"],
        output_names=["z"], dynamic_axes={"x": {0: "N"}, "z": {0: "N"}},
    )  # fmt: skip
    spec = AuditSpec(threads=threads)
    model = load_model(buffer.getvalue(), spec)
    forward = ForwardDifferentiator(model, spec)
    plain = Session(model.model, threads=threads)
    random = np.random.default_rng(0)
    x = random.standard_normal((IMAGES, 3, 224, 224), dtype=np.float32)
    v = random.standard_normal((IMAGES, DIRECTIONS, 3, 224, 224), dtype=np.float32)
    plan = plan_of(GENERATORS, 224, 224, convention="central")
    ten = random.standard_normal((IMAGES, len(GENERATORS), 3, 224, 224), dtype=np.float32)
    basis = np.ascontiguousarray(ten[:, : len(plan.measured)])
    many = random.standard_normal((PLAIN_BATCH, 3, 224, 224), dtype=np.float32)
    point, direction = torch.tensor(x[:1]), torch.tensor(v[:1, 0])

    def torch_jvp() -> None:
        with torch.no_grad():
            torch.func.jvp(module, (point,), (direction,))

    def combined() -> None:
        _, tangent = forward._evaluate(x, basis, {})  # noqa: SLF001 - without the error bar's pass
        for _ in plan.combined(tangent):
            pass

    # seconds per image with G directions
    per_image: dict[str, tuple[Callable[[], Any], float]] = {
        "forward_mode": (lambda: forward._evaluate(x, v, {}), 1 / IMAGES),  # noqa: SLF001 - without the error bar's pass
        "with_error_bars": (lambda: forward(x, v), 1 / IMAGES),
        "finite_difference": (lambda: plain.run({model.input_name: many}), 2 * DIRECTIONS / PLAIN_BATCH),
        "torch_jvp": (torch_jvp, DIRECTIONS),
        "double_backward": (lambda: double_backward(module, point.clone(), direction), DIRECTIONS),
        "ten_combined": (combined, 1 / IMAGES),
        "ten_direct": (lambda: forward._evaluate(x, ten, {}), 1 / IMAGES),  # noqa: SLF001
    }
    turns: dict[str, list[float]] = {label: [] for label in per_image}
    for call, _ in per_image.values():
        call()
    for _ in range(repeat):
        for label, (call, scale) in per_image.items():
            start = time.perf_counter()
            call()
            turns[label].append((time.perf_counter() - start) * scale)
    best = {label: min(times) for label, times in turns.items()}
    own = best["forward_mode"]

    def median(top: str, bottom: str, factor: float = 1.0) -> float:
        return round(factor * float(np.median(np.divide(turns[top], turns[bottom]))), 3)

    return {
        "seconds_per_image": round(own, 4),
        "with_error_bars": round(best["with_error_bars"] / own, 3),
        "of_2G_forwards": round(own / best["finite_difference"], 3),
        "faster_than_torch_jvp": round(best["torch_jvp"] / own, 2),
        "faster_than_double_backward": round(best["double_backward"] / own, 2),
        "ten_of_direct": round(best["ten_combined"] / best["ten_direct"], 3),
        "ten_of_direct_median": median("ten_combined", "ten_direct"),
        "ten_faster_than_double_backward": round(
            best["double_backward"] * len(GENERATORS) / DIRECTIONS / best["ten_combined"], 2
        ),
        "ten_faster_than_double_backward_median": median(
            "double_backward", "ten_combined", len(GENERATORS) / DIRECTIONS
        ),
        "faster_than_double_backward_median": median("double_backward", "forward_mode"),
        "at_most": round(best["double_backward"] / best["finite_difference"] * 2 * DIRECTIONS / (1 + DIRECTIONS), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    for name in arguments.models or list(MODELS):
        print(json.dumps({"model": name, **measure(name, arguments.threads, arguments.repeat)}), flush=True)


if __name__ == "__main__":
    main()
