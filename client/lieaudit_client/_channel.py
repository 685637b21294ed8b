"""The stubs of the interface by service name; they serve synchronous and asyncio channels alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf import wrappers_pb2
from lieaudit_api.v1 import audit_pb2_grpc, dataset_pb2_grpc, model_pb2_grpc

Stubs = Mapping[str, Any]


class HealthStub:
    """``grpc.health.v1.Health`` without grpcio-health-checking, whose releases pin narrow windows of protobuf.

    Its request holds one string and its response one enum, both in field 1, as do the well-known wrapper types.
    """

    def __init__(self, channel: Any) -> None:
        self.Check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=wrappers_pb2.StringValue.SerializeToString,
            response_deserializer=wrappers_pb2.Int32Value.FromString,
        )


HEALTH_SERVING = 1

SERVICES: Mapping[str, Callable[[Any], Any]] = {
    "AuditService": audit_pb2_grpc.AuditServiceStub,
    "DatasetService": dataset_pb2_grpc.DatasetServiceStub,
    "ModelService": model_pb2_grpc.ModelServiceStub,
    "Health": HealthStub,
}
