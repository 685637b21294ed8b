"""Resumable uploads, the same for models and data sets."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lieaudit_api.v1 import upload_pb2

from lieaudit.errors import LieauditError
from lieaudit_server.errors import ServiceError, invalid
from lieaudit_server.services.context import Context, check_sha256
from lieaudit_server.store import garbage, resources
from lieaudit_server.store.resources import Resource, Upload

FORMATS = {"model": ("onnx", "tar", "pt2", "safetensors"), "dataset": ("npz", "tar", "zip")}
_CHUNK_BYTES = 2**20
_COMMIT_BYTES = 8 * 2**20
_BUSY_SECONDS = 5.0
_PACE_SECONDS = 30.0
_NAME_CHARACTERS = 200

Requests = AsyncIterator[upload_pb2.UploadRequest]


@dataclass(slots=True, eq=False)
class _Stream:
    """The stream that may write an upload; one whose client has been silent for a while can be taken over.

    ``active`` is the time of the last chunk, infinite while the server itself is at work: writing, syncing, checking.
    """

    active: float = field(default_factory=time.monotonic)

    def is_busy(self) -> bool:
        return time.monotonic() - self.active < _BUSY_SECONDS


class Uploads:
    """Receives blobs of one kind (``model`` or ``dataset``)."""

    def __init__(self, kind: str, context: Context) -> None:
        self._kind = kind
        self._context = context
        self._streams: dict[tuple[str, str], _Stream] = {}

    async def status(self, sha256: str) -> upload_pb2.UploadStatus:
        """Say how much of an upload is durable. Raises `ServiceError`."""
        check_sha256(sha256, "sha256")
        owner = self._context.caller.owner
        found, upload = await self._known(sha256, owner)
        if found is not None and await self._context.is_whole(found):
            return upload_pb2.UploadStatus(sha256=sha256, committed_bytes=found.size, complete=True)
        return upload_pb2.UploadStatus(sha256=sha256, committed_bytes=0 if upload is None else upload.committed)

    async def abort(self, sha256: str) -> None:
        """Forget a half-done upload and its bytes; a stream that sends it is ended. Raises `ServiceError`."""
        check_sha256(sha256, "sha256")
        owner = self._context.caller.owner
        self._streams.pop((owner, sha256), None)
        _, upload = await self._known(sha256, owner)
        if upload is not None:
            await self._context.background.run(self._drop(upload))

    async def receive(self, requests: Requests) -> Resource:
        """Take an upload stream to its end, check the file and store it.

        A stream that breaks off leaves what it sent, durably. Raises `ServiceError` and, for a file that is not what
        it should be, `LieauditError`.
        """
        header = await self._header(requests)
        owner = self._context.caller.owner
        known, _ = await self._known(header.sha256, owner)
        if known is not None and await self._context.is_whole(known):
            return known
        key = (owner, header.sha256)
        other = self._streams.get(key)
        if other is not None and other.is_busy():
            raise ServiceError(
                "ABORTED",
                "another stream is uploading this file",
                reason="UPLOAD_IN_PROGRESS",
                subject=header.sha256,
                hint="wait for it, or try again once it has stopped",
                retry_seconds=_BUSY_SECONDS,
            )
        self._streams[key] = stream = _Stream()
        try:
            upload = await self._open(header, owner)
            writer = _Writer(self._context.folder.partial / upload.file, upload.committed)
            try:
                await self._write(requests, upload, writer, stream)
            finally:
                # Also when the stream breaks off: what arrived is kept, and the next stream goes on from here.
                stream.active = math.inf  # nobody may take the file over while it is synced, however long that takes
                await self._context.background.run(self._close(upload, writer, stream))
            return await self._finish(header, upload, writer)
        finally:
            if self._streams.get(key) is stream:
                del self._streams[key]

    async def _known(self, sha256: str, owner: str) -> tuple[Resource | None, Upload | None]:
        """Return the owner's resource and half-done upload; one whose bytes are no longer there begins again."""
        found, upload = await self._context.database.run(
            lambda db: (
                resources.find(db, self._kind, sha256, owner),
                resources.find_upload(db, owner, self._kind, sha256),
            )
        )
        if upload is not None and not await asyncio.to_thread(self._has_bytes, upload):
            await self._context.background.run(self._drop(upload))
            upload = None
        return found, upload

    def _has_bytes(self, upload: Upload) -> bool:
        path = self._context.folder.partial / upload.file
        return not upload.committed or (path.exists() and path.stat().st_size >= upload.committed)

    async def _header(self, requests: Requests) -> upload_pb2.UploadHeader:
        first = await self._next(requests)
        if first is None or first.WhichOneof("part") != "header":
            raise invalid("header", "the first message of an upload must be its header", reason="UPLOAD_HEADER_MISSING")
        header = first.header
        check_sha256(header.sha256, "header.sha256")
        formats = FORMATS[self._kind]
        if header.format not in formats:
            raise invalid("header.format", f"format {header.format[:40]!r} is not one of {', '.join(formats)}")
        config = self._context.config
        limit = config.max_model_bytes if self._kind == "model" else config.max_dataset_bytes
        if header.size_bytes > limit:
            raise invalid(
                "header.size_bytes",
                f"{header.size_bytes} bytes; this server takes at most {limit}",
                reason="UPLOAD_TOO_LARGE",
                hint="ask the operator to raise the limit",
            )
        if header.size_bytes == 0:
            raise invalid("header.size_bytes", "the file is empty (0 bytes)", reason="EMPTY_FILE")
        if len(header.name) > _NAME_CHARACTERS:
            raise invalid("header.name", f"the name is longer than {_NAME_CHARACTERS} characters")
        return header

    async def _next(self, requests: Requests) -> upload_pb2.UploadRequest | None:
        try:
            async with asyncio.timeout(self._context.config.upload_idle_seconds):
                return await anext(requests, None)
        except TimeoutError as problem:
            raise ServiceError(
                "DEADLINE_EXCEEDED", "the upload stream was idle for too long", reason="UPLOAD_IDLE", hint="resume it"
            ) from problem

    async def _open(self, header: upload_pb2.UploadHeader, owner: str) -> Upload:
        _, upload = await self._known(header.sha256, owner)
        used = await self._context.database.run(lambda db: resources.used_bytes(db, owner))
        committed = 0 if upload is None else upload.committed
        if header.offset != committed:
            raise ServiceError(
                "OUT_OF_RANGE",
                f"offset {header.offset}, but {committed} bytes are committed",
                reason="UPLOAD_OFFSET",
                subject="header.offset",
                hint="ask GetUploadStatus and go on from committed_bytes",
            )
        if upload is not None:
            if upload.size != header.size_bytes:
                await self._drop(upload)
                raise invalid("header.size_bytes", "not the size this upload began with", reason="UPLOAD_SIZE_CHANGED")
            return upload
        self._check_room(header.size_bytes, used)
        most = self._context.config.max_uploads_per_owner
        if await self._context.database.run(lambda db: resources.count_uploads(db, owner)) >= most:
            raise ServiceError(
                "RESOURCE_EXHAUSTED",
                f"you have {most} half-done uploads",
                reason="TOO_MANY_UPLOADS",
                hint="finish some of them, or forget them with AbortUpload",
            )
        upload = Upload(owner, self._kind, header.sha256, header.size_bytes, 0, secrets.token_hex(16))
        await self._context.database.run(lambda db: resources.begin_upload(db, upload))
        return upload

    def _check_room(self, size: int, used: int) -> None:
        quota = self._context.config.quota_bytes_per_owner
        if quota and used + size > quota:
            raise ServiceError(
                "RESOURCE_EXHAUSTED",
                f"{used} of your {quota} bytes are used; {size} more do not fit",
                reason="QUOTA_EXCEEDED",
                hint="delete models or data sets",
            )
        self._context.check_disk(size)

    async def _write(self, requests: Requests, upload: Upload, writer: _Writer, stream: _Stream) -> None:
        await asyncio.to_thread(writer.open)
        committed = writer.size
        pace = _Pace(self._context.config.upload_bytes_per_second)
        while writer.size < upload.size:
            request = await self._next(requests)
            pace.check(writer.size)
            if request is None:
                break
            self._check_current(upload, stream)
            self._check_chunk(request, upload, writer)
            stream.active = math.inf
            await asyncio.to_thread(writer.write, request.chunk)
            self._context.metrics.uploaded.labels(self._kind).inc(len(request.chunk))
            if writer.size - committed >= _COMMIT_BYTES:
                committed = await self._commit(upload, writer)
            stream.active = time.monotonic()
        self._check_current(upload, stream)
        if writer.size < upload.size:
            raise ServiceError(
                "ABORTED",
                f"the stream ended after {writer.size} of {upload.size} bytes, which are kept",
                reason="UPLOAD_INCOMPLETE",
                subject=upload.sha256,
                hint="ask GetUploadStatus and go on from committed_bytes",
            )

    async def _close(self, upload: Upload, writer: _Writer, stream: _Stream) -> None:
        try:
            if writer.size > upload.committed and self._streams.get((upload.owner, upload.sha256)) is stream:
                await self._commit(upload, writer)
        finally:
            await asyncio.to_thread(writer.close)

    def _check_current(self, upload: Upload, stream: _Stream) -> None:
        if self._streams.get((upload.owner, upload.sha256)) is not stream:
            raise ServiceError("ABORTED", "another stream took this upload over", reason="UPLOAD_SUPERSEDED")

    def _check_chunk(self, request: upload_pb2.UploadRequest, upload: Upload, writer: _Writer) -> None:
        if request.WhichOneof("part") != "chunk":
            raise invalid("chunk", "only chunks may follow the header")
        if len(request.chunk) > _CHUNK_BYTES:
            raise invalid("chunk", f"a chunk of {len(request.chunk)} bytes; at most 1 MiB", reason="CHUNK_TOO_LARGE")
        if writer.size + len(request.chunk) > upload.size:
            raise invalid("chunk", "more bytes than header.size_bytes", reason="UPLOAD_TOO_LONG")

    async def _commit(self, upload: Upload, writer: _Writer) -> int:
        size = await asyncio.to_thread(writer.sync)
        await self._context.database.run(lambda db: resources.commit_upload(db, upload.file, size))
        return size

    async def _finish(self, header: upload_pb2.UploadHeader, upload: Upload, writer: _Writer) -> Resource:
        drop = self._context.background.run
        if writer.digest() != header.sha256:
            await drop(self._drop(upload))
            raise invalid(
                "header.sha256",
                "the checksum of what arrived is not the one announced; nothing was kept",
                reason="CHECKSUM_MISMATCH",
                hint="upload it again from the start",
            )
        try:
            details = await self._check(header, upload)
        except (ServiceError, LieauditError) as problem:
            if isinstance(problem, LieauditError) or problem.code == "INVALID_ARGUMENT":
                await drop(self._drop(upload))
            raise
        return await self._context.background.run(self._store(header, upload, details))

    async def _store(self, header: upload_pb2.UploadHeader, upload: Upload, details: Mapping[str, Any]) -> Resource:
        folder = self._context.folder
        stored = await self._context.database.run(
            lambda db: resources.finish_upload(
                db, folder, upload, name=header.name, format_=header.format, details=details
            )
        )
        await self._context.database.run(lambda db: garbage.sweep(db, folder))
        return stored

    async def _check(self, header: upload_pb2.UploadHeader, upload: Upload) -> Mapping[str, Any]:
        path = self._context.folder.partial / upload.file
        blob = {"path": str(path), "sha256": header.sha256, "name": header.name, "format": header.format}
        return await self._context.probes.run(f"check_{self._kind}", {self._kind: blob})

    async def _drop(self, upload: Upload) -> None:
        folder = self._context.folder
        await self._context.database.run(lambda db: resources.drop_upload(db, folder, upload.file))
        await self._context.database.run(lambda db: garbage.sweep(db, folder))


