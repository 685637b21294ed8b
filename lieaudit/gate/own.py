"""Measures that other distributions bring: what a ``limit`` rule bounds, one number per image.

An entry point of the group ``lieaudit.measures`` names a function of a report and a generator's id that returns a
finite number for each of the report's images::

    [project.entry-points."lieaudit.measures"]
    spread = "acme_lieaudit:spread"

Then ``{kind: limit, measure: spread, generators: rotation, max: 0.5}`` bounds its statistic over images, with an
interval from them; a numerical error is not known of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import entry_points

import numpy as np
from lieaudit_policy import MEASURE_GROUP, Rule

from lieaudit.errors import DataError, PolicyError
from lieaudit.gate.measure import Measured, Unmeasured, trust
from lieaudit.report import Report
from lieaudit.statistics import confidence_draws, point_estimate

Measure = Callable[[Report, str], Sequence[float]]


def load(names: Iterable[str]) -> dict[str, Measure]:
    """Load measures by name. Raises `PolicyError` MEASURE_NOT_LOADED where one cannot be had."""
    there = {entry.name: entry for entry in entry_points(group=MEASURE_GROUP)}
    found: dict[str, Measure] = {}
    for name in names:
        if name not in there:
            raise _not_loaded(name, "no installed distribution brings it")
        try:
            found[name] = there[name].load()
        except Exception as problem:
            raise _not_loaded(name, f"{there[name].value}: {type(problem).__name__}: {problem!s:.300}") from problem
        if not callable(found[name]):
            raise _not_loaded(name, f"{there[name].value} is no function")
    return found


def measured(
    function: Measure, rule: Rule, generator: str, candidate: Report, resamples: int, seed: int
) -> Measured | Unmeasured:
    """Measure a rule by somebody else's function; what goes wrong there leaves the rule undecided, with the reason."""
    result = candidate.results.get(generator)
    if result is None:
        return Unmeasured("NOT_MEASURED", f"the report of the candidate does not hold {generator}")
    try:
        values = np.asarray(function(candidate, generator), dtype=np.float64)
    except Exception as problem:  # noqa: BLE001 - it may raise anything
        return _failed(rule, f"raised {type(problem).__name__}: {problem!s:.200}")
    if values.shape != (len(result.per_image),):
        return _failed(
            rule, f"returned shape {values.shape}, not one number for each of {len(result.per_image)} images"
        )
    if not np.all(np.isfinite(values)):
        return _failed(rule, "returned numbers that are not finite")
    status, why = trust(generator, {"candidate": candidate})
    try:
        value = float(point_estimate(values, rule.statistic))
        draws = confidence_draws(values, statistic=rule.statistic, resamples=resamples, seed=seed)
    except DataError as problem:
        return Unmeasured(problem.reason, f"{problem.message[0].lower()}{problem.message[1:]}")
    return Measured(value, log=False, draws=draws, down=0.0, up=0.0, images=len(values), status=status, why=why)


def _failed(rule: Rule, problem: str) -> Unmeasured:
    return Unmeasured("MEASURE_FAILED", f"the measure {rule.subject!r} {problem}")


def _not_loaded(name: str, problem: str) -> PolicyError:
    return PolicyError(
        f"the measure {name!r} cannot be loaded: {problem}",
        reason="MEASURE_NOT_LOADED",
        subject=name,
        hint="install its distribution, or leave it out of the policy",
    )
