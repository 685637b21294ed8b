"""``lieaudit.v1.DatasetService``."""

from __future__ import annotations

from typing import Any

from lieaudit_api.v1 import dataset_pb2, dataset_pb2_grpc

from lieaudit_server.services import stored
from lieaudit_server.services.uploads import Requests
from lieaudit_server.store.resources import Resource


class DatasetService(stored.StoredService, dataset_pb2_grpc.DatasetServiceServicer):  # type: ignore[misc]
    """Data sets: upload, list, delete."""

    kind = "dataset"

    async def UploadDataset(self, request: Requests, _context: Any) -> dataset_pb2.Dataset:  # noqa: N802, D102
        return _message(await self._uploads.receive(request))

    async def GetDataset(  # noqa: N802, D102
        self, request: dataset_pb2.GetDatasetRequest, _context: Any
    ) -> dataset_pb2.Dataset:
        return _message(await self._find(request.sha256))

    async def ListDatasets(  # noqa: N802, D102
        self, request: dataset_pb2.ListDatasetsRequest, _context: Any
    ) -> dataset_pb2.ListDatasetsResponse:
        found, token = await self._page(request)
        return dataset_pb2.ListDatasetsResponse(datasets=map(_message, found), next_page_token=token)

    async def DeleteDataset(  # noqa: N802, D102
        self, request: dataset_pb2.DeleteDatasetRequest, _context: Any
    ) -> dataset_pb2.DeleteDatasetResponse:
        await self._delete(request.sha256)
        return dataset_pb2.DeleteDatasetResponse()


def _message(resource: Resource) -> dataset_pb2.Dataset:
    details = {name: resource.details[name] for name in ("image_count", "has_labels", "dtype", "image_shape")}
    return dataset_pb2.Dataset(**stored.fields(resource), **details)
