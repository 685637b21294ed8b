"""The audit specification as its protobuf message, from a mapping with the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from lieaudit_api.v1 import spec_pb2

from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.feeds import to_tensor
from lieaudit_client.parts import anchors_of
from lieaudit_client.preprocessing import parse_preprocessing
from lieaudit_client.suggestions import split_names

Specification = spec_pb2.AuditSpec | Mapping[str, Any] | None


def to_spec(spec: Specification) -> spec_pb2.AuditSpec:
    """Return the message; what is absent takes the service's documented default.

    Parameters
    ----------
    spec
        The message itself, a mapping of its field names (``preprocessing`` may be a preset's name or inline text,
        ``generators`` names in one text, the values of ``feeds``, ``custom`` and ``anchors`` numbers, lists or arrays;
        anchors that a part names and that are not given are read from the file of that name), or None for all defaults.

    Raises
    ------
    InvalidInputError
        ``INVALID_SPEC``: an unknown name or a value of the wrong type. ``INVALID_FEED``: no value for an input. Ranges
        and choices are the service's to judge.
    """
    if isinstance(spec, spec_pb2.AuditSpec):
        return spec
    if not isinstance(spec, Mapping | None):
        raise InvalidInputError(
            f"the specification is a {type(spec).__name__}, not a mapping or a lieaudit.v1.AuditSpec",
            reason="INVALID_SPEC",
            subject="spec",
            hint="of a lieaudit.AuditSpec give to_dict()",
        )
    values = dict(spec or {})
    if isinstance(values.get("generators"), str):
        values["generators"] = split_names(values["generators"])
    preprocessing = values.pop("preprocessing", None)
    tensors = {field: values.pop(field, None) for field in ("feeds", "custom", "anchors")}
    try:
        found = json_format.ParseDict(values, spec_pb2.AuditSpec())
    except json_format.ParseError as problem:
        raise InvalidInputError(
            f"the specification is unusable: {problem}", reason="INVALID_SPEC", subject="spec"
        ) from problem
    for field, given in tensors.items():
        if not isinstance(given, Mapping | None):
            raise InvalidInputError(
                f"{field}: it is no mapping of a name to its value", reason="INVALID_SPEC", subject=field
            )
        for name, value in (given or {}).items():
            getattr(found, field)[str(name)].CopyFrom(to_tensor(value, str(name)))
    for name, tensor in anchors_of(found.parts, found.anchors).items():
        found.anchors[name].CopyFrom(tensor)
    if isinstance(preprocessing, str):
        found.preprocessing.CopyFrom(parse_preprocessing(preprocessing))
    elif isinstance(preprocessing, spec_pb2.Preprocessing):
        found.preprocessing.CopyFrom(preprocessing)
    elif preprocessing is not None:
        try:
            json_format.ParseDict(preprocessing, found.preprocessing)
        except json_format.ParseError as problem:
            raise InvalidInputError(
                f"the preprocessing is unusable: {problem}", reason="INVALID_SPEC", subject="preprocessing"
            ) from problem
    return found
