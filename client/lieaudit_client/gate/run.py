"""The gate's run: check the policy, measure what it needs, have the service decide, look again with more images."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path

import lieaudit_policy
from lieaudit_api.v1 import gate_pb2, report_pb2, spec_pb2

from lieaudit_client.client import Client
from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.formats.outcome import Outcome
from lieaudit_client.gate.sources import Measure, Resolver, Source
from lieaudit_client.parts import anchors_of
from lieaudit_client.registries.mlflow import NoChampionError
from lieaudit_client.report_json import read_report

_MAX_POLICY = 1024 * 1024
_RELATIVE_IMAGES = 64
"""What an audit takes for `relative` by itself."""


@dataclass(frozen=True)
class Request:
    """What the user asked for; paths and names as given."""

    model: str
    data: str | None
    policy_file: str
    baseline: str | None
    datasets: Mapping[str, str]
    spec: spec_pb2.AuditSpec
    power: bool
    baseline_preprocessing: spec_pb2.Preprocessing | None = None
    """How the baseline takes the images, where that is not the candidate's way."""
    first_version: str = ""
    """``limits`` or ``pass``: what to do where there is no baseline yet; empty: limits, where the registry says so."""


@dataclass(frozen=True)
class Result:
    """The outcome, and the registered versions it is about (for the promotion)."""

    outcome: Outcome
    candidate: Source
    baseline: Source | None
    champion_missing: tuple[str, str] | None = None
    """The registered model and the alias that no version of it has yet."""


def read_policy(path: str) -> str:
    """Read a policy file. Raises `InvalidInputError` where it is missing, too large or no text."""
    try:
        data = Path(path).read_bytes()
        if len(data) > _MAX_POLICY:
            raise InvalidInputError(f"{path} is larger than 1 MiB", reason="INVALID_POLICY", subject=path)
        return data.decode()
    except OSError as problem:
        raise InvalidInputError(
            f"cannot read {path}: {problem.strerror}", reason="UNREADABLE_FILE", subject=path
        ) from problem
    except UnicodeDecodeError as problem:
        raise InvalidInputError(f"{path} is not UTF-8 text", reason="INVALID_POLICY", subject=path) from problem


def check_here(policy_yaml: str) -> gate_pb2.PolicyCheck:
    """Read a policy without a service: the same answer as `Client.check_policy`, from the same code."""
    installed = tuple(entry.name for entry in entry_points(group=lieaudit_policy.MEASURE_GROUP))
    policy, problems = lieaudit_policy.check(policy_yaml, installed)
    if policy is None:
        return gate_pb2.PolicyCheck(problems=[gate_pb2.PolicyProblem(**asdict(problem)) for problem in problems])
    return gate_pb2.PolicyCheck(**lieaudit_policy.needs(policy, dt.datetime.now(dt.UTC).date()))


def problem_lines(check: gate_pb2.PolicyCheck, path: str) -> list[str]:
    """Return a line ``FILE:LINE: field: message (hint)`` for each problem of a policy."""
    lines = []
    for problem in check.problems:
        field = f"{problem.field}: " if problem.field else ""
        hint = f" ({problem.hint})" if problem.hint else ""
        lines.append(f"{path}:{problem.line}: {field}{problem.message}{hint}")
    return lines


def run(client: Client, resolver: Resolver, request: Request, measure: Measure, say: Callable[[str], None]) -> Result:
    """Carry a request out.

    Raises
    ------
    ClientError
        The policy, a source, an audit or the comparison is at fault, or the service refused.
    """
    policy = read_policy(request.policy_file)
    check = client.check_policy(policy)
    if check.problems:
        lines = problem_lines(check, request.policy_file)
        raise InvalidInputError(
            "\n".join(["the policy is not valid", *lines]), reason="INVALID_POLICY", subject="policy"
        )
    _require(check, request)
    candidate = resolver.resolve(request.model, "candidate")
    baseline, missing = _baseline(resolver, request, say)
    first = (request.first_version or "limits") if baseline is None and check.needs_baseline else ""
    spec = _spec(check, request.spec)
    if baseline is not None and baseline.report is not None and not request.spec.HasField("max_images"):
        spec.max_images = max(1, baseline.report.data.count)  # only those images can be compared
    while True:
        outcome = _decide(
            client, replace(request, first_version=first), policy, spec, candidate, baseline, measure, say
        )
        more = outcome.decision.next_images if outcome.decision.HasField("next_images") else 0
        if not more or not _can_grow(candidate, baseline, outcome, spec):
            return Result(outcome, candidate, baseline, missing)
        say(f"inconclusive on {outcome.candidate.data.count} images; the policy asks for more: {more}")
        spec.max_images = more


def _baseline(
    resolver: Resolver, request: Request, say: Callable[[str], None]
) -> tuple[Source | None, tuple[str, str] | None]:
    """Find the baseline; or None and the alias that no version of the registered model has yet."""
    if request.baseline is None:
        return None, None
    try:
        return resolver.resolve(request.baseline, "baseline"), None
    except NoChampionError as problem:
        if problem.doubt and not request.first_version:
            raise
        say(f"{problem.message}: this is a first version, and the rules that compare with a baseline are skipped")
        return None, (problem.name, problem.subject)


