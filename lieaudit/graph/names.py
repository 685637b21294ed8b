"""Names that belong to lieaudit inside a graph, and how a user's tensors are kept out of them.

What lieaudit adds to a graph is named under a prefix or with a suffix of its own. A tensor of the user's that happens
to be called so is renamed when the model is read; no later step then has to ask whether a name is taken.
"""

from __future__ import annotations

import re

import onnx_ir as ir

PREFIX = "lieaudit_"
"""Of all that stands in the audited graph itself; other prefixes belong to graphs made of it, which live shortly."""

SAMPLES = "lieaudit.samples"
"""Key in ``Value.meta`` of an input: values (n, …) that it takes, for runs that ask for shapes only."""

ORIGIN = "lieaudit.origin"
"""Key in ``Node.meta``: what the user calls the node, or the one that it was made of."""

_USERS = re.compile(r"^user:(.*):\d+$", re.DOTALL)
_OWN = re.compile(rf"^({PREFIX}|tangent/|cotangent/|action/|shape/)")
_DERIVED = re.compile(
    r"^(.*)\.(tangent|cotangent|action|settled|frozen|folded|replaced|scales|zero_point|centred|scaled|batch"
    r"|parts(_\d+(\.\d+)?)?|place)$",
    re.DOTALL,
)
"""A name made of a tensor's or a node's; it is lieaudit's only where that one is in the graph."""


def record_origins(model: ir.Model) -> None:
    """Note of every node what the user calls it: later steps rename, move and replace."""
    for node in model.graph.all_nodes():
        node.meta[ORIGIN] = called(node)


def called(node: ir.Node) -> str:
    """Return a node as messages name it: its op, and its name or else its output's, as the user wrote them."""
    known = node.meta.get(ORIGIN)
    if known is not None:
        return str(known)
    name = node.name or (node.outputs[0].name if node.outputs else "") or ""
    return f"{node.op_type} {plain(name)!r}" if name else node.op_type


def plain(name: str) -> str:
    """Return a name as the user wrote it, where `set_apart` changed it."""
    users = _USERS.match(name)
    return users[1] if users is not None else name


def is_own(name: str) -> bool:
    """Say whether a name is of what lieaudit adds to graphs."""
    return _OWN.match(name) is not None


def set_apart(model: ir.Model) -> None:
    """Rename every tensor and node of the user's whose name is one that lieaudit may give, in place.

    Inputs and outputs are renamed too: call it once they have been looked up by name.
    """
    graphs = list(model.graphs())
    values = [value for graph in graphs for value in _values(graph)]
    nodes = [node for graph in graphs for node in graph]
    things: list[ir.Value | ir.Node] = [*values, *nodes]
    taken = {thing.name for thing in things}
    for thing in things:
        derived = _DERIVED.match(thing.name or "")
        if thing.name and (_OWN.match(thing.name) or (derived is not None and derived[1] in taken)):
            thing.name = _unused(thing.name, taken)


def _values(graph: ir.Graph) -> list[ir.Value]:
    made = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *made]


def _unused(name: str, taken: set[str | None]) -> str:
    """Return a name of the user's that no rule of ``_OWN`` covers and nothing bears, and take it."""
    base, number = f"user:{name}:", 1
    while f"{base}{number}" in taken:
        number += 1
    taken.add(f"{base}{number}")
    return f"{base}{number}"
