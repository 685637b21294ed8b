"""Rules on a part of the outputs: what they decide on, seen as a report of that part alone.

A part that has two results, as boxes have centre and size, is judged on both. Images count by the weights that the
report holds, as they are: the mean over images of weight · LEE over the mean weight is the part's LEE.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from lieaudit_policy import Rule

from lieaudit.report import GeneratorResult, Report, ReportPart


def readings(rule: Rule, generator: str, candidate: Report) -> list[str]:
    """Return the results of the candidate's report that a rule decides on under a generator; one that is missing too.

    Without ``part`` that is the report itself, named by an empty text.
    """
    if not rule.part:
        return [""]
    own = [name for name in candidate.parts if name == rule.part or name.startswith(f"{rule.part}.")]
    # sizes of boxes have no motion of their own under a turn: then the centres decide
    held = [name for name in own if generator in candidate.parts[name].results or rule.kind == "worst_direction"]
    return held or own or [rule.part]


def of_part(report: Report, name: str, statistic: str) -> Report:
    """Return a report of one part alone, its images weighed; without results where the report has no such part."""
    if not name:
        return report
    part = report.parts.get(name)
    others = tuple(f"{other}: " for other in report.parts if other != name)
    own = f"{name}: "
    reasons = tuple(reason.removeprefix(own) for reason in report.reasons if not reason.startswith(others))
    place = f"parts.{name}."
    skipped = tuple(replace(s, what=s.what.removeprefix(place)) for s in report.skipped)
    results = {} if part is None else {g: _weighed(result, part, statistic) for g, result in part.results.items()}
    affine = None if part is None else part.affine
    return replace(report, results=results, reasons=reasons, skipped=skipped, affine=affine)


def _weighed(result: GeneratorResult, part: ReportPart, statistic: str) -> GeneratorResult:
    """Weigh the images in means, and leave out those without weight where each counts alike."""
    if not part.weights:
        return result
    weights = np.asarray(part.weights)
    values, errors = np.asarray(result.per_image), np.asarray(result.per_image_error)
    if statistic in {"median", "geometric_mean"}:
        values, errors = values[weights > 0], errors[weights > 0]
    else:
        share = weights / weights.mean()
        values, errors = share * values, share * errors
    return replace(result, per_image=tuple(map(float, values)), per_image_error=tuple(map(float, errors)))


def missing(rule: Rule, candidate: Report) -> str:
    """Say why a rule finds nothing in a report: parts that it does not name, or names and are not there."""
    names = ", ".join(dict.fromkeys(name.partition(".")[0] for name in candidate.parts))
    if rule.part and not any(name == rule.part or name.startswith(f"{rule.part}.") for name in candidate.parts):
        held = f"parts {names}" if names else "no parts"
        return f"the report holds {held}, and the rule is about part {rule.part!r}"
    if not rule.part and candidate.parts:
        return f"the report holds parts: say which the rule is about, part: {names.replace(', ', ' or ')}"
    return ""
