"""The gate's decision, made in a process of its own: a policy is a client's file like any other."""

from __future__ import annotations

import asyncio
from typing import Any

from lieaudit_api.v1 import gate_pb2

from lieaudit_server.conversions import into
from lieaudit_server.errors import invalid
from lieaudit_server.services import finished
from lieaudit_server.services.context import Context

_POLICY_BYTES = 2**20
_REPORTS = 64
_BRACKETS = 10_000


async def evaluate(context: Context, request: gate_pb2.EvaluateRequest) -> gate_pb2.Decision:
    """Decide. Raises `ServiceError`, or `LieauditError` for what is wrong with the policy or a report."""
    _check_size(request.policy_yaml)
    if len(request.datasets) > _REPORTS:
        raise invalid("datasets", f"at most {_REPORTS} further reports", reason="TOO_MANY_REPORTS")
    parts: dict[str, Any] = {"policy_yaml": request.policy_yaml, "power": request.power}
    files: dict[str, bytes] = {}

    async def take(source: gate_pb2.ReportSource, name: str, field: str) -> str:
        given = await _given(context, source, field)
        if isinstance(given, bytes):
            files[name] = given
        else:
            parts[name] = given
        return name

    parts["candidate_report"] = await take(request.candidate, "report-candidate", "candidate")
    parts["baseline_report"] = ""
    if request.HasField("baseline"):
        parts["baseline_report"] = await take(request.baseline, "report-baseline", "baseline")
    parts["datasets"] = {
        name: await take(request.datasets[name], f"report-{index}", f"datasets[{name[:80]}]")
        for index, name in enumerate(sorted(request.datasets))
    }
    parts["own_preprocessing"] = request.own_preprocessing
    parts["first_version"] = request.first_version[:80]
    parts["measures"] = list(context.config.measures)
    result = await context.probes.run("evaluate", parts, files)
    return into(gate_pb2.Decision(), result["decision"])


async def check_policy(context: Context, request: gate_pb2.CheckPolicyRequest) -> gate_pb2.PolicyCheck:
    """Say what is wrong with a policy, and what an audit must measure for it. Raises `ServiceError`."""
    _check_size(request.policy_yaml)
    result = await context.probes.run(
        "check_policy", {"policy_yaml": request.policy_yaml, "measures": list(context.config.measures)}
    )
    return into(gate_pb2.PolicyCheck(), result["check"])


def _check_size(policy_yaml: str) -> None:
    if len(policy_yaml) > _POLICY_BYTES or len(policy_yaml.encode()) > _POLICY_BYTES:
        raise invalid("policy_yaml", "a policy has at most 1 MiB", reason="POLICY_TOO_LARGE")
    if policy_yaml.count("[") + policy_yaml.count("{") > _BRACKETS:
        raise invalid("policy_yaml", f"a policy has at most {_BRACKETS} brackets", reason="POLICY_TOO_LARGE")


async def _given(context: Context, source: gate_pb2.ReportSource, field: str) -> bytes | dict[str, str]:
    """Return a report as the worker reads it: serialized, as JSON, or where it lies; the server itself parses none."""
    match source.WhichOneof("source"):
        case "audit_id":
            audit = await context.audit(source.audit_id)
            await asyncio.to_thread(next, finished.report(context, audit))  # compares it with its checksum
            return {"path": str(context.folder.report(audit.id))}
        case "report":
            return await asyncio.to_thread(source.report.SerializeToString)
        case "report_json":
            return source.report_json
        case _:
            raise invalid(field, f"{field}: give an audit id or a report", reason="REPORT_MISSING")
