"""How much of which model forward mode differentiates exactly, how accurately, and what it costs: docs/coverage.md.

Usage: ``python bench/coverage.py [--write] [MODEL ...]``. Every model of bench/forward_zoo.py through both exporters of
torch, the ``light_*`` graphs inside the onnx package, and trained models where LIEAUDIT_REAL (or ../shared/real) holds
some. Errors of torch-born models are against a float64 JVP of their module; of others against finite differences of
lieaudit, whose own error is far larger (marked ≈).
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lieaudit.derivatives.finite_difference import FiniteDifference
from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.errors import LieauditError
from lieaudit.graph.forward.coverage import exact_share, summarise
from lieaudit.graph.load import AuditableModel, load_model
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import tangents

ROOT = Path(__file__).resolve().parents[1]
GENERATORS = ("translation_x", "rotation")
IMAGES = 2


@dataclass(frozen=True)
class Row:
    model: str
    source: str
    nodes: int
    share: float
    inexact: str
    error: str
    ratio: float


def images(model: AuditableModel) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    x: np.ndarray[Any, Any] = random.standard_normal((IMAGES, model.channels, model.height, model.width))
    x = x.astype(np.float32)
    for _ in range(3):
        x = np.asarray((x + np.roll(x, 1, -1) + np.roll(x, 1, -2)) / 2, np.float32)
    v = tangents(x, GENERATORS, interpolation="bilinear", padding="reflect", convention="central")
    return x, v.astype(np.float32)


def measure(name: str, source: str, load: Callable[[], Any], reference: Callable[..., Any] | None) -> Row:
    spec = AuditSpec(threads=1, generators=GENERATORS)
    model = load_model(load(), spec)
    forward = ForwardDifferentiator(model, spec)
    covered = summarise(forward.rewritten.applied)
    x, v = images(model)
    differences = FiniteDifference(model, spec)
    made, seconds = forward._evaluate(x, v)[1], []  # noqa: SLF001 - without the second pass for the error bar
    for call in (lambda: forward._evaluate(x, v), lambda: differences.base(x)):  # noqa: SLF001
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - start)
        seconds.append(best)
    if reference is not None:
        expected = np.stack([reference(x, v[:, d]) for d in range(v.shape[1])], axis=1)
        error = f"{_distance(made.reshape(expected.shape), expected):.1e}"
    else:
        differences.calibrate(x, v)
        error = f"≈ {_distance(differences(x, v).tangent, made):.0e}"
    inexact = ", ".join(f"{row.op} ({row.rule})" for row in covered if not row.exact) or "none"
    nodes = sum(row.count for row in covered)
    return Row(name, source, nodes, exact_share(covered), inexact, error, seconds[0] / seconds[1])


def _distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    scale = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / (scale or 1.0)


def torch_models(exporter: str) -> Iterator[tuple[str, str, Callable[[], Any], Callable[..., Any] | None]]:
    import torch
    from forward_zoo import ZOO, export  # type: ignore[import-not-found,unused-ignore]

    for name, build in ZOO.items():
        module, shape = build()
        double = build()[0].double()

        def reference(x: Any, v: Any, double: Any = double) -> Any:
            point, direction = torch.tensor(x).double(), torch.tensor(v).double()
            return torch.func.jvp(double, (point,), (direction,))[1].detach().numpy()

        def load(module: Any = module, shape: Any = shape) -> bytes:
            return bytes(export(module, shape, exporter).SerializeToString())

        yield name, f"torch, {exporter}", load, reference


def randomised(path: Path) -> bytes:
    """Give a light graph with drawn weights: as shipped they are constants, and all channels tie."""
    proto = onnx.load(path)
    random = np.random.default_rng(0)
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    drawn = []
    for node in [n for n in proto.graph.node if n.op_type == "ConstantOfShape" and n.input[0] in shapes]:
        shape = tuple(int(size) for size in shapes[node.input[0]])
        if len(shape) > 1:
            array = random.standard_normal(shape) * (2 / max(1, int(np.prod(shape[1:])))) ** 0.5
        else:
            array = random.uniform(0.5, 1.5, shape)
        drawn.append(onnx.numpy_helper.from_array(array.astype(np.float32), node.output[0]))
        proto.graph.node.remove(node)
    proto.graph.initializer.extend(drawn)
    proto.ir_version = max(proto.ir_version, 4)  # before, initializers had to be inputs too
    return proto.SerializeToString()


def file_models() -> Iterator[tuple[str, str, Callable[[], Any], Callable[..., Any] | None]]:
    real = Path(os.environ.get("LIEAUDIT_REAL") or ROOT.parent / "shared" / "real") / "models"
    for path in sorted(real.glob("*.onnx")):
        yield path.stem, "trained", partial(str, path), None
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for path in sorted(light.glob("light_*.onnx")):
        yield path.stem, "onnx package", partial(randomised, path), None


HEADER = """# What forward mode covers

Made by `python bench/coverage.py --write`. Nodes: those that depend on the image. Exact share: of the nodes whose
output can move, those differentiated by an exact rule. Error: ‖dz − dz64‖ / ‖dz64‖ over {images} images and
{generators}, dz64 a float64 JVP of the torch module; where there is none (≈), finite differences, whose
own error it shows. Cost: time of one value and two tangents per image, in plain forwards of the same graph, on one
thread; on tiny graphs the cost of starting nodes dominates it.

| model | from | nodes | exact share | not exact | error | cost |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/coverage.md")
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    refused: list[tuple[str, str, str]] = []
    for name, source, load, reference in itertools.chain(torch_models("script"), file_models(), torch_models("dynamo")):
        if arguments.models and name not in arguments.models:
            continue
        try:
            rows.append(measure(name, source, load, reference))
            print(rows[-1], flush=True)
        except LieauditError as problem:
            refused.append((name, source, str(problem)))
            print(refused[-1], flush=True)
        except Exception as problem:  # noqa: BLE001 - an exporter of torch that gives up
            refused.append((name, source, f"the exporter: {str(problem).strip().splitlines()[0][:120]}"))
            print(refused[-1], flush=True)
        if arguments.write:
            (ROOT / "docs" / "coverage.md").write_text(page(rows, refused), encoding="utf-8")


def page(rows: list[Row], refused: list[tuple[str, str, str]]) -> str:
    lines = [
        f"| {r.model} | {r.source} | {r.nodes} | {r.share:.1%} | {r.inexact} | {r.error} | {r.ratio:.1f} |"
        for r in rows
    ]
    text = HEADER.format(images=IMAGES, generators=" and ".join(GENERATORS)) + "\n".join(lines) + "\n"
    complete = sum(row.share == 1 for row in rows)
    text += f"\n{len(rows)} graphs run in forward mode, {complete} of them without an inexact rule.\n"
    if refused:
        text += "\nNot measured:\n\n" + "\n".join(f"* {name} ({source}): {why}" for name, source, why in refused) + "\n"
    return text


if __name__ == "__main__":
    main()
