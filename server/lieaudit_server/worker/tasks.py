"""The tasks of a worker, each from a job description (JSON) to a result (JSON)."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lieaudit.errors import DataError
from lieaudit.progress import Progress
from lieaudit.spec import AuditSpec
from lieaudit.torch.containers import check_pt2, check_safetensors
from lieaudit.torch.files import TorchFiles
from lieaudit_server.worker.channel import Channel
from lieaudit_server.worker.sources import Blob, check_content, model_file, place

if TYPE_CHECKING:
    from lieaudit.data import Dataset
    from lieaudit.report import Report
    from lieaudit.torch.files import TorchFiles

Job = dict[str, Any]


def providers(job: Job, _channel: Channel) -> dict[str, Any]:
    """Say which execution providers onnxruntime has here, and what could not be had of the sandbox.

    Raises `OSError` where this user cannot read the installed packages or does not get through to the data folder.
    """
    import onnxruntime

    for module in (os, dataclasses, onnxruntime):
        Path(str(module.__file__)).read_bytes()
    (Path(job["scratch"]) / "here").touch()
    return {"providers": list(onnxruntime.get_available_providers()), "missing": job["missing"]}


def check_factories(job: Job, _channel: Channel) -> dict[str, Any]:
    """Import every registered factory, where audits will, and say which cannot be had; none of them is called."""
    problems = []
    for name, target in job["torch_factories"].items():
        home, _, function = target.partition(":")
        try:
            found = getattr(importlib.import_module(home), function)
        except Exception as problem:  # noqa: BLE001 - an import runs the operator's code, which may raise anything
            problems.append(f"{name}={target} cannot be imported: {type(problem).__name__}: {problem!s:.300}")
        else:
            if not callable(found):
                problems.append(f"{name}={target} is no function")
    return {"problems": problems}


def load_generators(job: Job, _channel: Channel) -> dict[str, Any]:
    """Load the entry points of `lieaudit.generators` that are listed: fields by name, and which cannot be had."""
    from importlib.metadata import entry_points

    from lieaudit.fields import read_custom

    there = {entry.name: entry for entry in entry_points(group="lieaudit.generators")}
    fields, problems = {}, []
    for name in job["generators"]:
        if name not in there:
            problems.append(f"no installed distribution brings {name!r}")
            continue
        try:
            found = there[name].load()
            read = read_custom({name: found() if callable(found) else found})
        except Exception as problem:  # noqa: BLE001 - an import runs the operator's code, which may raise anything
            problems.append(f"{name} ({there[name].value}): {type(problem).__name__}: {problem!s:.300}")
        else:
            fields[name] = read[name].to_dict()
    return {"fields": fields, "problems": problems}


def check_measures(job: Job, _channel: Channel) -> dict[str, Any]:
    """Load the entry points of `lieaudit.measures` that are listed, and say which cannot be had."""
    from lieaudit.errors import PolicyError
    from lieaudit.gate.own import load

    problems = []
    for name in job["measures"]:
        try:
            load([name])
        except PolicyError as problem:
            problems.append(problem.message)
    return {"problems": problems}


def check_model(job: Job, _channel: Channel) -> dict[str, Any]:
    """Check an uploaded model: an ONNX file must be whole and valid, a torch source what its name says.

    What depends on the spec (input, output, head) is decided when it is inspected or audited.
    """
    blob = _blob(job["model"])
    path = _model_path(job, blob)
    if blob.format in {"onnx", "tar"}:
        from lieaudit.graph.read import read_model

        read_model(path)
    elif blob.format == "safetensors":
        check_safetensors(path)
    else:
        check_pt2(path)
    return {}


def check_dataset(job: Job, _channel: Channel) -> dict[str, Any]:
    """Check an uploaded data set and say what it holds."""
    dataset = _open_dataset(job)
    return {
        "image_count": dataset.count,
        "has_labels": dataset.labels is not None,
        "dtype": dataset.dtype,
        "image_shape": list(dataset.image_shape or ()),
    }


def inspect(job: Job, _channel: Channel) -> dict[str, Any]:
    """Read a model's graph and, with a data set, measure its accuracy."""
    from lieaudit.inspection import inspect as read_graph

    blob = _blob(job["model"])
    result = read_graph(
        _model_path(job, blob),
        AuditSpec.from_dict(job["spec"]),
        images=_open_dataset(job) if "dataset" in job else None,
        layers=job["layers"],
        name=blob.name,
    )
    return {"inspection": result.to_dict()}


