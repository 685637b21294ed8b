"""Whether a report from a registry stands for an audit now: equal model, images, specification and versions."""

from __future__ import annotations

from lieaudit_api.v1 import report_pb2, spec_pb2

from lieaudit_client.sources import model_source

_VERSIONS = ("lieaudit", "onnxruntime", "onnx", "numpy", "provider", "torch")
_NO_MATTER = ("layerwise", "depth", "layouts", "threads", "budget_mib", "max_images")
"""Fields of a specification that change no number of a decision on the same images, but for the candidate's layers."""


def stands(earlier: report_pb2.Report, model: str, like: report_pb2.Report, asked: spec_pb2.AuditSpec) -> bool:
    """Say whether ``earlier`` is what an audit of ``model`` now would give.

    ``like`` is a report that was measured now on the same images, so it holds the versions and every default filled in;
    ``asked`` says what this model is asked for in its own way, its preprocessing.
    """
    expected = _comparable(like.spec)
    if asked.HasField("preprocessing"):
        expected.preprocessing.CopyFrom(asked.preprocessing)
    mine, now = earlier.environment, like.environment
    return (
        earlier.metric_version == like.metric_version
        and all(getattr(mine, name) == getattr(now, name) for name in _VERSIONS)
        and (earlier.data.sha256, earlier.data.count) == (like.data.sha256, like.data.count)
        and list(earlier.data.feeds) == list(like.data.feeds)
        and _comparable(earlier.spec) == expected
        and earlier.model.sha256 == model_source(model).sha256()
    )


def _comparable(spec: spec_pb2.AuditSpec) -> spec_pb2.AuditSpec:
    found = spec_pb2.AuditSpec()
    found.CopyFrom(spec)
    for name in _NO_MATTER:
        found.ClearField(name)
    return found
