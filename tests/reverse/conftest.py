"""Shared by the tests of reverse mode: running J v and Jᵀ u of one graph, and how far ⟨u, J v⟩ is from ⟨Jᵀ u, v⟩."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from lieaudit.graph.forward.rewrite import Rewritten
from lieaudit.graph.reverse.transpose import Transposed

TESTS = Path(__file__).resolve().parents[1]


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def session_of(model: ir.Model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    proto = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])


def gap(
    rewritten: Rewritten,
    transposed: Transposed,
    feeds: Mapping[str, np.ndarray],
    *,
    shapes: Mapping[str, np.ndarray] | None = None,
    draws: int = 1,
) -> float:
    """Return the largest |⟨u, J v⟩ − ⟨Jᵀ u, v⟩| / ‖u‖‖J v‖ over random u and v; D directions are one long vector.

    ``shapes``: arrays of the shapes of the active inputs, where the graph is the linear map alone.
    """
    random = np.random.default_rng(5)
    forward, backward = session_of(rewritten.model), session_of(transposed.model)
    ranks = {i.name: len(i.shape) for i in forward.get_inputs()}
    worst = 0.0
    for _ in range(draws):
        tangents: dict[str, np.ndarray] = {}
        for name in rewritten.tangents_in:
            value = (shapes or feeds)[name.removesuffix(".tangent")]
            lead = [2] if ranks[name] > value.ndim else []
            tangents[name] = random.standard_normal((*lead, *value.shape)).astype(value.dtype)
        jv = forward.run(list(rewritten.tangents_out), {**feeds, **tangents})
        added: list[np.ndarray] = []
        if shapes is not None:  # what constants add is no part of the linear map
            still = {name: np.zeros_like(v) for name, v in tangents.items()}
            added = forward.run(list(rewritten.tangents_out), still)
            jv = [a - b for a, b in zip(jv, added, strict=True)]
        u = [np.asarray(random.standard_normal(y.shape), y.dtype) for y in jv]
        back = backward.run(
            list(transposed.cotangents_out), {**feeds, **dict(zip(transposed.cotangents_in, u, strict=True))}
        )
        assert [b.shape for b in back] == [tangents[name].shape for name in rewritten.tangents_in]
        left = sum(float(np.vdot(a.astype(np.float64), b.astype(np.float64))) for a, b in zip(u, jv, strict=True))
        right = sum(
            float(np.vdot(b.astype(np.float64), tangents[name].astype(np.float64)))
            for b, name in zip(back, rewritten.tangents_in, strict=True)
        )
        norm = np.sqrt(sum(float(np.sum(a.astype(np.float64) ** 2)) for a in u))
        size = np.sqrt(sum(float(np.sum(a.astype(np.float64) ** 2)) for a in [*jv, *added]))
        worst = max(worst, abs(left - right) / (norm * size or 1.0))
    return worst


_OPS = load(TESTS / "ops" / "conftest.py", "ops_conftest")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "op_case" in metafunc.fixturenames:
        metafunc.parametrize("op_case", _OPS.CASES, ids=[row[0] for row in _OPS.CASES])


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    """tests/forward/conftest.py."""
    return _OPS._FORWARD


@pytest.fixture(scope="session")
def adjoint_gap() -> Any:
    """How far a transposed graph is from the transpose: see `gap`."""
    return gap
