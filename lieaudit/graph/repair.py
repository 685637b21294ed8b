"""What onnxruntime forgives in a file and the ONNX checker does not: put in order before anybody else reads it.

Exporters leave graphs without a name, nodes in the order in which they came to mind, outputs whose shape nobody
inferred. onnxruntime runs them all. None of it changes the function, so it is mended, and what a reader might miss is
said.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx

from lieaudit.errors import ModelError

_NAMELESS = "graph"
_OPSET_OF_CUSTOM = 1
"""Version of a domain that nodes use and nothing imports; onnxruntime takes its newest, custom domains have one."""


_IR_OF_FREE_INITIALIZERS = 4
"""Older versions want every initializer listed among the inputs, too; newer ones may, so the number can be raised."""


def repair(proto: onnx.ModelProto) -> list[str]:
    """Mend a parsed model in place; give what to say of it.

    Raises
    ------
    ModelError
        GRAPH_CYCLE: no order of the nodes lets each run after those it reads. INVALID_MODEL: a tensor that is read and
        that nothing makes, or that two nodes make. ZIPMAP_OUTPUT: the only outputs are lists of dictionaries.
    """
    notes = _drop_dictionaries(proto.graph)
    _settle_domains(proto, proto.graph.node)
    moved = 0
    for graph in _graphs(proto.graph):
        graph.name = graph.name or _NAMELESS
        moved += _sort(graph, graph.name)
    for function in proto.functions:
        _settle_domains(function, function.node)
        moved += _sort(function, function.name)
        moved += sum(_sort(graph, graph.name) for node in function.node for graph in _nested(node))
    _check_names(proto.graph, set())
    if moved:
        notes.append("the nodes were not in an order in which they can run, and were sorted")
    if proto.ir_version < _IR_OF_FREE_INITIALIZERS:
        listed = {value.name for value in proto.graph.input}
        if any(tensor.name not in listed for tensor in proto.graph.initializer):
            proto.ir_version = _IR_OF_FREE_INITIALIZERS
    return notes


@contextmanager
def outlined(graph: onnx.GraphProto) -> Iterator[None]:
    """Add an empty type or shape where an input or output has none, which the ONNX checker insists on, for a while.

    Afterwards they are as they were: unknown, to be inferred and measured.
    """
    typeless = [value for value in graph.output if not value.HasField("type")]
    for value in typeless:
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    shapeless = [
        value
        for value in (*graph.input, *graph.output)
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")
    ]
    for value in shapeless:
        value.type.tensor_type.shape.SetInParent()
    try:
        yield
    finally:
        for value in shapeless:
            value.type.tensor_type.ClearField("shape")
        for value in typeless:
            value.ClearField("type")


def _settle_domains(owner: onnx.ModelProto | onnx.FunctionProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Spell the default domain one way and import every domain once.

    Of several versions the last counts, as it does for onnxruntime.
    """
    versions = {_plain(opset.domain): opset.version for opset in owner.opset_import}
    for node in _all_nodes(nodes):
        node.domain = _plain(node.domain)
        if node.domain:
            versions.setdefault(node.domain, _OPSET_OF_CUSTOM)
    if list(versions.items()) != [(opset.domain, opset.version) for opset in owner.opset_import]:
        del owner.opset_import[:]
        owner.opset_import.extend(onnx.helper.make_opsetid(*item) for item in versions.items())


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _drop_dictionaries(graph: onnx.GraphProto) -> list[str]:
    """Leave out outputs that are lists of dictionaries (ZipMap's), where another one is a tensor."""
    dictionaries = [value for value in graph.output if _holds_a_map(value.type)]
    if not dictionaries:
        return []
    producers = {name: node for node in graph.node for name in node.output}
    first = producers.get(dictionaries[0].name)
    by, source = (first.op_type, first.input[0]) if first is not None and first.input else ("a map", "")
    if not any(_is_float(value.type) for value in graph.output):
        raise ModelError(
            f"output {dictionaries[0].name!r} is a list of dictionaries made by {by}, not a tensor",
            reason="ZIPMAP_OUTPUT",
            subject=dictionaries[0].name,
            hint="export without ZipMap (skl2onnx: options={'zipmap': False}), "
            f"or make its input {source!r} the output",
        )
    names = {value.name for value in dictionaries}
    count = len(graph.output)
    graph.output.extend([value for value in graph.output if value.name not in names])
    del graph.output[:count]
    if not any(name in names for node in graph.node for name in _reads(node)):
        _reorder(graph, [i for i, node in enumerate(graph.node) if names.isdisjoint(node.output)])
    return [f"output {name!r} is a list of dictionaries ({by}) and was left out" for name in sorted(names)]