def _require(check: gate_pb2.PolicyCheck, request: Request) -> None:
    """Refuse what is missing before the audits, not after them."""
    if check.needs_baseline and request.baseline is None and not request.first_version:
        raise InvalidInputError(
            "the policy compares with a baseline, and none is given",
            reason="BASELINE_MISSING",
            subject="--baseline",
            hint="give --baseline REPORT.json, MODEL.onnx, audit:ID, mlflow:models:/NAME@ALIAS or "
            "hf:OWNER/REPO@REVISION; where there is none yet, --first-version limits or pass",
        )
    for name in check.datasets:
        if name not in request.datasets:
            raise InvalidInputError(
                f"a gap rule of the policy needs dataset {name!r}, and none is given",
                reason="DATASET_MISSING",
                subject="--dataset",
                hint=f"give --dataset {name}=DATA, or a report of the candidate on it",
            )


def _spec(check: gate_pb2.PolicyCheck, asked: spec_pb2.AuditSpec) -> spec_pb2.AuditSpec:
    """Measure what the rules need, and no more."""
    spec = spec_pb2.AuditSpec()
    spec.CopyFrom(asked)
    spec.generators[:] = check.generators
    if check.parts and not spec.parts:
        spec.parts[:] = check.parts
        for name, tensor in anchors_of(check.parts, spec.anchors).items():
            spec.anchors[name].CopyFrom(tensor)
    if check.layerwise != "none" and not spec.HasField("layerwise"):
        spec.layerwise = check.layerwise
    if check.HasField("secant_px"):
        if spec.HasField("secant_px") and spec.secant_px != check.secant_px:
            raise InvalidInputError(
                f"--step asks for secants of {spec.secant_px:g} px, and the policy decides on {check.secant_px:g} px",
                reason="SECANT_SIZE",
                subject="--step",
                hint="leave --step out, or change secant_px in the policy",
            )
        spec.secant_px = check.secant_px
    if check.on_inconclusive == "more_images" and not spec.HasField("max_images"):
        spec.max_images = check.min_images
    if check.relative and not asked.HasField("relative_images"):
        # rules about `relative` need as many images as the others, and grow with them
        most = check.max_images if check.on_inconclusive == "more_images" else 0
        spec.relative_images = max(_RELATIVE_IMAGES, check.min_images, most)
    return spec


def _decide(
    client: Client,
    request: Request,
    policy: str,
    spec: spec_pb2.AuditSpec,
    candidate: Source,
    baseline: Source | None,
    measure: Measure,
    say: Callable[[str], None],
) -> Outcome:
    report = candidate.measure(measure, request.data, spec)
    other = _of_baseline(baseline, report, spec, request, measure, say) if baseline is not None else None
    plain = _without_layers(spec, request)  # shares are asked of the candidate only
    datasets = {name: _on_dataset(candidate, place, plain, measure) for name, place in request.datasets.items()}
    message = gate_pb2.EvaluateRequest(policy_yaml=policy, power=request.power)
    message.own_preprocessing = request.baseline_preprocessing is not None
    message.first_version = request.first_version
    message.candidate.report.CopyFrom(_slim(report))
    if other is not None:
        message.baseline.report.CopyFrom(_slim(other))
    for name, found in datasets.items():
        message.datasets[name].report.CopyFrom(_slim(found))
    return Outcome(client.evaluate(message), report, other, request.policy_file, datasets)


def _of_baseline(
    baseline: Source,
    candidate: report_pb2.Report,
    spec: spec_pb2.AuditSpec,
    request: Request,
    measure: Measure,
    say: Callable[[str], None],
) -> report_pb2.Report:
    """Measure the baseline in the same way, but for how it takes its images, and for the candidate's layers."""
    asked = _without_layers(spec, request)
    if request.baseline_preprocessing is not None:
        asked.preprocessing.CopyFrom(request.baseline_preprocessing)
    before = baseline.measured_before(candidate, asked)
    if before is not None:
        say(f"{baseline.label}: its report is that of its own gate, on the same terms (--again measures it anew)")
        return before
    return baseline.measure(measure, request.data, asked)


def _without_layers(spec: spec_pb2.AuditSpec, request: Request) -> spec_pb2.AuditSpec:
    """Leave out the attribution that only the policy's rules on the candidate's layers ask for."""
    found = spec_pb2.AuditSpec()
    found.CopyFrom(spec)
    if not request.spec.HasField("layerwise"):
        found.ClearField("layerwise")
    return found


def _on_dataset(candidate: Source, place: str, spec: spec_pb2.AuditSpec, measure: Measure) -> report_pb2.Report:
    if place.lower().endswith(".json"):
        return read_report(place)
    if candidate.report is not None:
        raise InvalidInputError(
            "the candidate is a report, so it cannot be measured on a further dataset",
            reason="MODEL_MISSING",
            subject="--dataset",
            hint="give the model itself, or a report of it on that dataset",
        )
    return candidate.measure(measure, place, spec)


def _slim(report: report_pb2.Report) -> report_pb2.Report:
    """Leave out what no decision needs."""
    slim = report_pb2.Report()
    slim.CopyFrom(report)
    slim.ClearField("pictures")
    return slim


def _can_grow(candidate: Source, baseline: Source | None, outcome: Outcome, spec: spec_pb2.AuditSpec) -> bool:
    """Whether more images can be measured: both sides are models, and the dataset was not used up."""
    fixed = candidate.report is not None or (baseline is not None and baseline.report is not None)
    return not fixed and outcome.candidate.data.count >= spec.max_images
