"""The cases of every op (tests/ops/cases), and the harness of the forward-mode tests that runs them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ops_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


_FORWARD = load(HERE.parent / "forward" / "conftest.py")
check_exact, make_case, of_numpy, run_rewritten = (
    _FORWARD.check_exact, _FORWARD.make_case, _FORWARD.of_numpy, _FORWARD.run_rewritten
)  # fmt: skip


def _gather() -> list[tuple[Any, ...]]:
    rows = []
    for path in sorted((HERE / "cases").glob("*.py")):
        random = np.random.default_rng(11)

        def r(*shape: int, random=random) -> np.ndarray:
            return np.asarray(random.standard_normal(shape), np.float32)

        def p(*shape: int, random=random) -> np.ndarray:
            return np.asarray(np.abs(random.standard_normal(shape)) + 0.5, np.float32)

        for name, op, moving, *rest in load(path).cases(r, p, lambda *values: np.array(values, np.int64)):
            rows.append((name, op, {key: np.asarray(x, np.float32) for key, x in moving.items()}, *rest))
    return rows


CASES = _gather()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "op_case" in metafunc.fixturenames:
        metafunc.parametrize("op_case", CASES, ids=[row[0] for row in CASES])


@pytest.fixture(scope="session")
def op_cases() -> list[tuple[Any, ...]]:
    """Every row of tests/ops/cases."""
    return CASES


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    """tests/forward/conftest.py."""
    return _FORWARD


@pytest.fixture(scope="session")
def imaged() -> ModuleType:
    """tests/ops/imaged.py."""
    return load(HERE / "imaged.py")
