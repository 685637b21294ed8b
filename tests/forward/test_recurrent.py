"""Recurrent layers: unrolled into exact rules where their weights and length are fixed, else the generic rule."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lieaudit.graph.forward import measure_shapes, rewrite

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_STEPS, _BATCH, _INPUT, _HIDDEN = 5, 2, 3, 4


def _layer(op, *, opset=17, lengths=None, bias=True, initial=True, peepholes=False, outputs=(0, 1, 2), **attributes):
    """One layer; its outputs are flattened and joined to one, z (N, …)."""
    random = np.random.default_rng(3)
    sides = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = _GATES[op]
    shapes = {"w": (sides, gates * _HIDDEN, _INPUT), "r": (sides, gates * _HIDDEN, _HIDDEN)}
    if bias:
        shapes["b"] = (sides, 2 * gates * _HIDDEN)
    if initial:
        shapes["h"] = (sides, _BATCH, _HIDDEN)
        if op == "LSTM":
            shapes["c"] = (sides, _BATCH, _HIDDEN)
    if peepholes:
        shapes["p"] = (sides, 3 * _HIDDEN)
    fixed = {name: (0.7 * random.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    inputs = ["x", "w", "r", "b" if bias else "", "n" if lengths else "", "h" if initial else ""]
    if op == "LSTM":
        inputs += ["c" if initial else "", "p" if peepholes else ""]
    outputs = [i for i in outputs if i < 2 or op == "LSTM"]
    made = [f"y{i}" if i in outputs else "" for i in range(max(outputs) + 1)]
    initializers = [numpy_helper.from_array(array, name) for name, array in fixed.items()]
    if lengths:
        initializers.append(numpy_helper.from_array(np.array(lengths, np.int32), "n"))
    nodes = [helper.make_node(op, inputs, made, name="layer", hidden_size=_HIDDEN, **attributes)]
    for i in outputs:
        batch = 2 if i == 0 else 1
        rank = 4 if i == 0 else 3
        order = [batch, *(axis for axis in range(rank) if axis != batch)]
        nodes.append(helper.make_node("Transpose", [f"y{i}"], [f"t{i}"], perm=order))
        nodes.append(helper.make_node("Flatten", [f"t{i}"], [f"f{i}"]))
    nodes.append(helper.make_node("Concat", [f"f{i}" for i in outputs], ["z"], axis=1))
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [_STEPS, _BATCH, _INPUT])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _differentiate(proto, run_rewritten, unroll):
    random = np.random.default_rng(11)
    x = random.standard_normal((_STEPS, _BATCH, _INPUT)).astype(np.float32)
    rows = random.standard_normal((3, *x.shape)).astype(np.float32)
    model = ir.from_proto(proto)
    measure_shapes(model, feeds={"x": x})
    rewritten = rewrite(model, unroll=unroll)
    value, tangent = run_rewritten(rewritten, {"x": x, "x.tangent": rows})
    return rewritten, x, rows, value, tangent


def _secant(proto, x, rows, step=2.0**-7):
    """Central difference of onnxruntime's own layer: no code of ours, but only as good as float32."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(point):
        return session.run(None, {"x": point})[0].astype(np.float64)

    return run(x), np.stack(
        [(run(x + np.float32(step) * v) - run(x - np.float32(step) * v)) / (2 * step) for v in rows]
    )


_FORMS = [
    ("RNN", {}),
    ("RNN", {"direction": "bidirectional", "activations": ["Relu", "Softsign"]}),
    ("RNN", {"lengths": [5, 3], "bias": False}),
    ("GRU", {}),
    ("GRU", {"linear_before_reset": 1, "direction": "bidirectional", "opset": 9}),
    ("GRU", {"linear_before_reset": 1, "initial": False}),
    ("GRU", {"initial": False, "direction": "reverse"}),
    ("GRU", {"lengths": [2, 5], "direction": "reverse", "outputs": (1,)}),
    ("LSTM", {}),
    ("LSTM", {"direction": "bidirectional", "initial": False, "opset": 9}),
    ("LSTM", {"peepholes": True, "bias": False}),
    ("LSTM", {"lengths": [4, 5], "direction": "bidirectional", "initial": False}),
    ("LSTM", {"outputs": (2,), "activations": ["Sigmoid", "Softsign", "Tanh"], "opset": 22}),
]


