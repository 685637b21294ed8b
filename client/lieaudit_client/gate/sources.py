"""What the gate compares: report files, ONNX files, earlier audits, registered versions; all become reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lieaudit_api.v1 import report_pb2, spec_pb2

from lieaudit_client.client import Client
from lieaudit_client.exceptions import InvalidInputError, NotFoundError, ReportError
from lieaudit_client.gate.reuse import stands
from lieaudit_client.registries import hub
from lieaudit_client.registries.mlflow import Registry, Version, is_mlflow
from lieaudit_client.report_json import read_report

Measure = Callable[[str, str, spec_pb2.AuditSpec], report_pb2.Report]
"""Audits (model file, data, spec)."""

_AUDIT = "audit:"


@dataclass
class Source:
    """One side of the comparison.

    Either ``model`` is a file that is audited, as often and on as many images as it takes, or ``report`` is fixed.
    ``version`` and ``hub`` say where the model is registered, ``earlier`` is the report of its own gate there.
    """

    role: str
    model: str = ""
    report: report_pb2.Report | None = None
    version: Version | None = None
    hub: hub.HubModel | None = None
    earlier: report_pb2.Report | None = None

    @property
    def label(self) -> str:
        """What its registry calls it; empty where it is a file."""
        if self.version is not None:
            return self.version.label
        return self.hub.label if self.hub is not None else ""

    def measure(self, measure: Measure, data: str | None, spec: spec_pb2.AuditSpec) -> report_pb2.Report:
        """Return the report: the fixed one, or that of an audit now."""
        if self.report is not None:
            return self.report
        if data is None:
            raise InvalidInputError(
                f"the {self.role} is a model, so it needs images",
                reason="DATA_MISSING",
                subject="--data",
                hint="give --data DATA, or a report of an earlier audit",
            )
        return self._named(measure(self.model, data, spec))

    def measured_before(self, like: report_pb2.Report, spec: spec_pb2.AuditSpec) -> report_pb2.Report | None:
        """Return the report of the model's own gate where an audit as ``like`` would come out the same again.

        ``like`` is what the model is compared with, measured now; ``spec`` is what is asked of this model.
        """
        if self.earlier is None or not stands(self.earlier, self.model, like, spec):
            return None
        return self._named(self.earlier)

    def _named(self, report: report_pb2.Report) -> report_pb2.Report:
        report.model.name = self.label or report.model.name
        return report


@dataclass
class Resolver:
    """Finds out what a name stands for; ``folder`` takes what is downloaded, ``reuse`` looks for earlier reports."""

    client: Client
    folder: Path
    reuse: bool = True
    registry: Registry | None = field(default=None)

    def resolve(self, name: str, role: str) -> Source:
        """Return the source of a name.

        Raises
        ------
        InvalidInputError
            No such file, audit, version or alias.
        """
        if is_mlflow(name):
            return self._of_mlflow(name, role)
        if hub.is_hub(name):
            found = hub.find(name)
            return Source(role, model=str(hub.download(found)), hub=found)
        if Path(name).is_file():
            if name.lower().endswith(".json"):
                return Source(role, report=read_report(name))
            return Source(role, model=name)
        try:
            return Source(role, report=self.client.report(name.removeprefix(_AUDIT)))
        except NotFoundError as problem:
            raise NotFoundError(
                f"the {role} {name!r} is neither a file here nor an audit of the service",
                reason=f"{role.upper()}_NOT_FOUND",
                subject=name,
                hint="give REPORT.json, MODEL.onnx, audit:ID, mlflow:models:/NAME@ALIAS or hf:OWNER/REPO@REVISION",
            ) from problem

    def _of_mlflow(self, name: str, role: str) -> Source:
        self.registry = self.registry or Registry()
        version = self.registry.find(name)
        target = self.folder / role
        target.mkdir()
        model = str(self.registry.download(version, target))
        earlier = None
        if self.reuse and role == "baseline":
            kept = self.registry.earlier_report(version, self.folder)
            with contextlib.suppress(ReportError):  # not one of this version's: then it is measured
                earlier = read_report(kept) if kept is not None else None
        return Source(role, model=model, version=version, earlier=earlier)
