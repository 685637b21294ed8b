"""The module tree of a graph, from what exporters leave in names and metadata.

* ``torch.onnx.export(dynamo=True)``: node metadata ``pkg.torch.onnx.name_scopes``;
* the TorchScript exporter: node names ``/layer1/layer1.0/conv1/Conv``;
* tf2onnx, Keras and others that write scopes with slashes: ``sequential/conv2d/BiasAdd``.

Where most nodes have no such name the tree falls back to topological blocks: what lies between two tensors through
which everything passes.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

import onnx_ir as ir

Path = tuple[str, ...]
"""Components of a module's dotted path: ``("layer1", "0", "conv1")``."""

_SCOPES = "pkg.torch.onnx.name_scopes"


def module_paths(nodes: Sequence[ir.Node]) -> dict[ir.Node, Path] | None:
    """Return the path of the module each node was called in, or None where the exporter left no tree.

    A leading part that every node shares (a wrapper) is dropped.
    """
    paths = {node: _path(node) for node in nodes}
    named = [path for path in paths.values() if path]
    if len({p for p in named if len(p) >= 1}) < 2 or 2 * len(named) < len(nodes):
        return None
    shared = _shared(named)
    return {node: path[shared:] for node, path in paths.items()}


def _path(node: ir.Node) -> Path:
    if _SCOPES in node.metadata_props:
        return _from_scopes(node.metadata_props[_SCOPES])
    name = node.name or ""
    if "/" not in name:
        return ()
    return _from_elements([e for e in name.split("/")[:-1] if e])


def _from_scopes(text: str) -> Path:
    """Read ``['', 'layer1', 'layer1.0', 'conv2d']``: the last one is the operation, the one before its module."""
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return ()
    if not isinstance(scopes, list | tuple) or len(scopes) < 2:
        return ()
    return tuple(part for part in str(scopes[-2]).split(".") if part)


def _from_elements(elements: Sequence[str]) -> Path:
    """Join scope elements; a child of a container repeats its container's name: ``layer1``, ``layer1.0``."""
    path: list[str] = []
    previous = ""
    for element in elements:
        if previous and element.startswith(previous + "."):
            path.extend(element[len(previous) + 1 :].split("."))
        else:
            path.extend(element.split("."))
        previous = element
    return tuple(part for part in path if part)


def _shared(paths: Sequence[Path]) -> int:
    count = 0
    while all(len(p) > count for p in paths) and len({p[count] for p in paths}) == 1:
        count += 1
    # the shared part must not be the whole path of a node: that node would lose its name
    return min(count, *(len(p) for p in paths)) if count else 0


def block_paths(nodes: Sequence[ir.Node]) -> dict[ir.Node, Path]:
    """Return paths for a graph without names: ``block_3/Conv_1`` between tensors through which everything passes.

    A block of one node is that node: ``Conv_7``.
    """
    inside = set(nodes)
    last_use: dict[ir.Value, int] = {}
    for index, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None and (value.producer() in inside):
                last_use[value] = index
    blocks: list[list[ir.Node]] = [[]]
    live: set[ir.Value] = set()
    for index, node in enumerate(nodes):
        blocks[-1].append(node)
        live.update(value for value in node.outputs if last_use.get(value, -1) > index)
        live = {value for value in live if last_use[value] > index}
        if len(live) == 1 and index + 1 < len(nodes):
            blocks.append([])
    paths: dict[ir.Node, Path] = {}
    counts: dict[str, int] = {}
    for number, block in enumerate(blocks):
        for node in block:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
            own = f"{node.op_type}_{counts[node.op_type]}"
            paths[node] = (own,) if len(block) == 1 else (f"block_{number}", own)
    return paths
