"""What the services work with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lieaudit_api.v1 import spec_pb2

from lieaudit_server import identity
from lieaudit_server.admission import Places
from lieaudit_server.background import Background
from lieaudit_server.config import Config
from lieaudit_server.errors import ServiceError, disk_full, invalid, not_found
from lieaudit_server.identity import Identity
from lieaudit_server.metrics import Metrics
from lieaudit_server.scheduling import jobs
from lieaudit_server.scheduling.journal import Journal
from lieaudit_server.scheduling.probes import Probes
from lieaudit_server.scheduling.scheduler import Scheduler
from lieaudit_server.store import audits, damage, resources
from lieaudit_server.store.audits import Audit
from lieaudit_server.store.database import Database
from lieaudit_server.store.folder import Folder
from lieaudit_server.store.resources import Resource

_HEX = frozenset("0123456789abcdef")
T = TypeVar("T")
LARGE = 16 * 2**10
"""Bytes of a request whose conversion takes noticeably long."""


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of the running server.

    ``providers`` are onnxruntime's, known once a first worker has said them; ``generators`` are the fields that the
    operator lists.
    """

    config: Config
    folder: Folder
    database: Database
    journal: Journal
    scheduler: Scheduler
    probes: Probes
    metrics: Metrics
    background: Background
    providers: asyncio.Future[tuple[str, ...]] = field(compare=False)
    generators: dict[str, spec_pb2.Tensor] = field(default_factory=dict, compare=False)
    converting: Places = field(default_factory=lambda: Places(1, 1), compare=False)

    @property
    def caller(self) -> Identity:
        """The caller of the call being served."""
        return identity.current.get()

    async def resource(self, kind: str, sha256: str, field_name: str = "sha256") -> Resource:
        """Find a resource that the caller may see. Raises `ServiceError` NOT_FOUND or INVALID_ARGUMENT."""
        check_sha256(sha256, field_name)
        owner, visible = self.caller.owner, self.caller.visible
        found = await self.database.run(
            lambda db: (
                resources.find(db, kind, sha256, owner)
                or (resources.find(db, kind, sha256, None) if visible is None else None)
            )
        )
        if found is None:
            raise not_found(kind, sha256)
        return found

    async def is_whole(self, resource: Resource) -> bool:
        """Whether a resource's blob is there, as far as its size tells; one that is not is marked as damaged."""
        if resource.damaged:
            return False
        if await asyncio.to_thread(resources.is_there, self.folder.blob(resource.sha256), resource.size):
            return True
        await self.database.run(lambda db: resources.mark_damaged(db, resource.sha256))
        return False

    async def blob(self, resource: Resource) -> dict[str, str]:
        """Describe a stored blob to a worker. Raises `ServiceError` DATA_LOSS where it is damaged."""
        if not await self.is_whole(resource):
            raise ServiceError(
                "DATA_LOSS",
                f"the stored {resource.kind} is damaged",
                reason="BLOB_DAMAGED",
                subject=resource.sha256,
                hint="upload it again",
            )
        return jobs.blob(self.folder, resource)

    async def probe(self, task: str, parts: Mapping[str, Any], used: Sequence[Resource]) -> Mapping[str, Any]:
        """Run a task of `Probes` on stored resources; one that it finds damaged is marked. Raises like `Probes.run`."""
        try:
            return await self.probes.run(task, parts)
        except ServiceError as problem:
            if problem.reason == "BLOB_DAMAGED":
                for resource in used:
                    await damage.verify(self.database, self.folder, resource.sha256)
            raise

    async def convert(self, function: Callable[[], T], *, at_once: bool) -> T:
        """Carry out a conversion ``at_once``, or, where it is long, outside the event loop, where callers take turns.

        Several at once would not be faster, for Python runs one thread at a time, and starve the event loop.
        """
        if at_once:
            return function()
        async with self.converting.hold(self.caller.owner):
            return await asyncio.to_thread(function)

    def check_disk(self, size: int) -> None:
        """Raise `ServiceError` RESOURCE_EXHAUSTED where so many bytes more would leave too little room."""
        if self.folder.free_bytes() - size < self.config.min_free_bytes:
            raise disk_full()

    async def audit(self, audit_id: str) -> Audit:
        """Find an audit that the caller may see. Raises `ServiceError` NOT_FOUND."""
        visible = self.caller.visible
        found = await self.database.run(lambda db: audits.find(db, audit_id, visible))
        if found is None:
            raise not_found("audit", audit_id)
        return found


def check_sha256(sha256: str, field_name: str) -> None:
    """Raise `ServiceError` INVALID_ARGUMENT where it is not the hex of a SHA-256 in lower case."""
    if len(sha256) != 64 or not _HEX.issuperset(sha256):
        raise invalid(field_name, f"{field_name} must be 64 lower-case hexadecimal digits", reason="INVALID_SHA256")
