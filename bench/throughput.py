"""How much of onnxruntime's own speed is left in an audit: audited rows per second ÷ raw rows per second.

Raw is a bare session of the same file, threads and machine at its best batch size; audited is the whole in-process call
by finite differences, ten generators, from reading the model to the report. Raw and audit alternate; medians are shown.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

import lieaudit
from bench._models import mobilenet_v2, resnet50, smooth_images
from lieaudit.runtime.providers import usable_cores

REPEATS = 3
RAW_SECONDS = 3.0
BATCHES = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    table = Table(title=f"throughput, {usable_cores()} threads: median of {REPEATS} alternating runs")
    for column in ("graph", "images", "best batch", "raw rows/s", "audited rows/s", "ratio", "ratios"):
        table.add_column(column, justify="left" if column == "graph" else "right")
    for path, images in ((mobilenet_v2(), 32), (resnet50(), 8)):
        table.add_row(path.stem, *measured(path, images))
    Console(width=120).print(table)


def measured(path: Path, count: int) -> tuple[str, ...]:
    images = smooth_images(count)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batch = max(BATCHES, key=lambda size: raw_rate(session, images, size, RAW_SECONDS / 3))
    raw, audited = [], []
    for _ in range(REPEATS):
        raw.append(raw_rate(session, images, batch, RAW_SECONDS))
        audited.append(audited_rate(path, images))
    ratios = [a / r for a, r in zip(audited, raw, strict=True)]
    return (
        str(count),
        str(batch),
        f"{statistics.median(raw):.1f}",
        f"{statistics.median(audited):.1f}",
        f"{statistics.median(ratios):.2f}",
        " ".join(f"{ratio:.2f}" for ratio in sorted(ratios)),
    )


def raw_rate(session: onnxruntime.InferenceSession, images: np.ndarray, batch: int, seconds: float) -> float:
    rows = np.resize(images, (batch, *images.shape[1:]))
    session.run(None, {"image": rows})
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        session.run(None, {"image": rows})
        done += batch
    return done / (time.perf_counter() - started)


def audited_rate(path: Path, images: np.ndarray) -> float:
    spec = lieaudit.AuditSpec(method="finite_difference")
    started = time.perf_counter()
    report = lieaudit.audit(path, images, spec)
    return report.timing.rows / (time.perf_counter() - started)
