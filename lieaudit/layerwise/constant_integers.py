"""Values of the small integer and boolean tensors of a graph: the shape arithmetic that exporters leave behind."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lieaudit.runtime.session import Session

_LARGEST = 65_536
_INTEGER = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}


def probe_integers(model: ir.Model, following: Collection[ir.Value]) -> dict[str, npt.NDArray[Any]]:
    """Run the graph at batch sizes 2 and 3 and return the integer tensors that are equal in both, by name.

    A start of a Slice or the indices of a Gather that the graph computes from its fixed sizes are constants in all but
    name; those that follow the batch differ between the runs. ``following`` are the tensors that follow the pixels:
    they are no constants, even where both runs agree.

    Raises
    ------
    ModelError
        The graph does not run.
    """
    copy = model.clone()
    graph = copy.graph
    names_following = {value.name for value in following}
    tensors = [
        value
        for node in graph
        for value in node.outputs
        if value.dtype in _INTEGER
        and value.name not in names_following
        and node.op_type != "Constant"
        and _small(value)
    ]
    if not tensors:
        return {}
    image = graph.inputs[0]
    assert image.shape is not None  # noqa: S101 - the normalised graph's contract
    names = [value.name or "" for value in tensors]
    graph.outputs[:] = tensors
    rng = np.random.default_rng(0)
    sizes = [tuple(d if isinstance(d, int) else batch for d in image.shape) for batch in (2, 3)]
    with Session(copy) as session:
        first, second = (
            session.run({image.name or "": rng.standard_normal(size).astype(np.float32)}, names) for size in sizes
        )
    return {name: a for name, a, b in zip(names, first, second, strict=True) if np.array_equal(a, b)}


def _small(value: ir.Value) -> bool:
    count = 1
    for size in value.shape or ():
        count *= size if isinstance(size, int) else _LARGEST + 1
    return value.shape is not None and count <= _LARGEST
