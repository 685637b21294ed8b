"""Outputs that hold what a graph selects: which boxes or points, and how many, jumps with the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from lieaudit.errors import ModelError
from lieaudit.graph.names import called
from lieaudit.graph.nodes import reads

_SELECTS = {"NonMaxSuppression"}


def refuse_selected(output: ir.Value, name: str) -> None:
    """Refuse an output that non-maximum suppression feeds; one that merely stands beside it is no concern.

    Raises
    ------
    ModelError
        OUTPUT_SELECTED, with the tensors that were selected from.
    """
    seen: set[ir.Node] = set()
    ahead = [output]
    while ahead:
        node = ahead.pop().producer()
        if node is None or node in seen:
            continue
        if node.op_type in _SELECTS and node.domain in {"", "ai.onnx"}:
            sources = [value.name for value in node.inputs[:2] if value is not None]
            raise ModelError(
                f"output {name!r} is made of what {called(node)} selects, which jumps with the image",
                reason="OUTPUT_SELECTED",
                subject=name,
                hint=f"audit what it selects from: {' or '.join(f'--output {source}' for source in sources)}",
            )
        seen.add(node)
        ahead += reads(node)


def size_varies(name: str, sizes: Sequence[tuple[int, ...]]) -> ModelError:
    """Return the refusal of an output that has another size for every image (OUTPUT_SIZE_VARIES)."""
    shown = " and ".join(dict.fromkeys(str(size) for size in sizes))
    return ModelError(
        f"output {name!r} has another size for every image: {shown}",
        reason="OUTPUT_SIZE_VARIES",
        subject=name,
        hint="choose a tensor of fixed size with --output, ahead of what selects boxes or points",
    )


def check_size(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raise `size_varies` where rows of an output are not of the size that the model was loaded with."""
    if math.prod(found[1:]) != math.prod(expected):
        raise size_varies(name, [(1, *expected), (1, *found[1:])])
