"""Refuses to compare reports that were measured on different terms, and names the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lieaudit.errors import ComparisonError
from lieaudit.report import Report
from lieaudit.spec import AuditSpec

# `max_images` is not here: the number of images measured is compared, however it was asked for.
_SAME_SPEC = (
    "convention",
    "interpolation",
    "padding",
    "head",
    "seed",
    "preprocessing",
    "step",
    "secant_px",
    "parts",
    "anchors",
)
_OF_THE_PIXELS = ("resize", "crop")
"""What of a preprocessing says which pixels there are; the rest says how a model takes them."""
_DEFAULTS = AuditSpec().to_dict()


def require_paired(candidate: Report, baseline: Report, *, own_preprocessing: bool = False) -> None:
    """Require that both reports hold the same images, measured in the same way.

    With ``own_preprocessing`` each model may take the same pixels in its own way: scale, mean, std, order may differ.

    Raises
    ------
    ComparisonError
        Naming every difference: metric version, images, specification or head.
    """
    differences = [*_versions(candidate, baseline, "baseline"), *_images(candidate, baseline)]
    differences += _specs(candidate, baseline, "baseline", own_preprocessing=own_preprocessing)
    if differences:
        raise ComparisonError(
            f"the baseline cannot be compared with the candidate: {'; '.join(differences)}",
            reason="BASELINE_NOT_COMPARABLE",
            subject="baseline",
            hint="audit the baseline again on the same images with the same specification",
        )


def require_same_model(candidate: Report, other: Report, name: str) -> None:
    """Require that ``other`` is the same model on other images, measured in the same way.

    Raises
    ------
    ComparisonError
        Naming every difference.
    """
    differences = list(_versions(candidate, other, f"dataset {name!r}"))
    if candidate.model.sha256 != other.model.sha256:
        differences.append(
            f"it is of model {_short(other.model.sha256)}, the candidate is {_short(candidate.model.sha256)}"
        )
    if candidate.data.sha256 == other.data.sha256:
        differences.append("its images are the candidate's own, so there is no gap to measure")
    differences += _specs(candidate, other, f"dataset {name!r}")
    if differences:
        raise ComparisonError(
            f"the report of dataset {name!r} does not fit: {'; '.join(differences)}",
            reason="DATASET_NOT_COMPARABLE",
            subject=name,
            hint="audit the candidate on that dataset with the same specification",
        )


def _versions(candidate: Report, other: Report, name: str) -> Iterator[str]:
    if candidate.metric_version != other.metric_version:
        yield (
            f"{name}: metric version {other.metric_version} (lieaudit {other.environment.lieaudit}), "
            f"candidate: {candidate.metric_version} (lieaudit {candidate.environment.lieaudit})"
        )


def _images(candidate: Report, baseline: Report) -> Iterator[str]:
    if candidate.data.sha256 != baseline.data.sha256:
        yield (f"other images: baseline {_named(baseline)}, candidate {_named(candidate)}")
    elif candidate.data.count != baseline.data.count:
        yield (
            f"the baseline was measured on the first {baseline.data.count} images, the candidate on "
            f"{candidate.data.count} (max_images)"
        )


def _feeds(candidate: Report, other: Report, who: str) -> Iterator[str]:
    """Compare what both were fed for all images; values per image belong to the images."""
    mine = {feed.name: feed for feed in candidate.data.feeds if not feed.per_image}
    for feed in other.data.feeds:
        own = mine.get(feed.name)
        if own is not None and not feed.per_image and own.sha256 != feed.sha256:
            yield f"input {feed.name!r}: {who} was fed {feed.text}, the candidate {own.text}"


def require_size(report: Report, secant_px: float | None, who: str) -> None:
    """Require that a report holds what the policy decides on: secants of its size, where it states one.

    Raises
    ------
    ComparisonError
        SECANT_SIZE, naming both sizes.
    """
    held = report.spec.get("secant_px")
    if secant_px is not None and held != secant_px:
        found = "derivatives" if held is None else f"secants of {held:g} px"
        raise ComparisonError(
            f"the policy decides on secants of {secant_px:g} px, and the report of the {who} holds {found}",
            reason="SECANT_SIZE",
            subject="secant_px",
            hint=f"audit it with --step {secant_px:g}px",
        )


def _specs(candidate: Report, other: Report, who: str, *, own_preprocessing: bool = False) -> Iterator[str]:
    yield from _feeds(candidate, other, who)
    for name in _SAME_SPEC:
        if name == "head":  # what `auto` chose counts, not how it was asked for
            mine, theirs = candidate.model.head, other.model.head
        else:
            mine, theirs = _setting(candidate.spec, name), _setting(other.spec, name)
        if name == "preprocessing" and own_preprocessing:
            mine, theirs = _pixels(mine), _pixels(theirs)
        if mine != theirs:
            yield f"spec.{name}: {who} {_shown(theirs)}, candidate {_shown(mine)}"


def _setting(spec: Mapping[str, Any], name: str) -> Any:
    value = spec.get(name, _DEFAULTS.get(name))
    if isinstance(value, Mapping):  # the preset's name is no part of what was computed
        return {key: item for key, item in sorted(value.items()) if key != "name" and item is not None}
    return value


def _pixels(preprocessing: Any) -> Any:
    if not isinstance(preprocessing, Mapping):
        return preprocessing
    return {name: preprocessing.get(name) for name in _OF_THE_PIXELS}


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _named(report: Report) -> str:
    return f"{report.data.name or 'unnamed'} ({_short(report.data.sha256)}, {report.data.count} images)"


def _short(sha256: str) -> str:
    return sha256[:12]
