"""Reports with known statistics, built from the dataclasses: what they hold is chosen, what the gate says is not."""

from __future__ import annotations

import datetime as dt
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from lieaudit_api.v1 import gate_pb2, report_pb2
from lieaudit_client.formats.outcome import Outcome
from lieaudit_server.embedded import EmbeddedServer

from lieaudit.gate import evaluate
from lieaudit.report import (
    Affine,
    AffineDirection,
    Agreement,
    Cancellation,
    DepthTotal,
    Environment,
    GeneratorResult,
    KindTotal,
    Layerwise,
    Picture,
    Report,
    ReportData,
    ReportModel,
    ReportTensor,
    Segment,
    Skipped,
    Timing,
)
from lieaudit.symmetries.affine import BASIS

POLICY = """version: 1
rules:
  - {id: no-worse, kind: noninferiority, generators: [translation, rotation, scale], margin: 0.1}
  - {id: ceiling, kind: limit, generators: [rotation, shear_x], max: 4}
  - {id: layers, kind: kind_share, generators: rotation, layer_kind: pooling, max: 0.001}
waivers:
  - {rule: layers, owner: bo@example.org, reason: "pooling <b>known</b>", expires: 2027-01-31}
  - {rule: no-worse, generators: rotation, owner: ada, reason: "| retraining", expires: 2026-01-31}
"""
Maker = Callable[..., Report]


