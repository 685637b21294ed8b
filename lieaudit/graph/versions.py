"""Stamping a graph with versions that the installed onnxruntime takes, where that changes nothing.

Exporters follow onnx, and onnxruntime follows some months later. Of two opsets most ops are the same: a graph of such
ops is as good a graph of the older one.
"""

from __future__ import annotations

from functools import cache

import onnx
import onnx_ir as ir

from lieaudit.errors import UnsupportedOpError

_LEAST_IR = 8
"""Older versions list initializers as inputs and lack model-local functions; rewriting needs neither."""

_SURE = (10, 21)
"""IR version and opset that every onnxruntime this package admits knows: most models need no asking."""


def settle(model: ir.Model) -> str:
    """Lower IR version and opset to what onnxruntime takes, in place; the model has no functions any more.

    Returns
    -------
    str
        What to say of it; empty where the opset stayed.

    Raises
    ------
    UnsupportedOpError
        OPSET_TOO_NEW: an op of the graph was changed, or is new, since the newest opset that onnxruntime knows.
    """
    stamped = model.opset_imports.get("", 0)
    known_ir, known = _SURE if model.ir_version <= _SURE[0] and stamped <= _SURE[1] else newest()
    model.ir_version = min(max(model.ir_version, _LEAST_IR), known_ir)
    if stamped <= known:
        return ""
    if changed := changed_ops(model, known):
        op, since = changed[0]
        raise UnsupportedOpError(
            f"{op} as opset {since} defines it is newer than opset {known}, the newest that this onnxruntime knows",
            reason="OPSET_TOO_NEW",
            subject=op,
            hint=f"export with opset {known}, or update onnxruntime",
        )
    model.opset_imports[""] = known
    return f"opset {stamped} is newer than onnxruntime's {known}; all ops of the graph are the same in both"


def changed_ops(model: ir.Model, known: int) -> list[tuple[str, int]]:
    """Return the ops of the graph that are not yet, or not so, in opset ``known``, and the opsets that define them."""
    stamped = model.opset_imports.get("", 0)
    ops = dict.fromkeys(node.op_type for node in model.graph.all_nodes() if node.domain in {"", "ai.onnx"})
    return [(op, since) for op in ops if (since := _since(op, stamped)) > known]


@cache
def newest() -> tuple[int, int]:
    """Return the newest IR version and opset that the installed onnx and onnxruntime both know."""
    version = next(v for v in range(int(onnx.IR_VERSION), 0, -1) if _loads(v, 1))
    return version, next(v for v in range(onnx.defs.onnx_opset_version(), 0, -1) if _loads(version, v))


def _loads(version: int, opset: int) -> bool:
    import onnxruntime

    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "probe",
        [info("x", onnx.TensorProto.FLOAT, [1])],
        [info("y", onnx.TensorProto.FLOAT, [1])],
    )
    probe = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - onnxruntime raises many types, and any of them is a no
        return False
    return True


def _since(op_type: str, opset: int) -> int:
    """Return the opset since which an op is as it is; 0 for one that is not of the standard."""
    try:
        return int(onnx.defs.get_schema(op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0
