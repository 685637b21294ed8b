"""A refusal names the user's own node or tensor, and a way out that exists."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit.errors import ModelError
from lieaudit.graph.forward import measure_shapes


def _info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def _model(nodes, outputs, tensors=(), shape=("N", 3, 4, 4)):
    made = helper.make_graph(
        nodes, "net", [_info("image", list(shape))], outputs, [numpy_helper.from_array(a, name) for name, a in tensors]
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_graph_that_does_not_run_names_the_node_it_stops_at():
    node = helper.make_node("Reshape", ["image", "sizes"], ["y"], name="head/reshape")
    proto = _model([node], [_info("y", None)], [("sizes", np.array([7, -1]))])
    with pytest.raises(ModelError, match=r"^onnxruntime does not run Reshape 'head/reshape': ") as caught:
        measure_shapes(ir.from_proto(proto))
    assert (caught.value.reason, caught.value.subject) == ("GRAPH_NOT_RUNNABLE", "head/reshape")


def test_a_graph_that_does_not_load_is_named():
    proto = _model([helper.make_node("Nonsense", ["image"], ["y"], name="odd")], [_info("y", None)])
    with pytest.raises(ModelError, match=r"^onnxruntime does not run the graph: .*Nonsense") as caught:
        measure_shapes(ir.from_proto(proto))
    assert (caught.value.reason, caught.value.subject) == ("GRAPH_NOT_RUNNABLE", "net")


LABEL = [
    helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["logits"]),
    helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    helper.make_node("Tanh", ["logits"], ["scores"]),
]


@pytest.mark.parametrize(
    ("floats", "hint"),
    [
        (("logits", "scores"), "audit another output: --output logits or --output scores"),
        ((), "no output is a float; --output also names a tensor inside the graph"),
    ],
)
def test_an_output_of_integers_names_the_float_outputs(floats, hint):
    outputs = [_info("label", ["N"], TensorProto.INT64), *(_info(name, ["N", 3]) for name in floats)]
    with pytest.raises(ModelError, match="output 'label' is INT64, not a float") as caught:
        lieaudit.audit(_model(LABEL, outputs), np.ones((2, 3, 4, 4), np.float32), lieaudit.AuditSpec(output="label"))
    assert caught.value.reason == "OUTPUT_NOT_FLOAT"
    assert caught.value.hint.startswith(hint)


def test_no_hint_names_a_function_of_the_library():
    """A tensor whose rank nobody measured: what a user can do is another method."""
    from lieaudit.autodiff.context import Context

    context = Context.__new__(Context)  # what it reads is the tensor's own
    with pytest.raises(ModelError) as caught:
        context.dims(ir.Value(name="inner"))
    assert (caught.value.reason, caught.value.hint) == ("UNKNOWN_SHAPE", "use --method finite_difference")
