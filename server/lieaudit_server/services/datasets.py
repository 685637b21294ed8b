"""``lieaudit.v1.DatasetService``."""

from __future__ import annotations

from typing import Any

from lieaudit_api.v1 import dataset_pb2, dataset_pb2_grpc, upload_pb2

from lieaudit_server.conversions import timestamp
from lieaudit_server.services import paging
from lieaudit_server.services.context import Context
from lieaudit_server.services.uploads import Requests, Uploads, delete
from lieaudit_server.store import resources
from lieaudit_server.store.resources import Resource


class DatasetService(dataset_pb2_grpc.DatasetServiceServicer):  # type: ignore[misc]
    """Data sets: upload, list, delete."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._uploads = Uploads("dataset", context)

    async def GetUploadStatus(  # noqa: N802, D102
        self, request: upload_pb2.UploadStatusRequest, _context: Any
    ) -> upload_pb2.UploadStatus:
        return await self._uploads.status(request.sha256)

    async def UploadDataset(self, request: Requests, _context: Any) -> dataset_pb2.Dataset:  # noqa: N802, D102
        return _message(await self._uploads.receive(request))

    async def GetDataset(  # noqa: N802, D102
        self, request: dataset_pb2.GetDatasetRequest, _context: Any
    ) -> dataset_pb2.Dataset:
        return _message(await self._context.resource("dataset", request.sha256))

    async def ListDatasets(  # noqa: N802, D102
        self, request: dataset_pb2.ListDatasetsRequest, _context: Any
    ) -> dataset_pb2.ListDatasetsResponse:
        size, before, visible = (
            paging.size(request.page_size),
            paging.before(request.page_token),
            self._context.caller.visible,
        )
        found = await self._context.database.run(lambda db: resources.page(db, "dataset", visible, before, size))
        token = paging.next_token([r.number for r in found], size)
        return dataset_pb2.ListDatasetsResponse(datasets=map(_message, found), next_page_token=token)

    async def DeleteDataset(  # noqa: N802, D102
        self, request: dataset_pb2.DeleteDatasetRequest, _context: Any
    ) -> dataset_pb2.DeleteDatasetResponse:
        await delete("dataset", request.sha256, self._context)
        return dataset_pb2.DeleteDatasetResponse()


def _message(resource: Resource) -> dataset_pb2.Dataset:
    return dataset_pb2.Dataset(
        sha256=resource.sha256,
        name=resource.name,
        format=resource.format,
        size_bytes=resource.size,
        created=timestamp(resource.created),
        owner=resource.owner,
        image_count=resource.details["image_count"],
        has_labels=resource.details["has_labels"],
        dtype=resource.details["dtype"],
        image_shape=resource.details["image_shape"],
    )
