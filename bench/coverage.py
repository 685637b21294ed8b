"""How much of which model forward mode differentiates exactly, how accurately, and what it costs: docs/coverage.md.

Usage: ``python bench/coverage.py [--write] [MODEL ...]``. Every model of bench/forward_zoo.py through both exporters of
torch with a symbolic and with a fixed batch, the ``light_*`` graphs inside the onnx package, the graphs of other
exporters in tests/forward/graphs, and trained models where LIEAUDIT_REAL (or ../shared/real) holds some. Errors are
against float64: a JVP of the torch module, or of the graph itself evaluated by torch (bench/double_graph.py), or
central differences of onnx's reference evaluator (tests/forward/conftest.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from double_graph import double_function  # type: ignore[import-not-found,unused-ignore]

from lieaudit.derivatives.finite_difference import FiniteDifference
from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.errors import LieauditError
from lieaudit.graph.forward.coverage import exact_share, summarise
from lieaudit.graph.load import AuditableModel, load_model
from lieaudit.ops.listing import section as ops_section
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import tangents

ROOT = Path(__file__).resolve().parents[1]
GENERATORS = ("translation_x", "rotation")
IMAGES = 2
OTHER_EXPORTERS = {"tf2onnx", "jax2onnx", "skl2onnx"}

Reference = Callable[[Any, Any], Any]
"""Images (N, C, H, W) and directions of the same shape to the derivative along them, in float64."""

Graph = tuple[str, str, Callable[[], Any], "Reference | None"]
"""Name, where it is from, what gives its source, and its reference, unless the graph itself is evaluated."""


@dataclass(frozen=True)
class Row:
    model: str
    source: str
    ops: int
    nodes: int
    share: float
    inexact: str
    error: float
    ratio: float


def images(
    model: AuditableModel, count: int, *, unit: bool = False
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    x: np.ndarray[Any, Any] = random.standard_normal((count, model.channels, model.height, model.width))
    x = x.astype(np.float32)
    for _ in range(3):
        x = np.asarray((x + np.roll(x, 1, -1) + np.roll(x, 1, -2)) / 2, np.float32)
    if unit:
        x = (x - x.min()) / np.ptp(x)
    v = tangents(x, GENERATORS, interpolation="bilinear", padding="reflect", convention="central")
    return x, v.astype(np.float32)


def measure(name: str, source: str, load: Callable[[], Any], reference: Reference | None) -> Row:
    spec = AuditSpec(threads=1, generators=GENERATORS)
    model = load_model(load(), spec)
    forward = ForwardDifferentiator(model, spec)
    covered = summarise(forward.rewritten.applied)
    large = model.height > 160
    # softmax inside the graphs of small classifiers saturates far from the values in [0, 1] that they were trained on
    x, v = images(model, 1 if large else IMAGES, unit=source in OTHER_EXPORTERS)
    differences = FiniteDifference(model, spec)
    runs = 2 if large else 4  # the first also plans memory
    made = forward._evaluate(x, v, {})[1]  # noqa: SLF001 - without the second pass for the error bar
    forward_seconds = fastest(lambda: forward._evaluate(x, v, {}), runs)  # noqa: SLF001
    ratio = forward_seconds / fastest(lambda: differences.base(x), runs)
    differentiate = reference or graph_reference(model)
    expected = np.stack([differentiate(x, v[:, d]) for d in range(v.shape[1])], axis=1)
    error = _distance(made.reshape(expected.shape), expected)
    inexact = ", ".join(f"{row.op} ({row.rule})" for row in covered if not row.exact) or "none"
    nodes = sum(row.count for row in covered)
    ops = len({row.op for row in covered})
    return Row(name, source, ops, nodes, exact_share(covered), inexact, error, ratio)


def fastest(call: Callable[[], Any], runs: int) -> float:
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def jvp(function: Callable[[Any], Any], x: Any, v: Any) -> Any:
    import torch

    point, direction = torch.tensor(x).double(), torch.tensor(v).double()
    return torch.func.jvp(function, (point,), (direction,))[1].detach().numpy()


def graph_reference(model: AuditableModel) -> Reference:
    """Differentiate the graph itself in float64."""
    import torch

    function = double_function(ir.to_proto(model.model))
    if model.batchable:
        return partial(jvp, function)
    return partial(jvp, lambda x: torch.cat([function(x[i : i + 1]) for i in range(len(x))]))


def _distance(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    scale = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / (scale or 1.0)


def torch_models() -> Iterator[Graph]:
    from forward_zoo import ZOO, export  # type: ignore[import-not-found,unused-ignore]

    for name, build in ZOO.items():
        module, shape = build()
        known: dict[bytes, Any] = {}

        def reference(x: Any, v: Any, build: Any = build, known: dict[bytes, Any] = known) -> Any:
            # the same for every exporter
            if v.tobytes() not in known:
                known[v.tobytes()] = jvp(build()[0].double(), x, v)
            return known[v.tobytes()]

        for exporter in ("script", "script-static", "dynamo", "dynamo-static"):

            def load(module: Any = module, shape: Any = shape, exporter: str = exporter) -> bytes:
                return bytes(export(module, shape, exporter).SerializeToString())

            kind, _, static = exporter.partition("-")
            named = {"script": "TorchScript", "dynamo": "dynamo"}[kind]
            yield name, f"torch {named}, {'fixed' if static else 'symbolic'} batch", load, reference


def randomised(path: Path) -> bytes:
    """Return a light graph with drawn weights: as shipped they are constants, and all channels tie."""
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


def file_models() -> Iterator[Graph]:
    real = Path(os.environ.get("LIEAUDIT_REAL") or ROOT.parent / "shared" / "real") / "models"
    for path in sorted(real.glob("*.onnx")):
        yield path.stem, f"trained, {onnx.load(path).producer_name or 'producer not named'}", partial(str, path), None
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for path in sorted(light.glob("light_*.onnx")):
        yield path.stem, "onnx package, Caffe2", partial(randomised, path), None
    helpers = _reference_evaluator()
    for path in sorted((ROOT / "tests" / "forward" / "graphs").glob("*.onnx")):
        yield path.stem, onnx.load(path).producer_name, partial(str, path), partial(_differences, path, helpers)


def _reference_evaluator() -> Any:
    path = ROOT / "tests" / "forward" / "conftest.py"
    spec = importlib.util.spec_from_file_location("forward_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["forward_reference"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _differences(path: Path, helpers: Any, x: Any, v: Any) -> Any:
    model = load_model(path)
    name = model.input_name
    return helpers.derivative64(ir.to_proto(model.model), {name: x}, {name: v[None]})[0]


HEADER = """# What forward mode covers