def audit(job: Job, channel: Channel) -> dict[str, Any]:
    """Audit; the report lies in the scratch folder afterwards, for the server to take."""
    from lieaudit.api import audit as measure
    from lieaudit.shards import DirectoryShards
    from lieaudit_server.conversions import report_to_proto

    blob = _blob(job["model"])

    def report_progress(step: Progress) -> None:
        channel.progress(step.stage, step.done, step.total, step.rate)

    report = measure(
        _model_path(job, blob),
        _open_dataset(job),
        AuditSpec.from_dict(job["spec"]),
        name=blob.name,
        progress=report_progress,
        shards=DirectoryShards(Path(job["shards"])),
        source=_torch_files(job),
    )
    data = report_to_proto(report).SerializeToString(deterministic=True)
    if len(data) > job["max_report_bytes"]:
        raise DataError(
            f"the report has {len(data)} bytes; this server keeps at most {job['max_report_bytes']}",
            reason="REPORT_TOO_LARGE",
            subject="report",
            hint="audit fewer images (max_images)",
        )
    (Path(job["scratch"]) / "report.pb").write_bytes(data)
    return {
        "report_sha256": hashlib.sha256(data).hexdigest(),
        "rows": report.timing.rows,
        "rows_per_second": report.timing.rows_per_second,
    }


def evaluate(job: Job, _channel: Channel) -> dict[str, Any]:
    """Let the gate decide; the reports lie in the scratch folder under the names the job gives."""
    from lieaudit.gate import evaluate as decide
    from lieaudit.gate import parse as read_policy
    from lieaudit.gate.own import load as load_measures
    from lieaudit.report import Report
    from lieaudit_server.conversions import parse_report

    def report(name: str) -> Report:
        kept = job.get(name)
        data = Path(kept["path"] if kept else Path(job["scratch"]) / name).read_bytes()
        return Report.from_json(data) if data.lstrip()[:1] == b"{" else parse_report(data)

    read_policy(job["policy_yaml"], job["measures"])  # before up to 66 reports, for which it may have no use
    decision = decide(
        report(job["candidate_report"]),
        report(job["baseline_report"]) if job["baseline_report"] else None,
        job["policy_yaml"],
        {name: report(file) for name, file in job["datasets"].items()},
        power=job["power"],
        own_preprocessing=job["own_preprocessing"],
        first_version=job["first_version"],
        measures=load_measures(job["measures"]),
    )
    return {"decision": decision.to_dict()}


def check_policy(job: Job, _channel: Channel) -> dict[str, Any]:
    """Read a policy: its problems, or what it needs measured."""
    from lieaudit_policy import check as read_policy
    from lieaudit_policy import needs

    policy, problems = read_policy(job["policy_yaml"], job["measures"])
    if policy is None:
        return {"check": {"problems": [dataclasses.asdict(problem) for problem in problems]}}
    return {"check": needs(policy, dt.datetime.now(dt.UTC).date())}


TASKS: dict[str, Callable[[Job, Channel], dict[str, Any]]] = {
    "providers": providers,
    "check_factories": check_factories,
    "load_generators": load_generators,
    "check_measures": check_measures,
    "check_model": check_model,
    "check_dataset": check_dataset,
    "inspect": inspect,
    "audit": audit,
    "evaluate": evaluate,
    "check_policy": check_policy,
}


def _blob(values: dict[str, str]) -> Blob:
    return Blob(Path(values["path"]), values["sha256"], values["name"], values["format"])


def _model_path(job: Job, blob: Blob) -> Path:
    from lieaudit_server.worker.graph_limits import GraphLimits, check

    limits = job["limits"]
    path = model_file(blob, Path(job["scratch"]) / "model", limits["unpacked_bytes"], limits["archive_members"])
    if path.suffix == ".onnx":
        check(path, GraphLimits(limits["nodes"], limits["initializer_bytes"], limits["nesting"]))
    return path


def _torch_files(job: Job) -> TorchFiles:
    placed = {
        role: place(_blob(job[role]), Path(job["scratch"]) / role)
        for role in ("torch_source", "torch_weights")
        if role in job
    }
    return TorchFiles(placed.get("torch_source"), placed.get("torch_weights"), job["torch_factories"])


def _open_dataset(job: Job) -> Dataset:
    from lieaudit.data import Limits, open_dataset

    blob, bounds = _blob(job["dataset"]), job["limits"]
    limits = Limits(
        members=bounds["archive_members"], unpacked_bytes=bounds["unpacked_bytes"], pixels=bounds["image_pixels"]
    )
    check_content(blob)
    dataset = open_dataset(blob.path, blob.format, name=blob.name, limits=limits)
    if dataset.count > bounds["images"]:
        raise DataError(
            f"{dataset.count} images; this server takes at most {bounds['images']}",
            reason="TOO_LARGE",
            subject="images",
            hint="use a smaller set of images",
        )
    return dataset
