"""Values for the inputs of a graph beside the image: sizes, thresholds, masks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lieaudit.errors import SpecError
from lieaudit.report import ReportFeed

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)  # fmt: skip
MAX_FEEDS = 32
_TEXT = 120
"""Characters of a value that a report shows."""
MAX_BYTES = 2**20
"""Of all values of a specification together; larger ones, as masks of every image, belong into the data set."""


@dataclass(frozen=True, slots=True)
class Feed:
    """One array, hashable and comparable: ``data`` holds its elements, little-endian, the last axis fastest."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, value: npt.ArrayLike, name: str = "", field: str = "feeds") -> Self:
        """Take a number, a list of them, or an array.

        Raises
        ------
        SpecError
            INVALID_FEED: no plain array of booleans, integers or floats, or NaN in it.
        """
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, OverflowError) as problem:
            raise invalid(name, "it is no array: its rows have different lengths", field=field) from problem
        if array.dtype.name not in DTYPES:
            raise invalid(name, f"it holds {array.dtype}, not booleans, integers or floats", field=field)
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise invalid(name, "it holds NaN", field=field)
        plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        return cls(array.dtype.name, tuple(array.shape), plain.tobytes())

    def array(self) -> npt.NDArray[Any]:
        """Return the array."""
        return np.frombuffer(self.data, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; ``data`` is base64."""
        return {"dtype": self.dtype, "shape": list(self.shape), "data": base64.b64encode(self.data).decode()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str = "", field: str = "feeds") -> Self:
        """Read the JSON form. Raises `SpecError` INVALID_FEED where it is none."""
        dtype, shape = values.get("dtype"), values.get("shape", ())
        if dtype not in DTYPES or not set(values) <= {"dtype", "shape", "data"}:
            raise invalid(name, f"its dtype {dtype!r:.40} is not one of {', '.join(DTYPES)}", field=field)
        try:
            sizes = tuple(int(size) for size in shape)
            data = base64.b64decode(values.get("data", ""), validate=True)
        except (ValueError, TypeError, binascii.Error) as problem:
            raise invalid(name, "its shape or data cannot be read", field=field) from problem
        if min(sizes, default=0) < 0 or math.prod(sizes) * np.dtype(dtype).itemsize != len(data):
            raise invalid(name, f"{len(data)} bytes are no {dtype} array of shape {sizes}", field=field)
        return cls.of(cls(dtype, sizes, data).array(), name, field)


def read_feeds(values: Mapping[str, Any], field: str = "feeds") -> dict[str, Feed]:
    """Take every value of a field of a specification: a `Feed`, its JSON form, or what `Feed.of` takes.

    Raises
    ------
    SpecError
        INVALID_FEED: one of them is unusable, or there are more than `MAX_FEEDS` or `MAX_BYTES`.
    """
    if len(values) > MAX_FEEDS:
        raise invalid("", f"{len(values)} values are given, {MAX_FEEDS} is the limit", field=field)
    found = {}
    for name, value in values.items():
        if isinstance(value, Feed):
            found[name] = value
        else:
            read = Feed.from_dict if isinstance(value, Mapping) else Feed.of
            found[name] = read(value, name, field)
    total = sum(len(feed.data) for feed in found.values())
    if total > MAX_BYTES:
        largest = max(found, key=lambda name: len(found[name].data))
        raise invalid(
            largest,
            f"the values of {field} take {total} bytes, {MAX_BYTES} is the limit",
            f"store it in the .npz of the images, as an array named {largest!r}" if field == "feeds" else "",
            field,
        )
    return found


def invalid(name: str, problem: str, hint: str = "", field: str = "feeds") -> SpecError:
    """Return the error of an unusable value."""
    subject = f"{field}.{name}" if name else field
    return SpecError(f"{subject}: {problem}", reason="INVALID_FEED", subject=subject, hint=hint)


@dataclass(frozen=True, slots=True)
class Further:
    """What reaches the model beside the images.

    Attributes
    ----------
    values
        By name of the audited graph's input: (N, …), one row per image. What is the same for all images is a constant
        of the graph.
    feeds
        What the report says of every value that was fed.
    given
        Every value as the original graph takes it, by its input's name, and whether it holds one row per image.
    """

    values: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    feeds: tuple[ReportFeed, ...] = ()
    given: Mapping[str, tuple[npt.NDArray[Any], bool]] = field(default_factory=dict)

    def rows(self, indices: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
        """Return the values of some images: (n, …) by name."""
        return {name: values[list(indices)] for name, values in self.values.items()}


def described(name: str, array: npt.NDArray[Any], source: str, *, per_image: bool) -> ReportFeed:
    """Return what the report says of a value as the graph takes it."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return ReportFeed(
        name=name,
        dtype=array.dtype.name,
        shape=tuple(array.shape),
        source=source,
        per_image=per_image,
        sha256=hashlib.sha256(plain.tobytes()).hexdigest(),
        text=np.array2string(array, separator=", ", threshold=8, edgeitems=3).replace("\n", "")[:_TEXT],
    )
