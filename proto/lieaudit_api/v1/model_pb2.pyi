import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from lieaudit_api.v1 import spec_pb2 as _spec_pb2
from lieaudit_api.v1 import upload_pb2 as _upload_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Model(_message.Message):
    __slots__ = ("sha256", "name", "format", "size_bytes", "created", "owner")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    name: str
    format: str
    size_bytes: int
    created: _timestamp_pb2.Timestamp
    owner: str
    def __init__(self, sha256: _Optional[str] = ..., name: _Optional[str] = ..., format: _Optional[str] = ..., size_bytes: _Optional[int] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., owner: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteModelRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class DeleteModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InspectModelRequest(_message.Message):
    __slots__ = ("sha256", "dataset_sha256", "spec", "layers")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    DATASET_SHA256_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    dataset_sha256: str
    spec: _spec_pb2.AuditSpec
    layers: bool
    def __init__(self, sha256: _Optional[str] = ..., dataset_sha256: _Optional[str] = ..., spec: _Optional[_Union[_spec_pb2.AuditSpec, _Mapping]] = ..., layers: bool = ...) -> None: ...

class Inspection(_message.Message):
    __slots__ = ("name", "sha256", "producer", "ir_version", "opsets", "input", "output", "outputs", "head", "precision", "batchable", "node_count", "parameter_count", "ops", "exact_share", "layers", "notes", "top1", "image_count", "head_why", "parts", "parts_why")
    class OpsetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    IR_VERSION_FIELD_NUMBER: _ClassVar[int]
    OPSETS_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    BATCHABLE_FIELD_NUMBER: _ClassVar[int]
    NODE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_COUNT_FIELD_NUMBER: _ClassVar[int]
    OPS_FIELD_NUMBER: _ClassVar[int]
    EXACT_SHARE_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    TOP1_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    HEAD_WHY_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    PARTS_WHY_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    producer: str
    ir_version: int
    opsets: _containers.ScalarMap[str, int]
    input: TensorInfo
    output: TensorInfo
    outputs: _containers.RepeatedCompositeFieldContainer[TensorInfo]
    head: str
    precision: str
    batchable: bool
    node_count: int
    parameter_count: int
    ops: _containers.RepeatedCompositeFieldContainer[OpCoverage]
    exact_share: float
    layers: _containers.RepeatedCompositeFieldContainer[LayerInfo]
    notes: _containers.RepeatedScalarFieldContainer[str]
    top1: float
    image_count: int
    head_why: str
    parts: _containers.RepeatedScalarFieldContainer[str]
    parts_why: str
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., producer: _Optional[str] = ..., ir_version: _Optional[int] = ..., opsets: _Optional[_Mapping[str, int]] = ..., input: _Optional[_Union[TensorInfo, _Mapping]] = ..., output: _Optional[_Union[TensorInfo, _Mapping]] = ..., outputs: _Optional[_Iterable[_Union[TensorInfo, _Mapping]]] = ..., head: _Optional[str] = ..., precision: _Optional[str] = ..., batchable: bool = ..., node_count: _Optional[int] = ..., parameter_count: _Optional[int] = ..., ops: _Optional[_Iterable[_Union[OpCoverage, _Mapping]]] = ..., exact_share: _Optional[float] = ..., layers: _Optional[_Iterable[_Union[LayerInfo, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ..., top1: _Optional[float] = ..., image_count: _Optional[int] = ..., head_why: _Optional[str] = ..., parts: _Optional[_Iterable[str]] = ..., parts_why: _Optional[str] = ...) -> None: ...

class TensorInfo(_message.Message):
    __slots__ = ("name", "shape", "dtype", "layout")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[str]
    dtype: str
    layout: str
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[str]] = ..., dtype: _Optional[str] = ..., layout: _Optional[str] = ...) -> None: ...

class OpCoverage(_message.Message):
    __slots__ = ("op", "count", "rule", "exact", "note")
    OP_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    op: str
    count: int
    rule: str
    exact: bool
    note: str
    def __init__(self, op: _Optional[str] = ..., count: _Optional[int] = ..., rule: _Optional[str] = ..., exact: bool = ..., note: _Optional[str] = ...) -> None: ...

class LayerInfo(_message.Message):
    __slots__ = ("name", "depth", "kind", "ops", "boundary", "layout")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OPS_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    name: str
    depth: int
    kind: str
    ops: _containers.RepeatedScalarFieldContainer[str]
    boundary: str
    layout: str
    def __init__(self, name: _Optional[str] = ..., depth: _Optional[int] = ..., kind: _Optional[str] = ..., ops: _Optional[_Iterable[str]] = ..., boundary: _Optional[str] = ..., layout: _Optional[str] = ...) -> None: ...
