"""Giving a graph to onnxruntime, whatever its weights' size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

# protobuf cannot serialise 2 GiB; larger weights go to a file beside the graph
_INLINE_BYTES = 1 << 30


@contextmanager
def serialised(model: ir.Model) -> Iterator[bytes | str]:
    """Return what an `onnxruntime.InferenceSession` is made from: bytes, or a path that lasts as long as the context.

    A session keeps what it needs of the files; on disk they are gone with the context.
    """
    if _weight_bytes(model) <= _INLINE_BYTES:
        yield ir.to_proto(model).SerializeToString()
        return
    with tempfile.TemporaryDirectory(prefix="lieaudit-") as folder:
        path = Path(folder, "model.onnx")
        ir.save(model, path, external_data="model.data")
        yield str(path)


def _weight_bytes(model: ir.Model) -> int:
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
