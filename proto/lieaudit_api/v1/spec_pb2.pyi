from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AuditSpec(_message.Message):
    __slots__ = ("generators", "method", "head", "convention", "interpolation", "padding", "layerwise", "depth", "layouts", "input", "output", "input_layout", "preprocessing", "max_images", "seed", "bootstrap", "relative_images", "provider", "allow_fallback", "threads", "budget_mib", "step", "torch_source", "torch_factory", "torch_weights", "classes", "class_offset", "secant_px", "feeds", "custom", "size", "parts", "anchors")
    class LayoutsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class FeedsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
    class CustomEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
    class AnchorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
    GENERATORS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CONVENTION_FIELD_NUMBER: _ClassVar[int]
    INTERPOLATION_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    LAYERWISE_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    LAYOUTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    INPUT_LAYOUT_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BOOTSTRAP_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_IMAGES_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    ALLOW_FALLBACK_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MIB_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TORCH_SOURCE_FIELD_NUMBER: _ClassVar[int]
    TORCH_FACTORY_FIELD_NUMBER: _ClassVar[int]
    TORCH_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    CLASS_OFFSET_FIELD_NUMBER: _ClassVar[int]
    SECANT_PX_FIELD_NUMBER: _ClassVar[int]
    FEEDS_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    ANCHORS_FIELD_NUMBER: _ClassVar[int]
    generators: _containers.RepeatedScalarFieldContainer[str]
    method: str
    head: str
    convention: str
    interpolation: str
    padding: str
    layerwise: str
    depth: int
    layouts: _containers.ScalarMap[str, str]
    input: str
    output: str
    input_layout: str
    preprocessing: Preprocessing
    max_images: int
    seed: int
    bootstrap: int
    relative_images: int
    provider: str
    allow_fallback: bool
    threads: int
    budget_mib: int
    step: float
    torch_source: str
    torch_factory: str
    torch_weights: str
    classes: _containers.RepeatedScalarFieldContainer[str]
    class_offset: int
    secant_px: float
    feeds: _containers.MessageMap[str, Tensor]
    custom: _containers.MessageMap[str, Tensor]
    size: _containers.RepeatedScalarFieldContainer[int]
    parts: _containers.RepeatedScalarFieldContainer[str]
    anchors: _containers.MessageMap[str, Tensor]
    def __init__(self, generators: _Optional[_Iterable[str]] = ..., method: _Optional[str] = ..., head: _Optional[str] = ..., convention: _Optional[str] = ..., interpolation: _Optional[str] = ..., padding: _Optional[str] = ..., layerwise: _Optional[str] = ..., depth: _Optional[int] = ..., layouts: _Optional[_Mapping[str, str]] = ..., input: _Optional[str] = ..., output: _Optional[str] = ..., input_layout: _Optional[str] = ..., preprocessing: _Optional[_Union[Preprocessing, _Mapping]] = ..., max_images: _Optional[int] = ..., seed: _Optional[int] = ..., bootstrap: _Optional[int] = ..., relative_images: _Optional[int] = ..., provider: _Optional[str] = ..., allow_fallback: bool = ..., threads: _Optional[int] = ..., budget_mib: _Optional[int] = ..., step: _Optional[float] = ..., torch_source: _Optional[str] = ..., torch_factory: _Optional[str] = ..., torch_weights: _Optional[str] = ..., classes: _Optional[_Iterable[str]] = ..., class_offset: _Optional[int] = ..., secant_px: _Optional[float] = ..., feeds: _Optional[_Mapping[str, Tensor]] = ..., custom: _Optional[_Mapping[str, Tensor]] = ..., size: _Optional[_Iterable[int]] = ..., parts: _Optional[_Iterable[str]] = ..., anchors: _Optional[_Mapping[str, Tensor]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Preprocessing(_message.Message):
    __slots__ = ("scale", "mean", "std", "order", "resize", "crop", "name")
    SCALE_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    CROP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    scale: float
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    order: str
    resize: int
    crop: int
    name: str
    def __init__(self, scale: _Optional[float] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., order: _Optional[str] = ..., resize: _Optional[int] = ..., crop: _Optional[int] = ..., name: _Optional[str] = ...) -> None: ...