@pytest.mark.parametrize("unroll", [None, 3])
@pytest.mark.parametrize(("op", "form"), _FORMS)
def test_layers_are_unrolled_exactly(run_rewritten, op, form, unroll):
    proto = _layer(op, **form)
    rewritten, x, rows, value, tangent = _differentiate(proto, run_rewritten, unroll)
    assert all(a.exact for a in rewritten.applied)
    assert op not in {a.op for a in rewritten.applied}
    assert {a.node.split(".")[0] for a in rewritten.applied} >= {"layer"}
    z, secant = _secant(proto, x, rows)
    assert np.abs(value - z).max() < 1e-6  # two orders of summation in float32
    # the secant's truncation is step² / 6 of third derivatives, about 1e-4; its rounding 1e-7 / step = 1e-5
    assert np.linalg.norm(tangent - secant) / np.linalg.norm(secant) < 1e-3


@pytest.mark.parametrize("op", ["GRU", "LSTM"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_layers_agree_with_torch_in_float64(run_rewritten, op, direction):
    """The weights are taken over into torch's layer, whose gates stand in another order."""
    torch = pytest.importorskip("torch")
    attributes = {"linear_before_reset": 1} if op == "GRU" else {}
    proto = _layer(op, direction=direction, outputs=(0,), initial=False, **attributes)
    _, x, rows, value, tangent = _differentiate(proto, run_rewritten, None)
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}
    order = {"LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2]}[op]
    layer = getattr(torch.nn, op)(_INPUT, _HIDDEN, bidirectional=direction == "bidirectional").double()
    for index, suffix in enumerate(["", "_reverse"][: len(arrays["w"])]):
        parts = {"weight_ih": arrays["w"], "weight_hh": arrays["r"]}
        parts["bias_ih"], parts["bias_hh"] = np.split(arrays["b"], 2, axis=1)
        for name, array in parts.items():
            blocks = np.split(array[index], len(order))
            getattr(layer, f"{name}_l0{suffix}").data = torch.tensor(np.concatenate([blocks[k] for k in order]))

    def z(point):
        y = layer(point)[0]
        return y.reshape(_STEPS, _BATCH, -1).movedim(1, 0).flatten(1)

    step = 1e-6
    with torch.no_grad():
        expected = np.stack(
            [
                (
                    (z(torch.tensor(x + step * v.astype(float))) - z(torch.tensor(x - step * v.astype(float))))
                    / (2 * step)
                )
                for v in rows
            ]
        )
        assert np.abs(value - z(torch.tensor(x).double()).numpy()).max() < 1e-6
    # float32 rounding through five steps of the layer
    assert np.linalg.norm(tangent - expected) / np.linalg.norm(expected) < 2e-6


@pytest.mark.parametrize(("op", "form"), [("LSTM", {"clip": 0.8}), ("GRU", {"activations": ["HardSigmoid", "Tanh"]})])
def test_other_forms_are_differenced_and_named(run_rewritten, op, form):
    proto = _layer(op, **form)
    rewritten, x, rows, _, tangent = _differentiate(proto, run_rewritten, None)
    assert [(a.op, a.node, a.rule) for a in rewritten.applied if not a.exact] == [(op, "layer", "generic")]
    _, secant = _secant(proto, x, rows, step=2.0**-9)
    assert np.linalg.norm(tangent - secant) / np.linalg.norm(secant) < 1e-2


def test_layer_over_image_rows_with_a_moving_batch(run_rewritten):
    """As exporters write it: image rows as time, the batch symbolic."""
    proto = _layer("LSTM", initial=False, outputs=(1,))
    del proto.graph.input[:]
    proto.graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, _STEPS, _INPUT]))
    rows = helper.make_node("Transpose", ["image"], ["turned"], perm=[2, 0, 3, 1])
    shape = numpy_helper.from_array(np.array([_STEPS, -1, _INPUT]), "shape")
    reshape = helper.make_node("Reshape", ["turned", "shape"], ["x"])
    proto.graph.initializer.append(shape)
    proto.graph.node.insert(0, rows)
    proto.graph.node.insert(1, reshape)
    random = np.random.default_rng(5)
    image = random.standard_normal((4, 1, _STEPS, _INPUT)).astype(np.float32)
    directions = random.standard_normal((2, *image.shape)).astype(np.float32)
    rewritten = rewrite(ir.from_proto(proto))
    assert all(a.exact for a in rewritten.applied)
    value, tangent = run_rewritten(rewritten, {"image": image, "image.tangent": directions})
    assert value.shape == (4, _HIDDEN)
    one, alone = run_rewritten(rewritten, {"image": image[2:3], "image.tangent": directions[:, 2:3]})
    assert np.allclose(value[2:3], one, atol=1e-6)
    assert np.allclose(tangent[:, 2:3], alone, atol=1e-6)
