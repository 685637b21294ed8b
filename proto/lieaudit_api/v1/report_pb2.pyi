from google.protobuf import struct_pb2 as _struct_pb2
from lieaudit_api.v1 import spec_pb2 as _spec_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Report(_message.Message):
    __slots__ = ("schema", "metric_version", "model", "data", "environment", "spec", "results", "layerwise", "skipped", "status", "reasons", "timing", "pictures", "checks", "affine", "parts")
    class ResultsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: GeneratorResult
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[GeneratorResult, _Mapping]] = ...) -> None: ...
    class LayerwiseEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Layerwise
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Layerwise, _Mapping]] = ...) -> None: ...
    class PartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ReportPart
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ReportPart, _Mapping]] = ...) -> None: ...
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    METRIC_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    LAYERWISE_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    AFFINE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    schema: str
    metric_version: int
    model: ReportModel
    data: ReportData
    environment: Environment
    spec: _spec_pb2.AuditSpec
    results: _containers.MessageMap[str, GeneratorResult]
    layerwise: _containers.MessageMap[str, Layerwise]
    skipped: _containers.RepeatedCompositeFieldContainer[Skipped]
    status: str
    reasons: _containers.RepeatedScalarFieldContainer[str]
    timing: Timing
    pictures: _containers.RepeatedCompositeFieldContainer[Picture]
    checks: Checks
    affine: Affine
    parts: _containers.MessageMap[str, ReportPart]
    def __init__(self, schema: _Optional[str] = ..., metric_version: _Optional[int] = ..., model: _Optional[_Union[ReportModel, _Mapping]] = ..., data: _Optional[_Union[ReportData, _Mapping]] = ..., environment: _Optional[_Union[Environment, _Mapping]] = ..., spec: _Optional[_Union[_spec_pb2.AuditSpec, _Mapping]] = ..., results: _Optional[_Mapping[str, GeneratorResult]] = ..., layerwise: _Optional[_Mapping[str, Layerwise]] = ..., skipped: _Optional[_Iterable[_Union[Skipped, _Mapping]]] = ..., status: _Optional[str] = ..., reasons: _Optional[_Iterable[str]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., pictures: _Optional[_Iterable[_Union[Picture, _Mapping]]] = ..., checks: _Optional[_Union[Checks, _Mapping]] = ..., affine: _Optional[_Union[Affine, _Mapping]] = ..., parts: _Optional[_Mapping[str, ReportPart]] = ...) -> None: ...

class Affine(_message.Message):
    __slots__ = ("basis", "gram", "displacement", "eigenvalues", "worst", "best", "mean", "mean_ci95")
    BASIS_FIELD_NUMBER: _ClassVar[int]
    GRAM_FIELD_NUMBER: _ClassVar[int]
    DISPLACEMENT_FIELD_NUMBER: _ClassVar[int]
    EIGENVALUES_FIELD_NUMBER: _ClassVar[int]
    WORST_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    MEAN_CI95_FIELD_NUMBER: _ClassVar[int]
    basis: _containers.RepeatedScalarFieldContainer[str]
    gram: _containers.RepeatedCompositeFieldContainer[_struct_pb2.ListValue]
    displacement: _containers.RepeatedCompositeFieldContainer[_struct_pb2.ListValue]
    eigenvalues: _containers.RepeatedScalarFieldContainer[float]
    worst: AffineDirection
    best: AffineDirection
    mean: float
    mean_ci95: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, basis: _Optional[_Iterable[str]] = ..., gram: _Optional[_Iterable[_Union[_struct_pb2.ListValue, _Mapping]]] = ..., displacement: _Optional[_Iterable[_Union[_struct_pb2.ListValue, _Mapping]]] = ..., eigenvalues: _Optional[_Iterable[float]] = ..., worst: _Optional[_Union[AffineDirection, _Mapping]] = ..., best: _Optional[_Union[AffineDirection, _Mapping]] = ..., mean: _Optional[float] = ..., mean_ci95: _Optional[_Iterable[float]] = ...) -> None: ...