Made by `python bench/coverage.py --write`. Ops and nodes: those that depend on the image. Exact share: of the nodes
whose output can move, those differentiated by an exact rule. Error: ‖dz − dz64‖ / ‖dz64‖ over {images} smooth random
images (one where they are larger than 160 pixels) and {generators}. dz64 is, for torch-born models, a float64 JVP of
the module; for trained models and those of the onnx package one of the graph, evaluated in float64 by torch; for those
of other exporters central differences of onnx's reference evaluator in float64. Cost: time of one value and two
tangents per image, in plain forwards of the same graph, on one thread; on tiny graphs the cost of starting nodes
dominates it. The light_* graphs have random weights. Four deep ones of them, DenseNet, both Inceptions and ResNet-50,
are the exceptions in accuracy: on some images the error is 1e-6, on others rounding carries a few of their many units
across the kink of a Relu, and it is 1e-4 to 1e-2. A float32 JVP of the same graph by torch does the same on other
images. In sklearn_mlp the softmax inside the graph is saturated, and its derivative is lost to cancellation.
Which heads and layouts are recognised, by exporter, stands in [heads.md](heads.md).

| model | from | ops | nodes | exact share | not exact | error | cost |
|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/coverage.md")
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    torch.set_num_threads(1)
    refused: list[tuple[str, str, str]] = []
    for name, source, load, reference in itertools.chain(torch_models(), file_models()):
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
        f"| {r.model} | {r.source} | {r.ops} | {r.nodes} | {r.share:.1%} | {r.inexact} | {r.error:.1e} "
        f"| {r.ratio:.1f} |"
        for r in rows
    ]
    text = HEADER.format(images=IMAGES, generators=" and ".join(GENERATORS)) + "\n".join(lines) + "\n"
    complete = sum(row.share == 1 for row in rows)
    text += f"\n{len(rows)} graphs run in forward mode, {complete} of them without an inexact rule.\n"
    if refused:
        text += "\nNot measured:\n\n" + "\n".join(f"* {name} ({source}): {why}" for name, source, why in refused) + "\n"
    return f"{text}\n{ops_section()}"


if __name__ == "__main__":
    main()