def png(values: np.ndarray) -> bytes:
    """Write uint8 (H, W, 3) as PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def result(values: np.ndarray, error: float, **changes: Any) -> GeneratorResult:
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    half = 1.96 * float(values.std()) / np.sqrt(len(values))
    fields: dict[str, Any] = {
        "lee": mean,
        "ci95": (max(0.0, mean - half), mean + half),
        "median": float(np.median(values)),
        "quantiles": {"p95": float(np.quantile(values, 0.95))},
        "mean_abs": 0.5 * mean,
        "relative": 0.8,
        "relative_ci95": (0.7, 0.92),
        "per_image": tuple(values.tolist()),
        "method": "forward",
        "error_bar": error * mean,
        "per_image_error": tuple((error * values).tolist()),
        "unit": "radians",
        "agreement": Agreement("finite_difference", 8, 0.012, 0.031, agrees=True, lee=mean),
    }
    return GeneratorResult(**(fields | changes))


@pytest.fixture
def make_report() -> Maker:
    """Return a function: per-image values by generator → `Report`."""

    def make(
        values: Mapping[str, np.ndarray],
        *,
        model: str = "a" * 64,
        data: str = "d" * 64,
        name: str = "model.onnx",
        error: float = 1e-5,
        changes: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Report:
        count = len(next(iter(values.values())))
        defaults: dict[str, Any] = {
            "model": ReportModel(
                model, name, "pytorch 2.13", 18,
                ReportTensor("x", ("N", "3", "32", "32"), "float32", "NCHW"),
                ReportTensor("z", ("N", "10"), "float32", "vector"), "float32", "softmax",
            ),
            "data": ReportData(data, count, "images.npz", 0.9),
            "environment": Environment("0.1.0", "1.31.0", "cpu", "2 cores", "1.23", "2.4", "3.11", 1),
            "spec": {"generators": list(values), "seed": 0},
            "results": {g: result(v, error, **(changes or {})) for g, v in values.items()},
            "timing": Timing(1.0, 100.0, 100.0),
        }  # fmt: skip
        return Report(**(defaults | fields))

    return make


@pytest.fixture
def lognormal() -> Callable[..., np.ndarray]:
    """Return a function: seeded per-image values, heavy-tailed as measured LEE is."""

    def draw(count: int, seed: int, *, scale: float = 1.0, sigma: float = 1.5) -> np.ndarray:
        return scale * np.random.default_rng(seed).lognormal(0.0, sigma, count)

    return draw


@pytest.fixture
def full_reports(make_report: Maker) -> tuple[Report, Report]:
    """Return (candidate, baseline) with everything a report can hold, hostile names included."""
    rng = np.random.default_rng(7)
    factors = {"translation_x": 1.02, "translation_y": 0.97, "rotation": 1.42, "scale": 0.8, "brightness": 1.0}
    common = {g: rng.lognormal(-1.0 + 0.4 * i, 1.6, 300) for i, g in enumerate(factors)}
    baseline = {g: v * rng.lognormal(0, 0.25, 300) for g, v in common.items()}
    candidate = {g: v * factors[g] * rng.lognormal(0, 0.25, 300) for g, v in common.items()}
    pictures = []
    for generator in ("rotation", "scale"):
        for image in range(5):
            y, x = np.mgrid[0:32, 0:32] / 31.0
            shade = 0.5 + 0.5 * np.sin(6 * (x + image * 0.3) + 9 * y * (1 + image % 3))
            picture = np.stack([shade, y * shade, 1 - shade], axis=-1)
            tangent = 0.5 + 0.5 * np.stack([np.gradient(shade)[0] * 4] * 3, axis=-1)
            images = [png((np.clip(a, 0, 1) * 255).astype(np.uint8)) for a in (picture, tangent)]
            pictures.append(Picture(17 * image + 3, generator, images[0], images[1], 9.5 - image))
    layers = {g: _layers(rng) for g in ("rotation", "scale")}
    extra = {
        "pictures": tuple(pictures),
        "layerwise": layers,
        "affine": _affine(),
        "skipped": (Skipped("results.brightness.relative", "brightness has no comparison direction"),),
        "reasons": ("1 of 300 images is confident enough that its LEE is below the numerical noise",),
    }
    mine = make_report(candidate, model="c" * 64, name="resnet<script>alert(1)</script> v8.onnx", **extra)
    theirs = make_report(baseline, model="b" * 64, name="resnet v7.onnx", layerwise={"rotation": _layers(rng)})
    return mine, theirs


@pytest.fixture
def outcome(full_reports: tuple[Report, Report]) -> Outcome:
    """All four outcomes, a waiver that holds and one that has expired, a hostile model name."""
    decision = evaluate(*full_reports, POLICY, today=dt.date(2026, 12, 1), power=True)
    assert {rule.outcome for rule in decision.rules} == {"pass", "fail", "inconclusive", "waived"}
    message = json_format.ParseDict(decision.to_dict(), gate_pb2.Decision())
    candidate, baseline = (json_format.ParseDict(r.to_dict(), report_pb2.Report()) for r in full_reports)
    return Outcome(message, candidate, baseline, "ci/équi variance.yaml")


def _affine() -> Affine:
    """What a report holds of all directions, as `lieaudit.audit` writes it for 32 × 32 images: words are long."""
    worst = ((-0.02115751, 0.01850197, -0.217399), (0.009646993, -0.1055356, 0.7436709))
    best = ((0.02820998, -0.06149288, 0.002723404), (0.1596291, -0.003774826, -0.008312631))
    said = "mostly translation along 106° from x towards y (60 %), with stretch along 99° from x towards y (39 %)"
    moved = tuple(tuple(1024.0 * (i == j) for j in range(6)) for i in range(6))
    return Affine(
        BASIS, moved, moved, (0.5, 0.6, 0.8, 1.0, 1.5, 2.0), AffineDirection(worst, 2.0, (1.4, 4.2), 1e-6, said, 0.03),
        AffineDirection(best, 0.5, (0.3, 0.9), 1e-6, "mostly shear along 81° from x towards y (87 %)", -0.02), 1.1,
    )  # fmt: skip


def _layers(rng: np.random.Generator) -> Layerwise:
    names = ["stem.conv", "stem.bn"]
    names += [
        f"layer{i}.{j}.{part}" for i in (1, 2, 3) for j in (0, 1, 2) for part in ("conv1", "bn1", "conv2", "bn2", "add")
    ]
    names += ["pool", "fc"]
    kinds = {"conv": "convolution", "bn": "normalisation", "add": "sum", "pool": "pooling", "fc": "linear"}
    weights = rng.lognormal(0, 1.2, len(names)) * rng.choice([1, 1, 1, -0.4], len(names))
    shares = weights / weights.sum()
    segments, totals = [], {}
    for depth, (name, weight) in enumerate(zip(names, shares, strict=True), 1):
        leaf = name.split(".")[-1].rstrip("12")
        kind = kinds[leaf]
        commutes = kind == "normalisation"
        share = 0.0 if commutes else float(weight)
        lee = abs(share) * 2
        segments.append(
            Segment(name, ("Conv", "Relu"), kind, lee, lee**0.5, share, (0.9 * lee, 1.1 * lee), 1e-5 * lee, commutes,
                    name + ".out", "NCHW", depth)
        )  # fmt: skip
        count, total = totals.get(kind, (0, 0.0))
        totals[kind] = (count + 1, total + share)
    by_kind = tuple(KindTotal(k, n, abs(s) * 2, abs(s), s) for k, (n, s) in totals.items())
    running = np.cumsum([s.share for s in segments])
    by_depth = tuple(DepthTotal((i + 1) / len(names), float(s), abs(float(s))) for i, s in enumerate(running))
    cancel = (Cancellation("layer1.0.conv1", "layer2.0.add", -0.12),)
    return Layerwise(
        tuple(segments), 3e-6, "forward", by_kind, by_depth, cancel, (Skipped("Reshape_12", "layout unknown"),)
    )


@pytest.fixture(scope="session")
def service() -> Iterator[str]:
    """Run the real service for the whole session and give its address."""
    with EmbeddedServer() as target:
        yield target


NpmFile = Callable[[str, str], bytes]
NpmFolder = Callable[[str], Path]


@pytest.fixture(scope="session")
def npm_folder(tmp_path_factory: pytest.TempPathFactory) -> NpmFolder:
    """Return a function: package@version → the folder of its files, which the project uses and does not copy."""
    if shutil.which("npm") is None:
        pytest.skip("published schemas and validators come in npm packages, and npm is not installed")

    def fetch(package: str) -> Path:
        folder = tmp_path_factory.mktemp("npm")
        done = subprocess.run(
            ["npm", "pack", package, "--pack-destination", folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"npm cannot fetch {package}: {done.stderr[-200:]}")
        subprocess.run(["tar", "-xzf", done.stdout.split()[-1]], cwd=folder, check=True)
        return folder

    return fetch


@pytest.fixture(scope="session")
def npm_file(npm_folder: NpmFolder) -> Callable[[str, str], bytes]:
    """Return a function: (package@version, path inside) → bytes of a published schema."""
    return lambda package, path: (npm_folder(package) / path).read_bytes()