class _Pace:
    """Ends a stream that is alive but hardly moves: it would hold its place for ever."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._since = time.monotonic()
        self._size = 0

    def check(self, size: int) -> None:
        """Look at the size reached. Raises `ServiceError`."""
        seconds = time.monotonic() - self._since
        if seconds < _PACE_SECONDS:
            return
        if size - self._size < self._rate * seconds:
            raise ServiceError(
                "DEADLINE_EXCEEDED",
                f"the upload stream brought less than {self._rate} bytes a second",
                reason="UPLOAD_IDLE",
                hint="resume it",
            )
        self._since, self._size = time.monotonic(), size


class _Writer:
    """Appends to a partial file and hashes it; `open` cuts it to what was committed and hashes that.

    The lock keeps a write that a cancelled call left running in its thread apart from the last `sync`.
    """

    def __init__(self, path: Path, committed: int) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self._lock = threading.Lock()
        self.size = committed

    def open(self) -> None:
        with self._lock:
            self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
            self._file.truncate(self.size)
            while chunk := self._file.read(_COMMIT_BYTES):
                self._hash.update(chunk)

    def write(self, chunk: bytes) -> None:
        with self._lock:
            if self._file is not None:
                self._file.write(chunk)
                self._hash.update(chunk)
                self.size += len(chunk)

    def sync(self) -> int:
        with self._lock:
            if self._file is not None:
                self._file.flush()
                os.fdatasync(self._file.fileno())
            return self.size

    def digest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
