"""The gate's decision, made in a process of its own: a policy is a client's file like any other."""

from __future__ import annotations

import asyncio

from lieaudit_api.v1 import gate_pb2

from lieaudit.report import Report
from lieaudit_server.conversions import into, report_to_proto
from lieaudit_server.errors import invalid
from lieaudit_server.services import audits
from lieaudit_server.services.context import Context

_POLICY_BYTES = 2**20
_REPORTS = 64


async def evaluate(context: Context, request: gate_pb2.EvaluateRequest) -> gate_pb2.Decision:
    """Decide. Raises `ServiceError`, or `LieauditError` for what is wrong with the policy or a report."""
    _check_size(request.policy_yaml)
    if len(request.datasets) > _REPORTS:
        raise invalid("datasets", f"at most {_REPORTS} further reports", reason="TOO_MANY_REPORTS")
    files = {"candidate": await _serialized(context, request.candidate, "candidate")}
    if request.HasField("baseline"):
        files["baseline"] = await _serialized(context, request.baseline, "baseline")
    names = {name: f"dataset-{index}" for index, name in enumerate(sorted(request.datasets))}
    for name, file in names.items():
        files[file] = await _serialized(context, request.datasets[name], f"datasets[{name[:80]}]")
    parts = {
        "candidate": "candidate",
        "baseline": "baseline" if "baseline" in files else "",
        "datasets": names,
        "policy_yaml": request.policy_yaml,
        "power": request.power,
        "own_preprocessing": request.own_preprocessing,
    }
    result = await context.probes.run("evaluate", parts, files)
    return into(gate_pb2.Decision(), result["decision"])


async def check_policy(context: Context, request: gate_pb2.CheckPolicyRequest) -> gate_pb2.PolicyCheck:
    """Say what is wrong with a policy, and what an audit must measure for it. Raises `ServiceError`."""
    _check_size(request.policy_yaml)
    result = await context.probes.run("check_policy", {"policy_yaml": request.policy_yaml})
    return into(gate_pb2.PolicyCheck(), result["check"])


def _check_size(policy_yaml: str) -> None:
    if len(policy_yaml.encode()) > _POLICY_BYTES:
        raise invalid("policy_yaml", "a policy has at most 1 MiB", reason="POLICY_TOO_LARGE")


async def _serialized(context: Context, source: gate_pb2.ReportSource, field: str) -> bytes:
    match source.WhichOneof("source"):
        case "audit_id":
            pieces = audits.report(context, await context.audit(source.audit_id))
            return await asyncio.to_thread(b"".join, pieces)
        case "report":
            return source.report.SerializeToString()
        case "report_json":
            return await asyncio.to_thread(_from_json, source.report_json)
        case _:
            raise invalid(field, f"{field}: give an audit id or a report", reason="REPORT_MISSING")


def _from_json(text: bytes) -> bytes:
    return report_to_proto(Report.from_json(text)).SerializeToString()
