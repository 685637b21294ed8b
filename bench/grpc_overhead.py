"""What the service costs: an audit through gRPC ÷ the same audit in process, 64 images of 224 × 224.

The service's time holds everything a client waits for: both uploads, the queue, the start of a worker process, the
audit, the report. The server is up before the clock starts, as in production, and knows neither model nor images.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from lieaudit_client import Client
from lieaudit_server.embedded import EmbeddedServer
from rich.console import Console
from rich.table import Table

import lieaudit
from bench._models import mobilenet_v2, resnet50, smooth_images
from lieaudit.data import open_dataset

IMAGES = 64
REPEATS = 4
GENERATORS = ("translation_x", "rotation", "brightness")
"""Few, and one alone for the slow graph: the shorter the audit, the more the service weighs."""


def main() -> None:
    table = Table(title=f"gRPC ÷ in process, {IMAGES} images: median of {REPEATS} alternating runs")
    for column in ("graph", "generators", "in process s", "through gRPC s", "ratio", "ratios"):
        table.add_column(column, justify="left" if column == "graph" else "right")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.npz"
        np.savez(data, x=smooth_images(IMAGES))
        for path, generators in ((resnet50(), GENERATORS[:1]), (mobilenet_v2(), GENERATORS)):
            table.add_row(path.stem, str(len(generators)), *measured(path, data, generators))
    Console(width=120).print(table)


def measured(path: Path, data: Path, generators: tuple[str, ...]) -> tuple[str, ...]:
    direct, served = [], []
    for _ in range(REPEATS):
        direct.append(in_process(path, data, generators))
        served.append(through_grpc(path, data, generators))
    ratios = [s / d for s, d in zip(served, direct, strict=True)]
    return (
        f"{statistics.median(direct):.1f}",
        f"{statistics.median(served):.1f}",
        f"{statistics.median(ratios):.3f}",
        " ".join(f"{ratio:.3f}" for ratio in sorted(ratios)),
    )


def in_process(path: Path, data: Path, generators: tuple[str, ...]) -> float:
    started = time.perf_counter()
    lieaudit.audit(path, open_dataset(data), lieaudit.AuditSpec(method="finite_difference", generators=generators))
    return time.perf_counter() - started


def through_grpc(path: Path, data: Path, generators: tuple[str, ...]) -> float:
    with EmbeddedServer() as target, Client(target) as client:
        started = time.perf_counter()
        client.audit(path, data, {"method": "finite_difference", "generators": list(generators)})
        return time.perf_counter() - started
