"""What the gate compares: report files, ONNX files, earlier audits, registered versions; all become reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lieaudit_api.v1 import report_pb2, spec_pb2

from lieaudit_client.client import Client
from lieaudit_client.exceptions import InvalidInputError, NotFoundError
from lieaudit_client.gate.mlflow import Registry, Version, is_mlflow
from lieaudit_client.report_json import read_report

Measure = Callable[[str, str, spec_pb2.AuditSpec], report_pb2.Report]
"""Audits (model file, data, spec)."""

_AUDIT = "audit:"


@dataclass
class Source:
    """One side of the comparison.

    Either ``model`` is a file that is audited, as often and on as many images as it takes, or ``report`` is fixed.
    """

    role: str
    model: str = ""
    report: report_pb2.Report | None = None
    version: Version | None = None

    def measure(self, measure: Measure, data: str | None, spec: spec_pb2.AuditSpec) -> report_pb2.Report:
        """Give the report: the fixed one, or that of an audit now."""
        if self.report is not None:
            return self.report
        if data is None:
            raise InvalidInputError(
                f"the {self.role} is a model, so it needs images",
                reason="DATA_MISSING",
                subject="--data",
                hint="give --data DATA, or a report of an earlier audit",
            )
        found = measure(self.model, data, spec)
        if self.version is not None:
            found.model.name = f"{self.version.name} version {self.version.version}"
        return found


@dataclass
class Resolver:
    """Finds out what a name stands for; ``folder`` takes what is downloaded."""

    client: Client
    folder: Path
    registry: Registry | None = field(default=None)

    def resolve(self, name: str, role: str) -> Source:
        """Give the source of a name.

        Raises
        ------
        InvalidInputError
            No such file, audit, version or alias.
        """
        if is_mlflow(name):
            self.registry = self.registry or Registry()
            version = self.registry.find(name)
            target = self.folder / role
            target.mkdir()
            return Source(role, model=str(self.registry.download(version, target)), version=version)
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
                hint="give REPORT.json, MODEL.onnx, audit:ID or mlflow:models:/NAME@ALIAS",
            ) from problem
