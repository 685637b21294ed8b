"""``lieaudit.v1.ModelService``."""

from __future__ import annotations

import dataclasses
from typing import Any

from lieaudit_api.v1 import model_pb2, model_pb2_grpc

from lieaudit.spec import AuditSpec
from lieaudit_server import bounds
from lieaudit_server.conversions import into, spec_from_proto, within_memory
from lieaudit_server.errors import ServiceError
from lieaudit_server.services import stored
from lieaudit_server.services.context import LARGE
from lieaudit_server.services.uploads import Requests
from lieaudit_server.store.resources import Resource


class ModelService(stored.StoredService, model_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    """Models: upload, list, delete, inspect."""

    kind = "model"

    async def UploadModel(self, request: Requests, _context: Any) -> model_pb2.Model:  # noqa: N802, D102
        return _message(await self._uploads.receive(request))

    async def GetModel(self, request: model_pb2.GetModelRequest, _context: Any) -> model_pb2.Model:  # noqa: N802, D102
        return _message(await self._find(request.sha256))

    async def ListModels(  # noqa: N802, D102
        self, request: model_pb2.ListModelsRequest, _context: Any
    ) -> model_pb2.ListModelsResponse:
        found, token = await self._page(request)
        return model_pb2.ListModelsResponse(models=map(_message, found), next_page_token=token)

    async def DeleteModel(  # noqa: N802, D102
        self, request: model_pb2.DeleteModelRequest, _context: Any
    ) -> model_pb2.DeleteModelResponse:
        await self._delete(request.sha256)
        return model_pb2.DeleteModelResponse()

    async def InspectModel(  # noqa: N802, D102
        self, request: model_pb2.InspectModelRequest, _context: Any
    ) -> model_pb2.Inspection:
        model = await self._find(request.sha256)
        if model.format not in {"onnx", "tar"}:
            raise ServiceError(
                "FAILED_PRECONDITION",
                f"only ONNX models can be inspected, this one is {model.format}",
                reason="NOT_ONNX",
                subject="sha256",
            )
        spec = await self._context.convert(lambda: _spec(request), at_once=request.ByteSize() < LARGE)
        threads = self._context.config.default_threads
        # Checks are not scheduled, so they use no GPU whatever the audit is to run on.
        spec = dataclasses.replace(spec, provider="cpu", threads=threads)
        spec = within_memory(spec, self._context.config.probe_memory_mib)
        parts: dict[str, Any] = {
            "model": await self._context.blob(model),
            "spec": spec.to_dict(),
            "threads": threads,
            "layers": request.layers,
        }
        used = [model]
        if request.dataset_sha256:
            dataset = await self._context.resource("dataset", request.dataset_sha256, "dataset_sha256")
            parts["dataset"] = await self._context.blob(dataset)
            used.append(dataset)
        result = await self._context.probe("inspect", parts, used)
        return into(model_pb2.Inspection(), result["inspection"])


def _spec(request: model_pb2.InspectModelRequest) -> AuditSpec:
    bounds.check(request)
    return spec_from_proto(request.spec) if request.HasField("spec") else AuditSpec()


def _message(resource: Resource) -> model_pb2.Model:
    return model_pb2.Model(**stored.fields(resource))
