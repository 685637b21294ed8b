"""How far four ways to the same derivative agree: writes docs/agreement.md. Accuracy, not time.

torch float64, torch float32, forward mode on the ONNX graph and finite differences on the ONNX session, on the shared
trained ResNet-20 (where it is at hand) and on small transformers models with random weights.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

import lieaudit
from lieaudit.data import Dataset
from lieaudit.derivatives.base import Differentiator
from lieaudit.graph.load import AuditableModel, load_model
from lieaudit.images import Images
from lieaudit.method import choose_method
from lieaudit.metrics.lee import LieDerivative, OutputAction, lie_derivative

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "agreement.md"
GENERATORS = ("rotation", "translation_x", "scale")
COUNT = 64
METHODS = ("torch 64", "torch 32", "forward", "differences")

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Case:
    """One model, as a module and as ONNX, and its images."""

    name: str
    module: Any
    images: Float32Array


def main() -> None:
    import torch

    torch.set_num_threads(1)
    lines = [line for case in cases() for line in rows(case)]
    PAGE.write_text(page(lines), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def cases() -> Iterator[Case]:
    models = _test_models()
    real = Path(os.environ.get("LIEAUDIT_REAL") or ROOT.parent / "shared" / "real")
    if (real / "checkpoints").is_dir():
        import torch

        module = models.make_resnet20()
        stored = torch.load(real / "checkpoints" / "resnet20_cifar10.th", weights_only=True, map_location="cpu")
        module.load_state_dict({n.removeprefix("module."): v for n, v in stored["state_dict"].items()})
        with np.load(real / "images" / "cifar10_test_1017.npz") as data:
            raw = data["x"][:COUNT].astype(np.float32) / 255
        normal = (raw - np.array([0.485, 0.456, 0.406], np.float32)) / np.array([0.229, 0.224, 0.225], np.float32)
        yield Case("ResNet-20, trained on CIFAR-10", module, np.ascontiguousarray(normal.transpose(0, 3, 1, 2)))
    import torch
    import transformers

    titles = {"vit": "ViT", "swin": "Swin", "convnext": "ConvNeXt", "segformer": "SegFormer (dense)"}
    for name, make in models.MAKERS.items():
        torch.manual_seed(0)
        module, size = make(transformers)
        yield Case(f"{titles[name]}, random weights", module.eval(), smooth_images(COUNT, size))


def smooth_images(count: int, size: int) -> Float32Array:
    """Return (count, 3, size, size) images with the falling spectrum of photographs, mean 0 and variance 1."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    images = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((count, 3, size, size))) / (frequency + 1 / size))
    images -= images.mean((2, 3), keepdims=True)
    images /= images.std((2, 3), keepdims=True)
    return images.astype(np.float32)


def rows(case: Case) -> Iterator[str]:
    """Return one line of the table per generator."""
    spec = lieaudit.AuditSpec(generators=GENERATORS, threads=1)
    from lieaudit.torch import export

    model = load_model(export(case.module, case.images[:2]), spec)
    found = {name: derivatives(method, model, case, spec) for name, method in methods(model, case, spec)}
    for g, generator in enumerate(GENERATORS):
        cells = [case.name if g == 0 else "", f"`{generator}`"]
        lee = _norms(found["torch 64"].value[:, g]) ** 2 / model.output_size
        cells.append(f"{lee.mean():.6g}")
        for first, second in itertools.combinations(METHODS, 2):
            cells.append(_pair(found[first], found[second], g))
        yield f"| {' | '.join(cells)} |"


def methods(model: AuditableModel, case: Case, spec: lieaudit.AuditSpec) -> Iterator[tuple[str, Differentiator]]:
    from dataclasses import replace

    from lieaudit.torch import SourceFunction, TorchDifferentiator

    yield "torch 64", TorchDifferentiator(SourceFunction(case.module))
    yield "torch 32", TorchDifferentiator(SourceFunction(case.module, precision="float32"))
    for name, method in (("forward", "forward"), ("differences", "finite_difference")):
        images = Images(Dataset.from_arrays(case.images), model, replace(spec, method=method))
        yield name, choose_method(model, images, shards=None, progress=None).derivative


def derivatives(method: Differentiator, model: AuditableModel, case: Case, spec: lieaudit.AuditSpec) -> LieDerivative:
    """Return L F of all images along all generators, with its error bars."""
    images = Images(Dataset.from_arrays(case.images), model, spec)
    action = OutputAction.of(spec) if model.head.spatial else None
    pieces = []
    for start in range(0, COUNT, 8):
        pixels = images.load(list(range(start, min(start + 8, COUNT))))
        pieces.append(lie_derivative(method(pixels, images.tangents(pixels)), model.head, GENERATORS, action))
    return LieDerivative(
        np.concatenate([piece.value for piece in pieces]), np.concatenate([piece.error for piece in pieces])
    )


def _pair(a: LieDerivative, b: LieDerivative, g: int) -> str:
    """Return deviation, what the error bars allow, both over ‖L F‖, and the share of images within their own bars."""
    difference = _norms(a.value[:, g] - b.value[:, g])
    allowed = a.error[:, g] + b.error[:, g]
    scale = float(np.sqrt(np.mean(_norms(a.value[:, g]) ** 2)))
    deviation, bar = float(np.sqrt(np.mean(difference**2))) / scale, float(np.sqrt(np.mean(allowed**2))) / scale
    inside = float(np.mean(difference <= allowed))
    mark = "" if deviation <= bar else " **!**"
    return (
        f"{deviation:.1e} ≤ {bar:.1e}, {inside:.0%}{mark}"
        if not mark
        else f"{deviation:.1e} > {bar:.1e}, {inside:.0%}{mark}"
    )


def _norms(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.linalg.norm(values.reshape(len(values), -1), axis=1))


def page(lines: list[str]) -> str:
    pairs = [f"{a} – {b}" for a, b in itertools.combinations(METHODS, 2)]
    versions = ", ".join(
        f"{n} {importlib.metadata.version(n)}" for n in ("torch", "onnxruntime", "transformers", "numpy")
    )
    head = ["model", "generator", "LEE (torch 64)", *pairs]
    return f"""# Four ways to one derivative

Made by `python -m bench agreement`; do not edit. {COUNT} images a model, {versions}, CPU, one thread.

* **torch 64**, **torch 32**: JVPs of the torch source (`lieaudit.torch`) in float64 and float32.
* **forward**: forward-mode differentiation of the exported ONNX graph, float32 session, float64 head.
* **differences**: central differences on the ONNX session, step chosen by measurement, float32.

Each pair of methods has one cell: the root mean square over the images of ‖difference of L F‖, then what the two
methods' error bars allow, both relative to ‖L F‖; then the share of single images whose difference lies within
their own bars (95 % is what the bars promise). **!** marks a pair that does not agree within its stated errors.

| {" | ".join(head)} |
|{"---|" * len(head)}
{chr(10).join(lines)}

The four share the images' tangents X x and the head; they share no rule of differentiation. torch and forward mode
agree to float32 rounding; finite differences to the few per cent or per mille that their own bars state. The float64
column is the reference of the accuracy tests.
"""


def _test_models() -> ModuleType:
    """Load the modules that the tests define; there is one definition of each."""
    spec = importlib.util.spec_from_file_location("torch_test_models", ROOT / "tests" / "torch" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
