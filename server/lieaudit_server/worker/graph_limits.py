"""Limits on what a client's ONNX file may hold, checked before anything else reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from lieaudit.errors import ModelError


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """Most nodes (subgraphs and functions included), bytes of weights inside the file, and nesting of subgraphs."""

    nodes: int
    initializer_bytes: int
    nesting: int


def check(path: Path, limits: GraphLimits) -> None:
    """Parse the file and count. Raises `ModelError` where it exceeds a limit."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        return  # whoever reads it next says precisely what is wrong with it
    nodes = weights = 0
    pending: list[tuple[Sequence[onnx.NodeProto], Sequence[onnx.TensorProto], int]] = [
        (model.graph.node, model.graph.initializer, 1),
        *((function.node, (), 1) for function in model.functions),
    ]
    while pending:
        level_nodes, initializers, depth = pending.pop()
        nodes += len(level_nodes)
        weights += sum(tensor.ByteSize() for tensor in initializers)
        _compare("nodes", nodes, limits.nodes)
        _compare("bytes of weights", weights, limits.initializer_bytes)
        _compare("levels of subgraphs", depth, limits.nesting)
        for node in level_nodes:
            for attribute in node.attribute:
                weights += attribute.t.ByteSize() if attribute.HasField("t") else 0
                graphs = [attribute.g] if attribute.HasField("g") else []
                pending.extend((g.node, g.initializer, depth + 1) for g in [*graphs, *attribute.graphs])


def _compare(what: str, found: int, allowed: int) -> None:
    if found > allowed:
        raise ModelError(
            f"the graph has {found} {what}; this server allows {allowed}",
            reason="GRAPH_TOO_LARGE",
            subject=what,
            hint="ask the operator to raise the limit",
        )
