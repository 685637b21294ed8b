"""The plain calls of the interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from lieaudit_api.v1 import audit_pb2, dataset_pb2, gate_pb2, model_pb2

from lieaudit_client.specification import Specification, to_spec

R = TypeVar("R")
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Unary(Generic[R]):
    """A unary call that is answered by an R."""

    service: str
    method: str
    message: Message


@dataclass(frozen=True, slots=True)
class Listing(Generic[R]):
    """A paged list; ``field`` of each page holds its Rs."""

    service: str
    method: str
    message: Any  # a request with page_token
    field: str


def get_server_info() -> Unary[audit_pb2.ServerInfo]:
    """Version, providers, queue and limits."""
    return Unary("AuditService", "GetServerInfo", audit_pb2.GetServerInfoRequest())


def get_model(sha256: str) -> Unary[model_pb2.Model]:
    """One model."""
    return Unary("ModelService", "GetModel", model_pb2.GetModelRequest(sha256=sha256))


def delete_model(sha256: str) -> Unary[model_pb2.DeleteModelResponse]:
    """Delete a model."""
    return Unary("ModelService", "DeleteModel", model_pb2.DeleteModelRequest(sha256=sha256))


def list_models() -> Listing[model_pb2.Model]:
    """All models."""
    return Listing("ModelService", "ListModels", model_pb2.ListModelsRequest(page_size=_PAGE), "models")


def inspect_model(
    model_sha256: str, dataset_sha256: str, spec: Specification, *, layers: bool
) -> Unary[model_pb2.Inspection]:
    """Inspect a model."""
    request = model_pb2.InspectModelRequest(
        sha256=model_sha256, dataset_sha256=dataset_sha256, spec=to_spec(spec), layers=layers
    )
    return Unary("ModelService", "InspectModel", request)


def get_dataset(sha256: str) -> Unary[dataset_pb2.Dataset]:
    """One dataset."""
    return Unary("DatasetService", "GetDataset", dataset_pb2.GetDatasetRequest(sha256=sha256))


def delete_dataset(sha256: str) -> Unary[dataset_pb2.DeleteDatasetResponse]:
    """Delete a dataset."""
    return Unary("DatasetService", "DeleteDataset", dataset_pb2.DeleteDatasetRequest(sha256=sha256))


def list_datasets() -> Listing[dataset_pb2.Dataset]:
    """All datasets."""
    return Listing("DatasetService", "ListDatasets", dataset_pb2.ListDatasetsRequest(page_size=_PAGE), "datasets")


def get_audit(audit_id: str) -> Unary[audit_pb2.Audit]:
    """One audit."""
    return Unary("AuditService", "GetAudit", audit_pb2.GetAuditRequest(id=audit_id))


def cancel_audit(audit_id: str) -> Unary[audit_pb2.Audit]:
    """Cancel an audit."""
    return Unary("AuditService", "CancelAudit", audit_pb2.CancelAuditRequest(id=audit_id))


def delete_audit(audit_id: str) -> Unary[audit_pb2.DeleteAuditResponse]:
    """Delete an audit that has ended."""
    return Unary("AuditService", "DeleteAudit", audit_pb2.DeleteAuditRequest(id=audit_id))


def create_audit(request: audit_pb2.CreateAuditRequest) -> Unary[audit_pb2.Audit]:
    """Create an audit."""
    return Unary("AuditService", "CreateAudit", request)


def list_audits(state: str) -> Listing[audit_pb2.Audit]:
    """All audits, of one state where it is given."""
    return Listing("AuditService", "ListAudits", audit_pb2.ListAuditsRequest(page_size=_PAGE, state=state), "audits")


def evaluate(request: gate_pb2.EvaluateRequest) -> Unary[gate_pb2.Decision]:
    """Judge reports by a policy."""
    return Unary("AuditService", "Evaluate", request)


def check_policy(policy_yaml: str) -> Unary[gate_pb2.PolicyCheck]:
    """Read a policy."""
    return Unary("AuditService", "CheckPolicy", gate_pb2.CheckPolicyRequest(policy_yaml=policy_yaml))