def _holds_a_map(kind: onnx.TypeProto) -> bool:
    if kind.HasField("sequence_type"):
        return _holds_a_map(kind.sequence_type.elem_type)
    return kind.HasField("map_type")


def _is_float(kind: onnx.TypeProto) -> bool:
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return kind.tensor_type.elem_type in floats


def _sort(owner: onnx.GraphProto | onnx.FunctionProto, name: str) -> bool:
    """Put the nodes of one graph in an order in which they can run, in place; say whether it was needed.

    The order stays as near to the file's as it can: of the nodes that are ready the first one runs.
    """
    nodes = list(owner.node)
    made_by = {output: i for i, node in enumerate(nodes) for output in node.output if output}
    waits = [{made_by[read] for read in _reads(node) if read in made_by} - {i} for i, node in enumerate(nodes)]
    if all(max(after, default=-1) < i for i, after in enumerate(waits)):
        return False
    readers: list[list[int]] = [[] for _ in nodes]
    for i, after in enumerate(waits):
        for source in after:
            readers[source].append(i)
    left = [len(after) for after in waits]
    ready = [i for i, count in enumerate(left) if not count]
    order = []
    while ready:
        current = heapq.heappop(ready)
        order.append(current)
        for reader in readers[current]:
            left[reader] -= 1
            if not left[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = nodes[next(i for i, count in enumerate(left) if count)]
        raise ModelError(
            f"{_shown(stuck)} in graph {name!r} waits for what it makes itself",
            reason="GRAPH_CYCLE",
            subject=stuck.name or stuck.output[0],
            hint="export the model again: its nodes form a cycle, and no runtime can order them",
        )
    _reorder(owner, order)
    return True


def _check_names(graph: onnx.GraphProto, outside: set[str]) -> None:
    """Refuse tensors that nothing makes, or two nodes, by name; ``outside`` are those of the graphs around."""
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    made |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in made:
                raise _wrong_name(f"tensor {name!r} is made twice, the second time by {_shown(node)}", name)
            made.add(name)
    known = made | outside
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise _wrong_name(f"{_shown(node)} reads {name!r}, which no node, input or initializer makes", name)
        for inner in _nested(node):
            _check_names(inner, known)
    for value in graph.output:
        if value.name not in known:
            raise _wrong_name(f"output {value.name!r} is made by no node", value.name)


def _wrong_name(problem: str, name: str) -> ModelError:
    return ModelError(
        f"not a valid ONNX model: {problem}", reason="INVALID_MODEL", subject=name, hint="export it again"
    )


def _shown(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or (node.output[0] if node.output else '')!r}"


def _reorder(owner: onnx.GraphProto | onnx.FunctionProto, order: Sequence[int]) -> None:
    count = len(owner.node)
    owner.node.extend([owner.node[i] for i in order])
    del owner.node[:count]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Return the names a node reads, those that its subgraphs take from outside (and their own, harmlessly) too."""
    yield from (name for name in node.input if name)
    for graph in _nested(node):
        own = {name for inner in graph.node for name in inner.output} | {value.name for value in graph.input}
        own |= {tensor.name for tensor in graph.initializer}
        yield from (name for inner in graph.node for name in _reads(inner) if name not in own)
        yield from (value.name for value in graph.output if value.name not in own)


def _nested(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in _nested(node):
            yield from _graphs(inner)


def _all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in _nested(node):
            yield from _all_nodes(graph.node)
