"""Tangents of all ten generators: time over that of copying as many bytes, same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from lieaudit.symmetries import GENERATORS, tangents


def _best(work: Callable[[], object], repeats: int = 5) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    print("| images | interpolation | tangents ÷ copying their result | images per second |")
    print("|---|---|---|---|")
    rng = np.random.default_rng(0)
    names = list(GENERATORS)
    for shape in ((64, 3, 32, 32), (16, 3, 224, 224)):
        images = rng.normal(size=shape).astype(np.float32)
        for interpolation in ("bilinear", "fourier"):
            work = partial(
                tangents, images, names, interpolation=interpolation, padding="reflect", convention="central"
            )
            copying = _best(work().copy)
            ours = _best(work)
            print(f"| {shape} | {interpolation} | {ours / copying:.1f} | {len(images) / ours:.0f} |", flush=True)
