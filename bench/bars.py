"""Do forward mode's error bars hold at real image sizes? Writes the table of docs/accuracy.md. Accuracy, not time.

Usage: ``python bench/bars.py [--write] [--images 64] [NETWORK ...]``. Trained networks from LIEAUDIT_REAL (or
../shared/real) on its photographs, and small networks of six families with drawn weights (bench/_networks.py). The
truth is the same graph evaluated in float64 by torch (bench/double_graph.py).
"""

from __future__ import annotations

import argparse
import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from double_graph import double_function  # type: ignore[import-not-found,unused-ignore]

from lieaudit.data import open_dataset
from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.graph.forward.prepare import prepare
from lieaudit.graph.forward.shapes import measure_shapes
from lieaudit.graph.load import AuditableModel, load_model
from lieaudit.metrics.lee import PerImage, lie_derivative
from lieaudit.spec import AuditSpec, Preprocessing
from lieaudit.symmetries import tangents

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "accuracy.md"
GENERATORS = ("translation_x", "rotation", "brightness")
AT_ONCE = 32
SIZE = 160
"""Pixels of the drawn networks' images."""

_SQUEEZE = Preprocessing(1.0, (104.0, 117.0, 123.0), (1.0,), order="bgr", resize=256, crop=224)
TRAINED = {
    "squeezenet_fp16_imagenet": (_SQUEEZE, "auto"),
    "mobilenet_v1_0.5_160_imagenet": (Preprocessing(127.5, (1.0,), (1.0,), resize=183, crop=160), "softmax"),
    "mobilenet_v1_0.25_224_imagenet": (Preprocessing(127.5, (1.0,), (1.0,), resize=256, crop=224), "auto"),
    "mobilefacenet_112": (Preprocessing(128.0, (127.5 / 128,), (1.0,), resize=128, crop=112), "identity"),
    "efficientnet_lite0_imagenet": (Preprocessing(127.5, (1.0,), (1.0,), resize=256, crop=224), "softmax"),
}


@dataclass(frozen=True)
class Row:
    name: str
    size: int
    coverage: float
    least: float
    error: float
    ratio: float
    mean: float


def cases(count: int, wanted: list[str]) -> Iterator[tuple[str, AuditableModel, npt.NDArray[np.float32]]]:
    """Return name, model and images."""
    real = Path(os.environ.get("LIEAUDIT_REAL") or ROOT.parent / "shared" / "real")
    pictures = open_dataset(real / "images" / "imagenet_100") if (real / "images").is_dir() else None

    def load(preprocessing: Preprocessing, size: int) -> npt.NDArray[np.float32]:
        assert pictures is not None
        return pictures.load(0, count, preprocessing=preprocessing, channels=3, height=size, width=size)

    for name, (preprocessing, head) in TRAINED.items():
        if pictures is None or (wanted and name not in wanted):
            continue
        size = preprocessing.crop or 0
        spec = AuditSpec(threads=1, generators=GENERATORS, head=head)
        model = load_model(real / "models" / f"{name}.onnx", spec)
        yield name, model, load(preprocessing, size)
    import torch
    from _networks import NETWORKS, draw  # type: ignore[import-not-found,unused-ignore]

    plain = Preprocessing(255.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resize=SIZE, crop=SIZE)
    for name in NETWORKS:
        if wanted and name not in wanted:
            continue
        if pictures is None:
            from agreement import smooth_images  # type: ignore[import-not-found,unused-ignore]

            images = smooth_images(count, SIZE)
        else:
            images = load(plain, SIZE)
        buffer: Any = io.BytesIO()
        network: Any = draw(name)
        example = torch.tensor(images[:2])
        torch.onnx.export(
            network, (example,), buffer, dynamo=False, opset_version=17, input_names=["x"], output_names=["logits"],
            dynamic_axes={"x": {0: "N"}, "logits": {0: "N"}},
        )  # fmt: skip
        yield name, load_model(buffer.getvalue(), AuditSpec(threads=1, generators=GENERATORS, head="softmax")), images


def measure(name: str, model: AuditableModel, x: npt.NDArray[np.float32]) -> Row:
    """Compare LEE and its bars with float64, image by image."""
    v = tangents(x, GENERATORS, interpolation="bilinear", padding="reflect", convention="central").astype(np.float32)
    differentiator = ForwardDifferentiator(model, AuditSpec(threads=1, generators=GENERATORS))
    parts = []
    for start in range(0, len(x), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        parts.append(PerImage.of(lie_derivative(differentiator(x[some], v[some]), model.head, GENERATORS, None)))
    lee, bar = (np.concatenate([getattr(part, field) for part in parts]) for field in ("lee", "lee_error"))
    exact = exact_lee(model, x, v)
    error = np.abs(lee - exact)
    inside = error <= bar
    mean_bar = np.sqrt(np.sum(bar**2, axis=0)) / len(x)
    return Row(
        name,
        x.shape[-1],
        float(inside.mean()),
        float(inside.mean(axis=0).min()),
        float(np.median(error / exact)),
        float(np.median(bar) / np.median(error)),
        float(np.max(np.abs(lee.mean(axis=0) - exact.mean(axis=0)) / mean_bar)),
    )


def exact_lee(model: AuditableModel, x: npt.NDArray[np.float32], v: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return ‖L F‖²/K in float64, (n, G), the head's differential included."""
    import torch

    graph = model.model.clone()
    measure_shapes(graph)
    function: Callable[[Any], Any] = double_function(ir.to_proto(prepare(graph)))
    found = np.empty(v.shape[:2])
    for i in range(len(x)):
        point = torch.tensor(x[i : i + 1]).double()
        for g in range(v.shape[1]):
            z, dz, *_ = torch.func.jvp(function, (point,), (torch.tensor(v[i : i + 1, g]).double(),))
            found[i, g] = np.mean(model.head.differential(z.numpy(), dz.numpy()[:, None]) ** 2)
    return found


HEADER = """# How accurate float32 is, and what its error bars cover

Made by `python bench/bars.py --write`: {images} photographs (drawn networks: {size} pixels), generators {generators},
forward mode in float32 against the same graph in float64, per-image LEE.

Float32 rounds every activation to about 1e-7 of its size. Where a unit lies so close to its kink (a ReLU at 0, a clip
at its bound, two nearly equal entries of a maximum) rounding decides on which side it is counted, and the derivative
changes by that unit's whole share: 1e-4 to 4e-2 of itself, on one image in five at 224 pixels, whatever computes in
float32. On all other images the error is rounding alone. The median column shows these; the bars cover both kinds.
Float32 cannot tell an image with such a unit on the wrong side from one without, only that there may be one: every
image is differentiated again with other last bits, once or twice, along one combination of the directions, and what
changes is the bar. Where that is too coarse, audit the torch source in float64 ([torch.md](torch.md)).

| network | pixels | images covered | least generator | median error | median bar / median error | worst mean, in bars |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/accuracy.md")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("networks", nargs="*")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    rows = []
    for name, model, images in cases(arguments.images, arguments.networks):
        rows.append(measure(name, model, images))
        print(rows[-1], flush=True)
    if arguments.write:
        text = HEADER.format(images=arguments.images, size=SIZE, generators=", ".join(GENERATORS))
        for r in rows:
            shares = f"{r.coverage:.1%} | {r.least:.1%}"
            text += f"| {r.name} | {r.size} | {shares} | {r.error:.0e} | {r.ratio:.0f} | {r.mean:.2g} |\n"
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
