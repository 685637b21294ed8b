from lieaudit_api.v1 import report_pb2 as _report_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReportSource(_message.Message):
    __slots__ = ("audit_id", "report", "report_json")
    AUDIT_ID_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    REPORT_JSON_FIELD_NUMBER: _ClassVar[int]
    audit_id: str
    report: _report_pb2.Report
    report_json: bytes
    def __init__(self, audit_id: _Optional[str] = ..., report: _Optional[_Union[_report_pb2.Report, _Mapping]] = ..., report_json: _Optional[bytes] = ...) -> None: ...

class EvaluateRequest(_message.Message):
    __slots__ = ("candidate", "baseline", "policy_yaml", "datasets", "power", "own_preprocessing", "first_version")
    class DatasetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ReportSource
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ReportSource, _Mapping]] = ...) -> None: ...
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    POLICY_YAML_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    POWER_FIELD_NUMBER: _ClassVar[int]
    OWN_PREPROCESSING_FIELD_NUMBER: _ClassVar[int]
    FIRST_VERSION_FIELD_NUMBER: _ClassVar[int]
    candidate: ReportSource
    baseline: ReportSource
    policy_yaml: str
    datasets: _containers.MessageMap[str, ReportSource]
    power: bool
    own_preprocessing: bool
    first_version: str
    def __init__(self, candidate: _Optional[_Union[ReportSource, _Mapping]] = ..., baseline: _Optional[_Union[ReportSource, _Mapping]] = ..., policy_yaml: _Optional[str] = ..., datasets: _Optional[_Mapping[str, ReportSource]] = ..., power: bool = ..., own_preprocessing: bool = ..., first_version: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("verdict", "rules", "reasons", "policy_sha256", "candidate_sha256", "baseline_sha256", "on_inconclusive", "next_images", "confidence", "headline", "secant_px", "false_fail_rate")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    POLICY_SHA256_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_SHA256_FIELD_NUMBER: _ClassVar[int]
    BASELINE_SHA256_FIELD_NUMBER: _ClassVar[int]
    ON_INCONCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    NEXT_IMAGES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    HEADLINE_FIELD_NUMBER: _ClassVar[int]
    SECANT_PX_FIELD_NUMBER: _ClassVar[int]
    FALSE_FAIL_RATE_FIELD_NUMBER: _ClassVar[int]
    verdict: str
    rules: _containers.RepeatedCompositeFieldContainer[RuleOutcome]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    policy_sha256: str
    candidate_sha256: str
    baseline_sha256: str
    on_inconclusive: str
    next_images: int
    confidence: float
    headline: str
    secant_px: float
    false_fail_rate: float
    def __init__(self, verdict: _Optional[str] = ..., rules: _Optional[_Iterable[_Union[RuleOutcome, _Mapping]]] = ..., reasons: _Optional[_Iterable[str]] = ..., policy_sha256: _Optional[str] = ..., candidate_sha256: _Optional[str] = ..., baseline_sha256: _Optional[str] = ..., on_inconclusive: _Optional[str] = ..., next_images: _Optional[int] = ..., confidence: _Optional[float] = ..., headline: _Optional[str] = ..., secant_px: _Optional[float] = ..., false_fail_rate: _Optional[float] = ...) -> None: ...

class CheckPolicyRequest(_message.Message):
    __slots__ = ("policy_yaml",)
    POLICY_YAML_FIELD_NUMBER: _ClassVar[int]
    policy_yaml: str
    def __init__(self, policy_yaml: _Optional[str] = ...) -> None: ...

class PolicyCheck(_message.Message):
    __slots__ = ("problems", "generators", "layerwise", "needs_baseline", "datasets", "min_images", "max_images", "on_inconclusive", "rules", "waivers", "relative", "secant_px", "parts")
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    GENERATORS_FIELD_NUMBER: _ClassVar[int]
    LAYERWISE_FIELD_NUMBER: _ClassVar[int]
    NEEDS_BASELINE_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    MIN_IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    ON_INCONCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    WAIVERS_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_FIELD_NUMBER: _ClassVar[int]
    SECANT_PX_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    problems: _containers.RepeatedCompositeFieldContainer[PolicyProblem]
    generators: _containers.RepeatedScalarFieldContainer[str]
    layerwise: str
    needs_baseline: bool
    datasets: _containers.RepeatedScalarFieldContainer[str]
    min_images: int
    max_images: int
    on_inconclusive: str
    rules: int
    waivers: _containers.RepeatedCompositeFieldContainer[Waiver]
    relative: bool
    secant_px: float
    parts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, problems: _Optional[_Iterable[_Union[PolicyProblem, _Mapping]]] = ..., generators: _Optional[_Iterable[str]] = ..., layerwise: _Optional[str] = ..., needs_baseline: bool = ..., datasets: _Optional[_Iterable[str]] = ..., min_images: _Optional[int] = ..., max_images: _Optional[int] = ..., on_inconclusive: _Optional[str] = ..., rules: _Optional[int] = ..., waivers: _Optional[_Iterable[_Union[Waiver, _Mapping]]] = ..., relative: bool = ..., secant_px: _Optional[float] = ..., parts: _Optional[_Iterable[str]] = ...) -> None: ...

class PolicyProblem(_message.Message):
    __slots__ = ("line", "field", "message", "hint")
    LINE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    line: int
    field: str
    message: str
    hint: str
    def __init__(self, line: _Optional[int] = ..., field: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class RuleOutcome(_message.Message):
    __slots__ = ("id", "generator", "kind", "statistic", "outcome", "value", "limit", "interval", "baseline_value", "p_value", "adjusted_p_value", "sentence", "waiver", "images_needed", "line", "candidate_value", "images", "numerical_error", "reason", "subject", "part")
    ID_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATISTIC_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    BASELINE_VALUE_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    ADJUSTED_P_VALUE_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    WAIVER_FIELD_NUMBER: _ClassVar[int]
    IMAGES_NEEDED_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_VALUE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    NUMERICAL_ERROR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    id: str
    generator: str
    kind: str
    statistic: str
    outcome: str
    value: float
    limit: float
    interval: _containers.RepeatedScalarFieldContainer[float]
    baseline_value: float
    p_value: float
    adjusted_p_value: float
    sentence: str
    waiver: Waiver
    images_needed: int
    line: int
    candidate_value: float
    images: int
    numerical_error: float
    reason: str
    subject: str
    part: str
    def __init__(self, id: _Optional[str] = ..., generator: _Optional[str] = ..., kind: _Optional[str] = ..., statistic: _Optional[str] = ..., outcome: _Optional[str] = ..., value: _Optional[float] = ..., limit: _Optional[float] = ..., interval: _Optional[_Iterable[float]] = ..., baseline_value: _Optional[float] = ..., p_value: _Optional[float] = ..., adjusted_p_value: _Optional[float] = ..., sentence: _Optional[str] = ..., waiver: _Optional[_Union[Waiver, _Mapping]] = ..., images_needed: _Optional[int] = ..., line: _Optional[int] = ..., candidate_value: _Optional[float] = ..., images: _Optional[int] = ..., numerical_error: _Optional[float] = ..., reason: _Optional[str] = ..., subject: _Optional[str] = ..., part: _Optional[str] = ...) -> None: ...

class Waiver(_message.Message):
    __slots__ = ("owner", "reason", "expires", "expired")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    owner: str
    reason: str
    expires: str
    expired: bool
    def __init__(self, owner: _Optional[str] = ..., reason: _Optional[str] = ..., expires: _Optional[str] = ..., expired: bool = ...) -> None: ...
