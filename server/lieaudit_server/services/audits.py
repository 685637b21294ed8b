"""``lieaudit.v1.AuditService``."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from lieaudit_api.v1 import audit_pb2, audit_pb2_grpc, gate_pb2, spec_pb2

from lieaudit.errors import SpecError
from lieaudit.spec import AuditSpec
from lieaudit_server import __version__, bounds
from lieaudit_server.config import factories
from lieaudit_server.conversions import into, spec_from_proto, timestamp, within_memory
from lieaudit_server.errors import ServiceError, invalid, not_found
from lieaudit_server.scheduling import jobs
from lieaudit_server.services import finished, paging, reuse
from lieaudit_server.services.context import LARGE, Context
from lieaudit_server.services.evaluation import check_policy, evaluate
from lieaudit_server.store import audits, garbage
from lieaudit_server.store.audits import Audit, Event

_STATES = (*audits.UNFINISHED, *audits.FINISHED)
_PROVIDER_NAMES = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "Tensorrt"}
API_VERSION = "lieaudit.v1"


class AuditService(audit_pb2_grpc.AuditServiceServicer):  # type: ignore[misc]
    """Audits: create, follow, cancel, report, decide."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def CreateAudit(self, request: audit_pb2.CreateAuditRequest, _context: Any) -> audit_pb2.Audit:  # noqa: N802, D102
        fields = self._context.generators
        spec = await self._context.convert(lambda: _spec(request, fields), at_once=request.ByteSize() < LARGE)
        if not spec.budget_mib:
            spec = await asyncio.to_thread(within_memory, spec, self._memory(spec))
        if len(request.idempotency_key) > 200:
            raise invalid("idempotency_key", "idempotency_key is longer than 200 characters")
        if not 0 <= request.deadline_seconds < 1e9:
            raise invalid("deadline_seconds", "deadline_seconds must be a number of seconds from 0 up")
        self._context.check_disk(0)
        device = await self._device(spec)
        blobs = await self._blobs(request, spec)
        limit = self._context.config.deadline_seconds
        audit = Audit(
            number=0,
            id=f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}",
            owner=self._context.caller.owner,
            state="queued",
            spec=spec.to_dict(),
            blobs=blobs,
            threads=self._threads(spec),
            device=device,
            deadline=min(request.deadline_seconds, limit) if request.deadline_seconds else limit,
            attempts=0,
            created=time.time(),
            finished=None,
            failure=None,
            sequence=0,
            idempotency_key=request.idempotency_key or None,
            request_sha256=_request_sha256(request),
        )
        known = await reuse.alike(self._context, audit) if request.reuse else None
        accepted = known or await self._context.scheduler.submit(audit)
        return (await self._messages([accepted]))[0]

    async def GetAudit(self, request: audit_pb2.GetAuditRequest, _context: Any) -> audit_pb2.Audit:  # noqa: N802, D102
        return (await self._messages([await self._context.audit(request.id)]))[0]

    async def ListAudits(  # noqa: N802, D102
        self, request: audit_pb2.ListAuditsRequest, _context: Any
    ) -> audit_pb2.ListAuditsResponse:
        if request.state and request.state not in _STATES:
            raise invalid("state", f"state {request.state[:40]!r} is not one of {', '.join(_STATES)}")
        size, before, visible = (
            paging.size(request.page_size),
            paging.before(request.page_token),
            self._context.caller.visible,
        )
        found, cut = await self._context.database.run(lambda db: audits.page(db, visible, request.state, before, size))
        token = paging.next_token([a.number for a in found], size, cut=cut)
        return audit_pb2.ListAuditsResponse(audits=await self._messages(found), next_page_token=token)

    async def CancelAudit(self, request: audit_pb2.CancelAuditRequest, _context: Any) -> audit_pb2.Audit:  # noqa: N802, D102
        audit = await self._context.audit(request.id)
        await self._context.background.run(self._context.scheduler.cancel(audit.id))
        return (await self._messages([await self._context.audit(audit.id)]))[0]

    async def DeleteAudit(  # noqa: N802, D102
        self, request: audit_pb2.DeleteAuditRequest, _context: Any
    ) -> audit_pb2.DeleteAuditResponse:
        audit = await self._context.audit(request.id)
        folder = self._context.folder

        def delete(db: sqlite3.Connection) -> bool:
            deleted = audits.delete(db, audit.id)
            if deleted:
                garbage.add(db, folder, [folder.audit(audit.id)], at_once=True)
            return deleted

        if not await self._context.database.run(delete):
            raise ServiceError(
                "FAILED_PRECONDITION",
                "the audit has not ended",
                reason="AUDIT_NOT_FINISHED",
                subject=audit.id,
                hint="cancel it first",
            )
        await self._context.database.run(lambda db: garbage.sweep(db, folder))
        return audit_pb2.DeleteAuditResponse()

    async def WatchAudit(  # noqa: N802, D102
        self, request: audit_pb2.WatchAuditRequest, _context: Any
    ) -> AsyncIterator[audit_pb2.AuditEvent]:
        after = request.after_sequence
        if after >= 2**63:
            raise invalid("after_sequence", "after_sequence is not one that this server gave")
        visible = self._context.caller.visible
        while True:
            latch = self._context.journal.latch(request.id)
            # Events and state of one moment: else the audit could end between the two, and its last event be missed.
            found = await self._context.database.run(
                functools.partial(audits.follow, audit_id=request.id, owner=visible, after=after)
            )
            if found is None:
                raise not_found("audit", request.id)
            events, ended = found
            for event in events:
                yield _event(event)
                after = event.sequence
            if ended:
                return
            if self._context.journal.closed:
                raise ServiceError(
                    "UNAVAILABLE",
                    "the server is shutting down; the audit goes on when it is back",
                    reason="DRAINING",
                    hint="watch again, from the last sequence number",
                    retry_seconds=1.0,
                )
            await latch.wait()

    async def GetReport(  # noqa: N802, D102
        self, request: audit_pb2.GetReportRequest, _context: Any
    ) -> AsyncIterator[audit_pb2.ReportChunk]:
        pieces = finished.report(self._context, await self._context.audit(request.id))
        while data := await asyncio.to_thread(next, pieces, None):
            yield audit_pb2.ReportChunk(data=data)

    async def Evaluate(self, request: gate_pb2.EvaluateRequest, _context: Any) -> gate_pb2.Decision:  # noqa: N802, D102
        return await evaluate(self._context, request)

    async def CheckPolicy(  # noqa: N802, D102
        self, request: gate_pb2.CheckPolicyRequest, _context: Any
    ) -> gate_pb2.PolicyCheck:
        return await check_policy(self._context, request)

    async def GetServerInfo(  # noqa: N802, D102
        self, _request: audit_pb2.GetServerInfoRequest, _context: Any
    ) -> audit_pb2.ServerInfo:
        config = self._context.config
        counts = await self._context.database.run(audits.counts)
        names = [
            n for n in await self._context.providers if n.removesuffix("ExecutionProvider") in _PROVIDER_NAMES.values()
        ]
        limits = {
            "model_bytes": config.max_model_bytes,
            "dataset_bytes": config.max_dataset_bytes,
            "images": config.max_images,
            "chunk_bytes": 2**20,
            "queued_per_owner": config.max_queued_per_owner,
            "threads": config.total_threads,
            "memory_mib": config.memory_mib,
            "deadline_seconds": config.deadline_seconds,
        }
        return audit_pb2.ServerInfo(
            version=__version__,
            api_version=API_VERSION,
            providers=names,
            queued=counts.get("queued", 0),
            running=self._context.scheduler.running,
            slots=self._context.scheduler.slots.total,
            limits={name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in limits.items()},
        )

    def _threads(self, spec: AuditSpec) -> int:
        config = self._context.config
        if spec.threads > config.total_threads:
            raise SpecError(
                f"threads: {spec.threads} asked for, this server has {config.total_threads}",
                reason="TOO_MANY_THREADS",
                subject="threads",
                hint="leave it out, or ask for fewer",
            )
        return spec.threads or config.default_threads

    def _memory(self, spec: AuditSpec) -> int:
        """Return the MiB that the worker of an audit may have."""
        config = self._context.config
        return config.memory_mib if spec.provider == "cpu" else config.gpu_memory_mib

    async def _device(self, spec: AuditSpec) -> int | None:
        name, _, index = spec.provider.partition(":")
        if name not in _PROVIDER_NAMES or (index and not (index.isascii() and index.isdigit() and len(index) < 4)):
            raise SpecError(
                f"provider: {spec.provider[:40]!r} is not cpu, cuda, cuda:ID, tensorrt or tensorrt:ID",
                reason="INVALID_SPEC",
                subject="provider",
            )
        memory = self._memory(spec)
        if name == "cpu" and spec.budget_mib > memory:
            raise SpecError(
                f"budget_mib: {spec.budget_mib} exceeds this server's limit of {memory} MiB",
                reason="INVALID_SPEC",
                subject="budget_mib",
                hint="leave it out, or ask for less",
            )
        if name == "cpu":
            return None
        device = int(index or 0)
        available = await self._context.providers
        if (
            f"{_PROVIDER_NAMES[name]}ExecutionProvider" not in available
            or device not in self._context.scheduler.slots.gpus
        ):
            offered = ", ".join(["cpu", *(f"cuda:{gpu}" for gpu in self._context.scheduler.slots.gpus)])
            raise ServiceError(
                "FAILED_PRECONDITION",
                f"this server does not offer the provider {spec.provider}",
                reason="PROVIDER_NOT_AVAILABLE",
                subject="provider",
                hint=f"it offers {offered}",
            )
        return device

    async def _blobs(self, request: audit_pb2.CreateAuditRequest, spec: AuditSpec) -> dict[str, dict[str, str]]:
        if spec.torch_factory is not None and spec.torch_factory not in factories(self._context.config.torch_factories):
            raise SpecError(
                f"torch_factory: this server has no factory {spec.torch_factory[:80]!r}",
                reason="UNKNOWN_FACTORY",
                subject="torch_factory",
                hint="the operator registers factories with --torch-factories",
            )
        wanted = {
            "model": ("model", request.model_sha256, "model_sha256", ("onnx", "tar")),
            "dataset": ("dataset", request.dataset_sha256, "dataset_sha256", ("npz", "tar", "zip")),
        }
        if spec.torch_source is not None:
            wanted["torch_source"] = ("model", spec.torch_source, "spec.torch_source", ("pt2",))
        if spec.torch_weights is not None:
            wanted["torch_weights"] = ("model", spec.torch_weights, "spec.torch_weights", ("safetensors",))
        found = {}
        for role, (kind, sha256, field, formats) in wanted.items():
            resource = await self._context.resource(kind, sha256, field)
            await self._context.blob(resource)
            if resource.format not in formats:
                raise invalid(
                    field, f"{field}: a {resource.format} file, not {' or '.join(formats)}", reason="WRONG_FORMAT"
                )
            found[role] = jobs.reference(resource)
        return found

    async def _messages(self, found: list[Audit]) -> list[audit_pb2.Audit]:
        events = await self._context.database.run(lambda db: audits.last_events(db, [a.id for a in found]))

        def convert() -> list[audit_pb2.Audit]:
            return [_message(audit, events[audit.id]) for audit in found]

        entries = sum(len(v) for audit in found for v in audit.spec.values() if isinstance(v, list | dict))
        return await self._context.convert(convert, at_once=entries < LARGE // 8)


def _spec(request: audit_pb2.CreateAuditRequest, fields: Mapping[str, spec_pb2.Tensor]) -> AuditSpec:
    """Read the specification, with the operator's fields that it names filled in, so that the report holds them."""
    bounds.check(request)
    for name in set(request.spec.generators) & set(fields):
        if name not in request.spec.custom:
            request.spec.custom[name].CopyFrom(fields[name])
    return spec_from_proto(request.spec) if request.HasField("spec") else AuditSpec()


def _request_sha256(request: audit_pb2.CreateAuditRequest) -> str:
    same = audit_pb2.CreateAuditRequest()
    same.CopyFrom(request)
    same.idempotency_key = ""
    same.reuse = False
    return hashlib.sha256(same.SerializeToString(deterministic=True)).hexdigest()


def _message(audit: Audit, event: Event) -> audit_pb2.Audit:
    message = audit_pb2.Audit(
        id=audit.id,
        model_sha256=audit.blobs["model"]["sha256"],
        dataset_sha256=audit.blobs["dataset"]["sha256"],
        spec=into(spec_pb2.AuditSpec(), audit.spec),
        state=audit.state,
        created=timestamp(audit.created),
        finished=timestamp(audit.finished),
        progress=_event(event),
        owner=audit.owner,
    )
    if audit.failure is not None:
        failure = audit.failure
        message.failure.MergeFrom(
            audit_pb2.AuditFailure(
                reason=failure.reason, message=failure.message, subject=failure.subject, hint=failure.hint
            )
        )
    return message


def _event(event: Event) -> audit_pb2.AuditEvent:
    return audit_pb2.AuditEvent(
        sequence=event.sequence,
        time=timestamp(event.time),
        state=event.state,
        stage=event.stage,
        done=event.done,
        total=event.total,
        rate=event.rate,
        message=event.message,
    )
