"""Reverse mode on every graph of docs/coverage.md: is ⟨u, J v⟩ = ⟨Jᵀ u, v⟩, and is Jᵀ u what torch's backward gives.

Usage: ``python bench/reverse.py [--write] [MODEL ...]``. The graphs and references are those of bench/coverage.py. Gap:
the largest |⟨u, J v⟩ − ⟨Jᵀ u, v⟩| / ‖u‖‖J v‖ over ten draws, both in float32. Error: ‖Jᵀu − g‖ / ‖g‖ with g = torch's
backward pass in float64, of the module where it is torch-born, else of the graph evaluated by torch. Cost: one value
and one cotangent, in plain forwards of the same graph, on one thread.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from coverage import (  # type: ignore[import-not-found,unused-ignore]
    IMAGES,
    OTHER_EXPORTERS,
    fastest,
    file_models,
    images,
    torch_models,
)
from double_graph import double_function  # type: ignore[import-not-found,unused-ignore]

from lieaudit.errors import LieauditError
from lieaudit.graph.forward.rewrite import rewrite
from lieaudit.graph.load import AuditableModel, load_model
from lieaudit.graph.reverse.opset import raised
from lieaudit.graph.reverse.transpose import transpose
from lieaudit.runtime.session import Session
from lieaudit.spec import AuditSpec

ROOT = Path(__file__).resolve().parents[1]
DRAWS = 10
ALLOWED = 1e-5


@dataclass(frozen=True)
class Row:
    model: str
    source: str
    gap: float
    error: float
    cost: float


def measure(name: str, source: str, load: Callable[[], Any], module: Callable[[], Any] | None) -> Row:
    model = load_model(load(), AuditSpec(threads=1))
    graph = raised(model.model)
    rewritten = rewrite(graph, active=[model.input_name], single=True)
    transposed = transpose(rewritten)
    forward = Session(rewritten.model, threads=1)
    backward = Session(transposed.model, threads=1)
    plain = Session(model.model, threads=1)
    x, _ = images(model, 1 if model.height > 160 or not model.batchable else IMAGES, unit=source in OTHER_EXPORTERS)
    feeds = {rewritten.values_in[0]: x}
    random = np.random.default_rng(0)
    gap, u = 0.0, np.zeros(0)
    for _ in range(DRAWS):
        v = random.standard_normal(x.shape).astype(np.float32)
        jv = forward.run({**feeds, rewritten.tangents_in[0]: v}, list(rewritten.tangents_out))[0]
        u = random.standard_normal(jv.shape).astype(np.float32)
        back = backward.run({**feeds, transposed.cotangents_in[0]: u}, list(transposed.cotangents_out))[0]
        scale = _norm(u) * _norm(jv)
        gap = max(gap, abs(_dot(u, jv) - _dot(back, v)) / (scale or 1.0))
    seconds = fastest(lambda: backward.run({**feeds, transposed.cotangents_in[0]: u}), 3)
    cost = seconds / fastest(lambda: plain.run({plain.input_names[0]: x}), 3)
    try:
        expected = backward64(model, module, x, u)
    except (KeyError, IndexError, NotImplementedError, RuntimeError) as problem:
        print(f"{name}: no reference: {problem!r}"[:200], flush=True)  # an op that bench/double_graph.py lacks
        return Row(name, source, gap, float("nan"), cost)
    return Row(name, source, gap, _norm(back - expected.reshape(back.shape)) / (_norm(expected) or 1.0), cost)


def backward64(model: AuditableModel, module: Callable[[], Any] | None, x: Any, u: Any) -> Any:
    """Return torch's own gradient of ⟨u, f(x)⟩ in float64."""
    import torch

    point = torch.tensor(x).double().requires_grad_()
    function = module() if module is not None else double_function(ir.to_proto(model.model))
    value = function(point)
    (gradient,) = torch.autograd.grad(torch.sum(value.reshape(u.shape) * torch.tensor(u).double()), point)
    return gradient.numpy()


def _dot(a: Any, b: Any) -> float:
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


def _norm(a: Any) -> float:
    return float(np.linalg.norm(np.asarray(a, np.float64)))


def modules() -> dict[str, Callable[[], Any]]:
    """Return what builds the torch modules, in float64."""
    from forward_zoo import ZOO  # type: ignore[import-not-found,unused-ignore]

    return {name: partial(_double, build) for name, build in ZOO.items()}


def _double(build: Callable[[], Any]) -> Any:
    return build()[0].double()


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/reverse.md")
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows: list[Row] = []
    refused: list[tuple[str, str, str]] = []
    built = modules()
    for name, source, load, _ in itertools.chain(torch_models(), file_models()):
        if arguments.models and name not in arguments.models:
            continue
        try:
            rows.append(measure(name, source, load, built.get(name) if source.startswith("torch") else None))
            print(rows[-1], flush=True)
        except LieauditError as problem:
            refused.append((name, source, f"{problem.reason}: {problem.message}"))
            print("REFUSED", refused[-1], flush=True)
        except Exception as problem:  # noqa: BLE001 - an exporter of torch that gives up, a reference that lacks an op
            refused.append((name, source, f"not compared: {str(problem).strip().splitlines()[0][:200]}"))
            print("FAILED", refused[-1], flush=True)
    close = sum(row.gap <= ALLOWED for row in rows)
    right = sum(row.error <= ALLOWED for row in rows)
    print(f"{len(rows)} transposed, {close} with a gap of {ALLOWED:.0e} at most, {right} with such an error")
    if arguments.write:
        (ROOT / "docs" / "reverse.md").write_text(page(rows, refused), encoding="utf-8")


def page(rows: list[Row], refused: list[tuple[str, str, str]]) -> str:
    lines = [
        f"| {r.model} | {r.source} | {r.gap:.1e} | {'–' if np.isnan(r.error) else f'{r.error:.1e}'} | {r.cost:.1f} |"
        for r in rows
    ]
    text = f"""# What reverse mode covers

Made by `python bench/reverse.py --write` on the graphs of [coverage.md](coverage.md). Gap: the largest
|⟨u, J v⟩ − ⟨Jᵀ u, v⟩| / ‖u‖‖J v‖ over {DRAWS} draws of u and v, with J v and Jᵀ u both in float32. Error:
‖Jᵀ u − g‖ / ‖g‖, where g is torch's own backward pass in float64. Cost: one value and one cotangent in plain forwards
of the same graph, on one thread, taken while the machine had other work: a rough guide. Errors above 1e-5 are those of
graphs in which float32 puts units on the other side of a kink than float64 does: the gap, which compares float32 with
float32, is small there all the same; and of LeViT and CvT for a batch of one, where torch's backward pass contradicts
torch's own forward mode and finite differences in float64, which agree with each other and with J v here. –: the
evaluator of float64 lacks an op of the graph.

| model | from | gap | error | cost |
|---|---|---|---|---|
"""
    text += "\n".join(lines) + "\n"
    text += f"\n{len(rows)} graphs are transposed, {sum(r.gap <= ALLOWED for r in rows)} with a gap of 1e-5 at most.\n"
    if refused:
        text += "\nNot measured:\n\n" + "\n".join(f"* {name} ({source}): {why}" for name, source, why in refused) + "\n"
    return text


if __name__ == "__main__":
    main()
