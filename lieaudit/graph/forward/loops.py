"""Loops and scans unrolled where every image takes the same number of rounds.

A Loop does where its condition is a function of counters and of sizes that do not follow the pixels: the number of
rounds that the graph took when its shapes were measured is then the number it always takes. A Scan takes as many as its
input is long, if that does not follow the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lieaudit.graph.forward.graphs import inline_body
from lieaudit.graph.forward.pixel_sizes import Followers, followers, inside
from lieaudit.graph.forward.shapes import MEASURED, measure_shapes
from lieaudit.graph.nodes import constant, new_constant
from lieaudit.ops import is_op

_MOST_NODES = 20_000
"""Nodes of one unrolled loop at most: larger graphs take onnxruntime minutes to load."""


def unroll_loops(model: ir.Model) -> bool:
    """Replace what can be unrolled in the main graph, in place; say whether anything was."""
    graph = model.graph
    loops = [node for node in graph if is_op(node, "Loop", "Scan")]
    if not loops:
        return False
    measure_shapes(model)
    found = followers(model)
    unrolled = False
    for node in loops:
        body = node.attributes["body"].as_graph()
        rounds = _rounds_of_loop(node, body, found) if node.op_type == "Loop" else _rounds_of_scan(node, found)
        if rounds is not None and 0 < rounds * body.num_nodes() <= _MOST_NODES:
            _unroll(graph, node, body, rounds)
            graph.meta.pop(MEASURED, None)
            unrolled = True
    return unrolled


def _rounds_of_scan(node: ir.Node, found: Followers) -> int | None:
    count = node.attributes["num_scan_inputs"].as_int()
    x = node.inputs[-count]
    if x in found.sizes:
        return None
    axis = node.attributes.get_ints("scan_input_axes", [0] * count)[0]
    size = x.shape[axis] if x is not None and x.shape is not None else None
    return size if isinstance(size, int) else None


def _rounds_of_loop(node: ir.Node, body: ir.Graph, found: Followers) -> int | None:
    limit, start = (constant(value) for value in node.inputs[:2])
    if node.inputs[1] is not None and (start is None or not bool(start.reshape(-1)[0])):
        return None
    condition = body.outputs[0]
    producer = condition.producer()
    if producer is not None and producer.op_type == "Identity" and producer.inputs[0] is not None:
        condition = producer.inputs[0]
    always = constant(condition)
    if condition is body.inputs[1] or (always is not None and bool(always.reshape(-1)[0])):
        return None if limit is None else int(limit.reshape(-1)[0])
    if body.outputs[0] in inside(node, body, found).values:
        return None
    states = len(node.inputs) - 2
    gathered = [value for value in node.outputs[states:] if value.shape is not None]
    rounds = gathered[0].shape[0] if gathered and gathered[0].shape is not None else None
    return rounds if isinstance(rounds, int) else None


def _unroll(graph: ir.Graph, node: ir.Node, body: ir.Graph, rounds: int) -> None:
    prefix = node.name or node.outputs[0].name or node.op_type
    loop = node.op_type == "Loop"
    scanned = 0 if loop else node.attributes["num_scan_inputs"].as_int()
    first = 2 if loop else 0
    states: Sequence[ir.Value | None] = node.inputs[first : len(node.inputs) - scanned]
    count = len(states)
    gathered: list[list[ir.Value]] = [[] for _ in node.outputs[count:]]
    for t in range(rounds):
        if loop:
            number = new_constant(graph, np.array(t, np.int64), f"{prefix}.round")
            going = new_constant(graph, np.ones((), np.bool_), f"{prefix}.going")
            inputs = [number, going, *states]
        else:
            inputs = [*states, *_slices(graph, node, scanned, t, rounds, prefix)]
        outputs = inline_body(graph, node, body, inputs, f"{prefix}.{t}")[1 if loop else 0 :]
        states = outputs[:count]
        for row, value in zip(gathered, outputs[count:], strict=True):
            row.append(value)
    finals = list(states)
    axes = node.attributes.get_ints("scan_output_axes", [0] * len(gathered))
    directions = node.attributes.get_ints("scan_output_directions", [0] * len(gathered))
    for k, rows in enumerate(gathered):
        ordered = rows[::-1] if directions[k] else rows
        finals.append(_stacked(graph, node, ordered, axes[k], f"{prefix}.gathered_{k}"))
    for old, new in zip(node.outputs, finals, strict=True):
        same = _insert(graph, node, "Identity", [new], f"{prefix}.{old.name}")
        name = old.name
        ir.convenience.replace_all_uses_with(old, same, replace_graph_outputs=True)
        old.name = f"{name}.replaced"
        same.name, same.type, same.shape = name, old.type, old.shape
    graph.remove(node, safe=True)


def _slices(graph: ir.Graph, node: ir.Node, scanned: int, t: int, rounds: int, prefix: str) -> list[ir.Value]:
    """Return the t-th slice of every scanned input, without its axis."""
    axes = node.attributes.get_ints("scan_input_axes", [0] * scanned)
    directions = node.attributes.get_ints("scan_input_directions", [0] * scanned)
    made = []
    for k, value in enumerate(node.inputs[-scanned:]):
        index = new_constant(graph, np.array(rounds - 1 - t if directions[k] else t), f"{prefix}.index")
        name = f"{prefix}.slice_{t}_{k}"
        made.append(_insert(graph, node, "Gather", [value, index], name, axis=axes[k]))
    return made


def _stacked(graph: ir.Graph, node: ir.Node, rows: Sequence[ir.Value], axis: int, prefix: str) -> ir.Value:
    """Stack along a new axis."""
    made = []
    for t, row in enumerate(rows):
        if graph.opset_imports[""] >= 13:
            axes = new_constant(graph, np.array([axis]), f"{prefix}.axis")
            made.append(_insert(graph, node, "Unsqueeze", [row, axes], f"{prefix}.{t}"))
        else:
            made.append(_insert(graph, node, "Unsqueeze", [row], f"{prefix}.{t}", axes=[axis]))
    return _insert(graph, node, "Concat", made, prefix, axis=axis)


def _insert(
    graph: ir.Graph,
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    name: str,
    **attributes: int | list[int],
) -> ir.Value:
    made = ir.node(op_type, list(inputs), attributes or None, name=name)
    made.outputs[0].name = f"{name}:0"
    graph.insert_before(before, made)
    return made.outputs[0]