class AffineDirection(_message.Message):
    __slots__ = ("field", "lee", "ci95", "error_bar", "words", "bias")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    LEE_FIELD_NUMBER: _ClassVar[int]
    CI95_FIELD_NUMBER: _ClassVar[int]
    ERROR_BAR_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    field: _containers.RepeatedCompositeFieldContainer[_struct_pb2.ListValue]
    lee: float
    ci95: _containers.RepeatedScalarFieldContainer[float]
    error_bar: float
    words: str
    bias: float
    def __init__(self, field: _Optional[_Iterable[_Union[_struct_pb2.ListValue, _Mapping]]] = ..., lee: _Optional[float] = ..., ci95: _Optional[_Iterable[float]] = ..., error_bar: _Optional[float] = ..., words: _Optional[str] = ..., bias: _Optional[float] = ...) -> None: ...

class ReportPart(_message.Message):
    __slots__ = ("representation", "unit", "results", "source", "items", "size", "weights", "affine")
    class ResultsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: GeneratorResult
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[GeneratorResult, _Mapping]] = ...) -> None: ...
    REPRESENTATION_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    AFFINE_FIELD_NUMBER: _ClassVar[int]
    representation: str
    unit: str
    results: _containers.MessageMap[str, GeneratorResult]
    source: str
    items: int
    size: float
    weights: _containers.RepeatedScalarFieldContainer[float]
    affine: Affine
    def __init__(self, representation: _Optional[str] = ..., unit: _Optional[str] = ..., results: _Optional[_Mapping[str, GeneratorResult]] = ..., source: _Optional[str] = ..., items: _Optional[int] = ..., size: _Optional[float] = ..., weights: _Optional[_Iterable[float]] = ..., affine: _Optional[_Union[Affine, _Mapping]] = ...) -> None: ...

class Checks(_message.Message):
    __slots__ = ("fidelity", "head")
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    fidelity: Fidelity
    head: HeadCheck
    def __init__(self, fidelity: _Optional[_Union[Fidelity, _Mapping]] = ..., head: _Optional[_Union[HeadCheck, _Mapping]] = ...) -> None: ...

class Fidelity(_message.Message):
    __slots__ = ("deviation", "allowed", "images", "ok", "by")
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    deviation: float
    allowed: float
    images: int
    ok: bool
    by: str
    def __init__(self, deviation: _Optional[float] = ..., allowed: _Optional[float] = ..., images: _Optional[int] = ..., ok: bool = ..., by: _Optional[str] = ...) -> None: ...

