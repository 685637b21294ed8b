"""Sessions and providers: strict, deterministic, one path; memory estimates."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from lieaudit.errors import ModelError, ProviderError, UnsupportedOpError
from lieaudit.runtime import providers
from lieaudit.runtime.memory import row_bytes
from lieaudit.runtime.session import Session


def chain(ops, width=64):
    """A chain of square MatMuls and Relus on (N, width)."""
    nodes, previous = [], "x"
    weight = np.eye(width, dtype=np.float32)
    for i, op in enumerate(ops):
        inputs = [previous, "w"] if op == "MatMul" else [previous]
        nodes.append(helper.make_node(op, inputs, [f"t{i}"]))
        previous = f"t{i}"
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name in ("x", previous)]
    values = [helper.make_tensor_value_info(f"t{i}", TensorProto.FLOAT, ["N", width]) for i in range(len(ops) - 1)]
    graph = helper.make_graph(
        nodes, "chain", infos[:1], infos[1:], [numpy_helper.from_array(weight, "w")], value_info=values
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_arrays_and_device_values_run_alike():
    x = np.random.default_rng(11).standard_normal((5, 64)).astype(np.float32)
    with Session(chain(["MatMul", "Relu"]).SerializeToString()) as session:
        from_array = session.run({"x": x})
        from_value = session.run({"x": session.put(x)})
        assert np.array_equal(from_array[0], np.maximum(x, 0))
        assert np.array_equal(from_array[0], from_value[0])
        assert session.fallback_ops == {}


def test_a_noncontiguous_array_is_read_right():
    x = np.arange(640, dtype=np.float32).reshape(64, 10).T
    with Session(chain(["Relu"]).SerializeToString()) as session:
        assert np.array_equal(session.run({"x": x})[0], x)


def padded(op_type, between, serialised, kernel):
    """Return a session of Pad (by 1), an op that does nothing, and pooling."""
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        *([helper.make_node(between, ["padded"], ["same"])] if between else []),
        helper.make_node(
            op_type, ["same" if between else "padded"], ["z"], kernel_shape=[kernel] * 2, strides=[2, 2], ceil_mode=1
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "padded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Session(model.SerializeToString() if serialised else ir.from_proto(model))


BETWEEN = pytest.mark.parametrize("between", ["", "Identity", "Dropout"])
SERIALISED = pytest.mark.parametrize("serialised", [True, False])


@BETWEEN
@SERIALISED
def test_zeros_padded_before_a_maximum_take_part_in_it(between, serialised):
    """Frameworks that pad in a layer of its own mean zeros; onnxruntime's fusion into MaxPool would ignore them."""
    with padded("MaxPool", between, serialised, 2) as session:
        (z,) = session.run({"x": np.full((1, 1, 4, 4), -1, np.float32)})
    assert z[0, 0].tolist() == [[0, 0, 0], [0, -1, 0], [0, 0, 0]]


@BETWEEN
@SERIALISED
@pytest.mark.parametrize("kernel", [1, 3])
def test_zeros_padded_before_an_average_are_counted(between, serialised, kernel):
    """They count as the cells they are; onnxruntime would fuse, and then refuse a pad as wide as a window."""
    x = np.arange(1.0, 17, dtype=np.float32).reshape(1, 1, 4, 4)
    with padded("AveragePool", between, serialised, kernel) as session:
        (z,) = session.run({"x": x})
    whole = np.pad(x[0, 0], 1)
    expected = [[whole[2 * i :, 2 * j :][:kernel, :kernel].mean() for j in range(3)] for i in range(3)]
    assert np.allclose(z[0, 0], expected, rtol=1e-6)


def test_wrong_shapes_are_a_typed_error_without_paths():
    with Session(chain(["MatMul"]).SerializeToString()) as session, pytest.raises(ModelError) as caught:
        session.run({"x": np.zeros((2, 3), np.float32)})
    assert caught.value.reason == "RUN_FAILED"
    assert "/onnxruntime" not in str(caught.value)


def test_an_unknown_op_is_named():
    proto = chain(["Relu"])
    proto.graph.node[0].op_type = "Frobnicate"
    with pytest.raises(UnsupportedOpError) as caught:
        Session(proto.SerializeToString())
    assert caught.value.reason == "UNKNOWN_OP"
    assert "Frobnicate" in caught.value.subject


def test_garbage_is_a_typed_error():
    with pytest.raises(ModelError) as caught:
        Session(b"garbage")
    assert caught.value.reason == "MODEL_REFUSED"


@pytest.mark.parametrize("name", ["", "gpu", "cpu:0", "cuda:x", "CUDA"])
def test_unknown_providers_are_refused(name):
    with pytest.raises(ProviderError) as caught:
        providers.find_provider(name)
    assert caught.value.reason == "UNKNOWN_PROVIDER"


def test_gpu_options_keep_full_float32(monkeypatch):
    """Without a GPU the session cannot be made, but what it would be asked for can be read."""
    monkeypatch.setattr(providers, "available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    provider = providers.find_provider("cuda:1")
    (name, options), (behind, _) = provider.chain()
    assert (name, behind) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {"device_id": 1, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}


def test_both_wheels_at_once_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.0")
    with pytest.raises(ProviderError) as caught:
        providers.available_providers()
    assert caught.value.reason == "PROVIDER_CONFLICT"


def test_row_bytes_counts_what_lives_at_once():
    tensor = 64 * 4
    model = ir.from_proto(chain(["Relu"] * 10))
    # input and output of one node live together, plus the overhead factor of 1.5
    assert row_bytes(model) == pytest.approx(1.5 * 2 * tensor)


@pytest.mark.gpu
def test_the_gpu_path_gives_the_same_numbers():
    if "CUDAExecutionProvider" not in providers.available_providers():
        pytest.skip("no CUDA provider in this onnxruntime")
    x = np.random.default_rng(12).standard_normal((5, 64)).astype(np.float32)
    with Session(chain(["MatMul", "Relu"]).SerializeToString(), provider="cuda") as session:
        assert np.allclose(session.run({"x": session.put(x)})[0], np.maximum(x, 0), rtol=0, atol=1e-6)
