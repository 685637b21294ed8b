"""What models and data sets have in common: they are uploaded, found, listed and deleted alike."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from lieaudit_api.v1 import upload_pb2

from lieaudit_server.conversions import timestamp
from lieaudit_server.services import paging
from lieaudit_server.services.context import Context
from lieaudit_server.services.uploads import Uploads
from lieaudit_server.store import garbage, resources
from lieaudit_server.store.resources import Resource


class ListRequest(Protocol):
    """A request for a page."""

    page_size: int
    page_token: str


class StoredService:
    """Base of the services for one kind of resource (``model`` or ``dataset``)."""

    kind: ClassVar[str]

    def __init__(self, context: Context) -> None:
        self._context = context
        self._uploads = Uploads(self.kind, context)

    async def GetUploadStatus(  # noqa: N802, D102
        self, request: upload_pb2.UploadStatusRequest, _context: Any
    ) -> upload_pb2.UploadStatus:
        return await self._uploads.status(request.sha256)

    async def AbortUpload(  # noqa: N802, D102
        self, request: upload_pb2.AbortUploadRequest, _context: Any
    ) -> upload_pb2.AbortUploadResponse:
        await self._uploads.abort(request.sha256)
        return upload_pb2.AbortUploadResponse()

    async def _find(self, sha256: str) -> Resource:
        return await self._context.resource(self.kind, sha256)

    async def _page(self, request: ListRequest) -> tuple[list[Resource], str]:
        """Return a page of what the caller may see, newest first, and the token of the next."""
        size, before = paging.size(request.page_size), paging.before(request.page_token)
        visible = self._context.caller.visible
        found = await self._context.database.run(lambda db: resources.page(db, self.kind, visible, before, size))
        return found, paging.next_token([resource.number for resource in found], size)

    async def _delete(self, sha256: str) -> None:
        """Delete a resource and, where nothing needs it any more, its blob. Raises `ServiceError`."""
        found = await self._find(sha256)
        folder = self._context.folder
        await self._context.database.run(lambda db: resources.delete(db, folder, found))
        await self._context.database.run(lambda db: garbage.sweep(db, folder))


def fields(resource: Resource) -> dict[str, Any]:
    """Return the fields that the messages of models and data sets share."""
    return {
        "sha256": resource.sha256,
        "name": resource.name,
        "format": resource.format,
        "size_bytes": resource.size,
        "created": timestamp(resource.created),
        "owner": resource.owner,
    }