class HeadCheck(_message.Message):
    __slots__ = ("chosen", "why")
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    chosen: str
    why: str
    def __init__(self, chosen: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class ReportModel(_message.Message):
    __slots__ = ("sha256", "name", "producer", "opset", "input", "output", "precision", "head", "notes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    OPSET_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    name: str
    producer: str
    opset: int
    input: ReportTensor
    output: ReportTensor
    precision: str
    head: str
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sha256: _Optional[str] = ..., name: _Optional[str] = ..., producer: _Optional[str] = ..., opset: _Optional[int] = ..., input: _Optional[_Union[ReportTensor, _Mapping]] = ..., output: _Optional[_Union[ReportTensor, _Mapping]] = ..., precision: _Optional[str] = ..., head: _Optional[str] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class ReportTensor(_message.Message):
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

class ReportData(_message.Message):
    __slots__ = ("sha256", "count", "name", "top1", "feeds")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TOP1_FIELD_NUMBER: _ClassVar[int]
    FEEDS_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    count: int
    name: str
    top1: float
    feeds: _containers.RepeatedCompositeFieldContainer[ReportFeed]
    def __init__(self, sha256: _Optional[str] = ..., count: _Optional[int] = ..., name: _Optional[str] = ..., top1: _Optional[float] = ..., feeds: _Optional[_Iterable[_Union[ReportFeed, _Mapping]]] = ...) -> None: ...

class ReportFeed(_message.Message):
    __slots__ = ("name", "dtype", "shape", "source", "per_image", "sha256", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    PER_IMAGE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    source: str
    per_image: bool
    sha256: str
    text: str
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., source: _Optional[str] = ..., per_image: bool = ..., sha256: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Environment(_message.Message):
    __slots__ = ("lieaudit", "onnxruntime", "provider", "device", "onnx", "numpy", "python", "threads", "fallback_ops", "torch")
    class FallbackOpsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    LIEAUDIT_FIELD_NUMBER: _ClassVar[int]
    ONNXRUNTIME_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ONNX_FIELD_NUMBER: _ClassVar[int]
    NUMPY_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_OPS_FIELD_NUMBER: _ClassVar[int]
    TORCH_FIELD_NUMBER: _ClassVar[int]
    lieaudit: str
    onnxruntime: str
    provider: str
    device: str
    onnx: str
    numpy: str
    python: str
    threads: int
    fallback_ops: _containers.ScalarMap[str, int]
    torch: str
    def __init__(self, lieaudit: _Optional[str] = ..., onnxruntime: _Optional[str] = ..., provider: _Optional[str] = ..., device: _Optional[str] = ..., onnx: _Optional[str] = ..., numpy: _Optional[str] = ..., python: _Optional[str] = ..., threads: _Optional[int] = ..., fallback_ops: _Optional[_Mapping[str, int]] = ..., torch: _Optional[str] = ...) -> None: ...

class GeneratorResult(_message.Message):
    __slots__ = ("lee", "ci95", "median", "quantiles", "mean_abs", "relative", "per_image", "method", "error_bar", "per_image_error", "step", "noise", "agreement", "status", "reasons", "unit", "relative_ci95", "secant_px", "geometric_mean", "top_share", "response", "lee_per_px2", "combined_from", "follow", "follow_ci95")
    class QuantilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    LEE_FIELD_NUMBER: _ClassVar[int]
    CI95_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    MEAN_ABS_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_FIELD_NUMBER: _ClassVar[int]
    PER_IMAGE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ERROR_BAR_FIELD_NUMBER: _ClassVar[int]
    PER_IMAGE_ERROR_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_CI95_FIELD_NUMBER: _ClassVar[int]
    SECANT_PX_FIELD_NUMBER: _ClassVar[int]
    GEOMETRIC_MEAN_FIELD_NUMBER: _ClassVar[int]
    TOP_SHARE_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    LEE_PER_PX2_FIELD_NUMBER: _ClassVar[int]
    COMBINED_FROM_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_CI95_FIELD_NUMBER: _ClassVar[int]
    lee: float
    ci95: _containers.RepeatedScalarFieldContainer[float]
    median: float
    quantiles: _containers.ScalarMap[str, float]
    mean_abs: float
    relative: float
    per_image: _containers.RepeatedScalarFieldContainer[float]
    method: str
    error_bar: float
    per_image_error: _containers.RepeatedScalarFieldContainer[float]
    step: float
    noise: float
    agreement: Agreement
    status: str
    reasons: _containers.RepeatedScalarFieldContainer[str]
    unit: str
    relative_ci95: _containers.RepeatedScalarFieldContainer[float]
    secant_px: float
    geometric_mean: float
    top_share: float
    response: float
    lee_per_px2: float
    combined_from: _containers.RepeatedScalarFieldContainer[str]
    follow: float
    follow_ci95: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, lee: _Optional[float] = ..., ci95: _Optional[_Iterable[float]] = ..., median: _Optional[float] = ..., quantiles: _Optional[_Mapping[str, float]] = ..., mean_abs: _Optional[float] = ..., relative: _Optional[float] = ..., per_image: _Optional[_Iterable[float]] = ..., method: _Optional[str] = ..., error_bar: _Optional[float] = ..., per_image_error: _Optional[_Iterable[float]] = ..., step: _Optional[float] = ..., noise: _Optional[float] = ..., agreement: _Optional[_Union[Agreement, _Mapping]] = ..., status: _Optional[str] = ..., reasons: _Optional[_Iterable[str]] = ..., unit: _Optional[str] = ..., relative_ci95: _Optional[_Iterable[float]] = ..., secant_px: _Optional[float] = ..., geometric_mean: _Optional[float] = ..., top_share: _Optional[float] = ..., response: _Optional[float] = ..., lee_per_px2: _Optional[float] = ..., combined_from: _Optional[_Iterable[str]] = ..., follow: _Optional[float] = ..., follow_ci95: _Optional[_Iterable[float]] = ...) -> None: ...

class Agreement(_message.Message):
    __slots__ = ("method", "images", "deviation", "allowed", "agrees", "lee", "verdict")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    AGREES_FIELD_NUMBER: _ClassVar[int]
    LEE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    method: str
    images: int
    deviation: float
    allowed: float
    agrees: bool
    lee: float
    verdict: str
    def __init__(self, method: _Optional[str] = ..., images: _Optional[int] = ..., deviation: _Optional[float] = ..., allowed: _Optional[float] = ..., agrees: bool = ..., lee: _Optional[float] = ..., verdict: _Optional[str] = ...) -> None: ...

class Layerwise(_message.Message):
    __slots__ = ("segments", "completeness", "method", "by_kind", "by_depth", "cancellations", "merged", "status", "reasons")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    COMPLETENESS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    BY_KIND_FIELD_NUMBER: _ClassVar[int]
    BY_DEPTH_FIELD_NUMBER: _ClassVar[int]
    CANCELLATIONS_FIELD_NUMBER: _ClassVar[int]
    MERGED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    completeness: float
    method: str
    by_kind: _containers.RepeatedCompositeFieldContainer[KindTotal]
    by_depth: _containers.RepeatedCompositeFieldContainer[DepthTotal]
    cancellations: _containers.RepeatedCompositeFieldContainer[Cancellation]
    merged: _containers.RepeatedCompositeFieldContainer[Skipped]
    status: str
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., completeness: _Optional[float] = ..., method: _Optional[str] = ..., by_kind: _Optional[_Iterable[_Union[KindTotal, _Mapping]]] = ..., by_depth: _Optional[_Iterable[_Union[DepthTotal, _Mapping]]] = ..., cancellations: _Optional[_Iterable[_Union[Cancellation, _Mapping]]] = ..., merged: _Optional[_Iterable[_Union[Skipped, _Mapping]]] = ..., status: _Optional[str] = ..., reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("name", "ops", "kind", "lee", "norm", "share", "lee_ci95", "error_bar", "commutes", "boundary", "layout", "subnetwork", "depth")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OPS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LEE_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    LEE_CI95_FIELD_NUMBER: _ClassVar[int]
    ERROR_BAR_FIELD_NUMBER: _ClassVar[int]
    COMMUTES_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    SUBNETWORK_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    ops: _containers.RepeatedScalarFieldContainer[str]
    kind: str
    lee: float
    norm: float
    share: float
    lee_ci95: _containers.RepeatedScalarFieldContainer[float]
    error_bar: float
    commutes: bool
    boundary: str
    layout: str
    subnetwork: float
    depth: int
    def __init__(self, name: _Optional[str] = ..., ops: _Optional[_Iterable[str]] = ..., kind: _Optional[str] = ..., lee: _Optional[float] = ..., norm: _Optional[float] = ..., share: _Optional[float] = ..., lee_ci95: _Optional[_Iterable[float]] = ..., error_bar: _Optional[float] = ..., commutes: bool = ..., boundary: _Optional[str] = ..., layout: _Optional[str] = ..., subnetwork: _Optional[float] = ..., depth: _Optional[int] = ...) -> None: ...

class KindTotal(_message.Message):
    __slots__ = ("kind", "segments", "lee", "norm", "share")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    LEE_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    segments: int
    lee: float
    norm: float
    share: float
    def __init__(self, kind: _Optional[str] = ..., segments: _Optional[int] = ..., lee: _Optional[float] = ..., norm: _Optional[float] = ..., share: _Optional[float] = ...) -> None: ...

class DepthTotal(_message.Message):
    __slots__ = ("depth", "share", "lee")
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    LEE_FIELD_NUMBER: _ClassVar[int]
    depth: float
    share: float
    lee: float
    def __init__(self, depth: _Optional[float] = ..., share: _Optional[float] = ..., lee: _Optional[float] = ...) -> None: ...

class Cancellation(_message.Message):
    __slots__ = ("first", "second", "inner")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    SECOND_FIELD_NUMBER: _ClassVar[int]
    INNER_FIELD_NUMBER: _ClassVar[int]
    first: str
    second: str
    inner: float
    def __init__(self, first: _Optional[str] = ..., second: _Optional[str] = ..., inner: _Optional[float] = ...) -> None: ...

class Skipped(_message.Message):
    __slots__ = ("what", "why")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    what: str
    why: str
    def __init__(self, what: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("seconds", "rows", "rows_per_second")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    rows: float
    rows_per_second: float
    def __init__(self, seconds: _Optional[float] = ..., rows: _Optional[float] = ..., rows_per_second: _Optional[float] = ...) -> None: ...

class Picture(_message.Message):
    __slots__ = ("image", "generator", "png", "tangent_png", "lee")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    TANGENT_PNG_FIELD_NUMBER: _ClassVar[int]
    LEE_FIELD_NUMBER: _ClassVar[int]
    image: int
    generator: str
    png: bytes
    tangent_png: bytes
    lee: float
    def __init__(self, image: _Optional[int] = ..., generator: _Optional[str] = ..., png: _Optional[bytes] = ..., tangent_png: _Optional[bytes] = ..., lee: _Optional[float] = ...) -> None: ...
