"""What onnxruntime says where it stops, in words about the user's own graph.

onnxruntime names a node as it calls it after its own rewriting, then a check of its sources that failed, then the
cause. `Stop.of` finds the user's node and keeps the cause.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from lieaudit.graph.names import called, is_own, plain

_NODE = re.compile(
    r"running (?P<op>\w+) node\. Name:'(?P<name>[^']*)'"
    r"|In Node, \(\"(?P<name2>[^\"]*)\", (?P<op2>\w+),"
    r"|Node \((?P<name3>[^)]*)\) Op \((?P<op3>\w+)\)"
    r"|for (?P<op4>\w+)\(\d+\) node with name '(?P<name4>[^']*)'"
    r"|\(?(?:Optype|operator) \((?P<op5>\w+)\).*? in node \((?P<name5>[^)]*)\)"
)
_SUFFIX = re.compile(r"(_nchwc|_token_\d+|_nhwc|/duplicated)+$")
"""What onnxruntime appends to the names of nodes that it makes of others."""

_NOISE = (
    re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : "),
    re.compile(r"Non-zero status code returned while running \w+ node\. Name:'[^']*'\s*(Status Message: )?"),
    re.compile(r"(This is an invalid model|Invalid model|Exception during initialization|Type Error)[.:] "),
    re.compile(r"In Node, \(\"[^\"]*\".*?\) -> \(.*?\)\s*, Error "),
    re.compile(r"Node ?\([^)]*\) (Op \(\w+\) |with schema\(\S+\) )?"),
    re.compile(r"\[(Shape|Type)InferenceError\] "),
    # the place in onnxruntime's sources, the function there, and the check that failed
    re.compile(r"(/[\w.+-]+)*/?\b[\w+-]+\.(cc|h|cpp|cu|cuh)(:\d+)?\s*"),
    re.compile(r"[\w:<>,*& ]*onnxruntime::[^()]*\([^)]*\)( const)?( \[with [^\]]*\])?\s*"),
    re.compile(r"^\w*(Impl|Validation|Helper|Compute) (?=[A-Z])"),
    re.compile(r"^[^.]*(==|!=|<=|>=|&&|\|\||->|\(\)|[<>])[^.]* was false\. "),
    re.compile(r"^\S+ was false\. "),
    re.compile(r" in node \(\)"),
    re.compile(r" Please fix either the inputs/outputs or the model\."),
)
_LONGEST = 300
_OURS = "'…'"
"""What a name of lieaudit's own reads as."""

_READ = 4000
"""Characters of a message that are read: a hostile model's names may be of any length."""

DERIVATIVE = "the tangent of "
"""What a node that lieaudit added for a user's node is called, before that node's name."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose work a node does: what the user calls it, and the name alone."""

    text: str
    subject: str


def origins(model: ir.Model) -> dict[str, Origin]:
    """Return by the name of a node, and of its outputs, which node of the user's it belongs to.

    What was added to a graph stands behind the node that it belongs to.
    """
    found: dict[str, Origin] = {}
    last: Origin | None = None
    for node in model.graph:
        if is_own(node.name or ""):
            origin = Origin(f"{DERIVATIVE}{last.text}", last.subject) if last is not None else None
        else:
            origin = last = Origin(called(node), plain(node.name or node.outputs[0].name or node.op_type))
        if origin is not None:
            names = [node.name or "", *(value.name or "" for value in node.outputs)]
            found |= {name: origin for name in names if name and name not in found}
    return found


@dataclass(frozen=True, slots=True)
class Stop:
    """Where and why onnxruntime stopped.

    Attributes
    ----------
    where
        The user's node as messages name it; empty where onnxruntime names none.
    subject
        Its name, or op type; empty as `where`.
    why
        The cause, without names and places of onnxruntime's sources.
    """

    where: str
    subject: str
    why: str

    @classmethod
    def of(cls, problem: Exception, nodes: Mapping[str, Origin]) -> Stop:
        """Read what onnxruntime raised about a graph whose nodes these are."""
        said = re.sub(r"\s*\n\s*", " ", str(problem)[:_READ].strip()) or type(problem).__name__
        at = _NODE.search(said)
        why = cleaned(said)
        if at is None:
            return cls("", "", why)
        groups = at.groupdict()
        op = next(text for key, text in groups.items() if key.startswith("op") and text is not None)
        name = next(text for key, text in groups.items() if key.startswith("name") and text is not None)
        origin = nodes.get(name) or nodes.get(_SUFFIX.sub("", name))
        if origin is None:
            same = {found for found in nodes.values() if found.text.startswith(f"{op} ")}
            origin = same.pop() if len(same) == 1 else Origin(_unplaced(op, name), _shown(name) or op)
        return cls(origin.text, origin.subject, why)


def cleaned(text: str) -> str:
    """Return a message of onnxruntime's without codes, signatures and places of its sources."""
    text = re.sub(r"\s*\n\s*", " ", text[:_READ].strip())
    before = None
    while text != before:
        before = text
        for noise in _NOISE:
            text = noise.sub("", text).strip()
    text = re.sub(r"'([^']*)'", lambda quoted: _OURS if is_own(quoted[1]) else repr(plain(quoted[1])), text)
    return (text or "it says no more")[:_LONGEST].removesuffix(".")


def _unplaced(op: str, name: str) -> str:
    shown = _shown(name)
    return f"{op} {shown!r}" if shown else f"a node {op}"


def _shown(name: str) -> str:
    return "" if is_own(name) else plain(name)
