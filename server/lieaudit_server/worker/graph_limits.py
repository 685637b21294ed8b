"""Limits on what a client's ONNX file may hold, checked before anything else reads it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from lieaudit.errors import ModelError

_CALLS = 100
_ENTRIES, _ENTRIES_ALWAYS = 20, 100_000
"""Messages and texts of a file (names, attributes, shapes) for each node that it may have; and allowed to any file."""
_DEEP = 32
"""Levels of messages, below which nothing is counted: gRPC's and protobuf's parsers stop at 100."""
_Fields = dict[int, Any]  # by number: the descriptor of the message, None for a text


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """Most nodes (subgraphs and functions included, as often as they are called), bytes of weights and nesting."""

    nodes: int
    initializer_bytes: int
    nesting: int


def check(path: Path, limits: GraphLimits) -> None:
    """Parse the file and count. Raises `ModelError` where it exceeds a limit."""
    content = path.read_bytes()
    most = max(_ENTRIES * limits.nodes, _ENTRIES_ALWAYS)
    _compare("entries", entries(content, most), most)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        return  # whoever reads it next says precisely what is wrong with it
    counted = _Counted(model, limits)
    try:
        for function in model.functions:
            counted.level(function.node, (), 1)
        counted.level(model.graph.node, model.graph.initializer, 1)
    except RecursionError:
        _compare("levels of functions and subgraphs", sys.getrecursionlimit(), 0)
    _compare("bytes of weights", counted.weights, limits.initializer_bytes)


def entries(content: bytes, most: int) -> int:
    """Count the messages and texts of an ONNX file from its wire format, up to a little over ``most``.

    Two bytes of a file are an empty node, which takes a hundred once it is parsed: this comes first. Where the bytes
    are no messages, what was counted until there; the parser says what is wrong with them.
    """
    known: dict[str, _Fields] = {}

    def fields(descriptor: Any) -> _Fields:
        if descriptor.full_name not in known:
            known[descriptor.full_name] = {
                field.number: field.message_type
                for field in descriptor.fields
                if field.type in {field.TYPE_MESSAGE, field.TYPE_STRING}
                or (field.type == field.TYPE_BYTES and field.is_repeated)
            }
        return known[descriptor.full_name]

    waiting: list[tuple[int, int, Any, int]] = [(0, len(content), onnx.ModelProto.DESCRIPTOR, 0)]
    total = 0
    while waiting and total <= most:
        position, end, descriptor, depth = waiting.pop()
        kinds = fields(descriptor)
        try:
            while position < end and total <= most:
                key, position = _varint(content, position)
                wire = key & 7
                if wire == 0:
                    _, position = _varint(content, position)
                elif wire in _FIXED:
                    position += _FIXED[wire]
                elif wire == 2:
                    length, position = _varint(content, position)
                    if key >> 3 in kinds:
                        total += 1
                        inner = kinds[key >> 3]
                        if inner is not None and length and depth < _DEEP:
                            waiting.append((position, min(position + length, end), inner, depth + 1))
                    position += length
                else:
                    break
        except IndexError:
            continue
    return total


_FIXED = {1: 8, 5: 4}
"""Bytes of a value by its wire type."""


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Return a number and where it ends. Raises `IndexError` at the end of the bytes."""
    value = content[position]
    position += 1
    if value < 0x80:
        return value, position
    value &= 0x7F
    for shift in range(7, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise IndexError


class _Counted:
    """Counts nodes as they are once every function is put in the place of its calls, without doing that."""

    def __init__(self, model: onnx.ModelProto, limits: GraphLimits) -> None:
        self._limits = limits
        self._functions = {(f.domain, f.name): f.node for f in model.functions}
        self._sizes: dict[tuple[str, str], int] = {}
        self._open: set[tuple[str, str]] = set()
        self.weights = 0

    def level(self, nodes: Sequence[onnx.NodeProto], initializers: Sequence[onnx.TensorProto], depth: int) -> int:
        """Return the nodes of a graph, its subgraphs and the functions it calls. Raises `ModelError` beyond a limit."""
        _compare("levels of subgraphs", depth, self._limits.nesting)
        self.weights += sum(tensor.ByteSize() for tensor in initializers)
        _compare("bytes of weights", self.weights, self._limits.initializer_bytes)
        total = 0
        for node in nodes:
            total += 1 + self._called((node.domain, node.op_type))
            for attribute in node.attribute:
                self.weights += attribute.t.ByteSize() if attribute.HasField("t") else 0
                graphs = [attribute.g] if attribute.HasField("g") else []
                total += sum(self.level(g.node, g.initializer, depth + 1) for g in [*graphs, *attribute.graphs])
            _compare("nodes", total, self._limits.nodes)
        return total

    def _called(self, name: tuple[str, str]) -> int:
        nodes = self._functions.get(name)
        if nodes is None:
            return 0
        if name in self._open:
            raise ModelError(
                f"the function {name[1]} calls itself", reason="INVALID_MODEL", subject=name[1], hint="export it again"
            )
        if name not in self._sizes:
            _compare("levels of functions", len(self._open) + 1, _CALLS)
            self._open.add(name)
            before = self.weights
            self._sizes[name] = self.level(nodes, (), 1)
            self.weights = before  # they are counted where the function stands
            self._open.remove(name)
        return self._sizes[name]


def _compare(what: str, found: int, allowed: int) -> None:
    if found > allowed:
        raise ModelError(
            f"the graph has {found} {what}; this server allows {allowed}",
            reason="GRAPH_TOO_LARGE",
            subject=what,
            hint="ask the operator to raise the limit",
        )
