"""Shared by the tests of parts: networks of this folder, as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _module(name: str) -> ModuleType:
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location(f"parts_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """Networks of moments, whose parts move as can be worked out by hand."""
    return _module("networks")


@pytest.fixture(scope="session")
def detectors() -> ModuleType:
    """Small detectors with the heads of known ones."""
    return _module("detectors")
