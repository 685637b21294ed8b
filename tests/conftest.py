"""Shared by all tests: the shared real material, deterministic torch and hypothesis."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# Derandomised: a failure on one machine is the same failure on every other. Timing never decides.
settings.register_profile(
    "lieaudit", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lieaudit")

try:
    import torch
except ModuleNotFoundError:  # the tests that need it skip through pytest.importorskip
    pass
else:
    # One thread: the order of float sums, and so every compared number, does not depend on the machine.
    torch.set_num_threads(1)


_COUNTS = "counts"


@pytest.fixture
def say_counts(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes a line of what a test has counted; it is printed at the end, whichever process ran the test."""
    return lambda line: record_property(_COUNTS, line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests have counted."""
    ended = [r for reports in terminalreporter.stats.values() for r in reports if getattr(r, "when", "") == "call"]
    lines = [str(value) for report in ended for name, value in report.user_properties if name == _COUNTS]
    if lines:
        terminalreporter.section("counts")
        for line in sorted(lines):
            terminalreporter.write_line(line)


SURPRISE = 1e-4
"""A test of coverage fails where so little of it would be seen with less than this probability."""


def covers(inside: Iterable[bool], share: float = 0.95) -> None:
    """Assert that error bars cover at least ``share`` of what they were drawn for, allowing for the draw itself.

    ``inside`` says of every image whether its error lies within its bar. That many or fewer inside must have a
    probability of at least `SURPRISE` if every image were inside with probability ``share``: which images rounding
    carries over a kink differs between processors, so that a plain share of few images is met on one and not on
    another. Images must be independent: call it per generator, not for all of them together.
    """
    flags = np.asarray(list(inside), dtype=bool)
    count, found = len(flags), int(flags.sum())
    assert count >= 64, "a bound on fewer images says nothing"
    logs = (
        math.log(math.comb(count, k)) + k * math.log(share) + (count - k) * math.log1p(-share) for k in range(found + 1)
    )
    chance = sum(map(math.exp, logs))
    assert chance >= SURPRISE, f"{found} of {count} inside: the probability of that at {share:.0%} is {chance:.1e}"


@pytest.fixture(scope="session")
def assert_covers() -> Callable[..., None]:
    """Return `covers`."""
    return covers


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Folder of trained models and real images (``models/``, ``images/``, ``checkpoints/``), or a skip."""
    folder = Path(os.environ.get("LIEAUDIT_REAL") or ROOT.parent / "shared" / "real")
    if not (folder / "models").is_dir():
        pytest.skip(f"no trained models at {folder}: set LIEAUDIT_REAL to a folder with models/ and images/")
    return folder
