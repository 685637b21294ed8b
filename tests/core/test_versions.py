"""A graph of a newer opset than onnxruntime's is audited where its ops are the same, and refused where they are not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from lieaudit.errors import LieauditError
from lieaudit.graph import versions
from lieaudit.graph.load import load_model
from lieaudit.runtime.session import Session

NEWEST = onnx.defs.onnx_opset_version()
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)


def net(ops, opset, ir_version=10):
    names = ["image", *(f"t{i}" for i in range(len(ops)))]
    nodes = [helper.make_node(op, [a], [b]) for op, a, b in zip(ops, names[:-1], names[1:], strict=True)]
    nodes.append(helper.make_node("Flatten", [names[-1]], ["z"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 4, 4])
    graph = helper.make_graph(nodes, "g", [image], [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 48])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def test_the_newest_stamp_runs_and_computes_the_same():
    loaded = load_model(net(["Tanh", "Exp"], NEWEST, int(onnx.IR_VERSION)))
    known_ir, known = versions.newest()
    assert loaded.info.opset == NEWEST
    assert loaded.ir_version == onnx.IR_VERSION
    assert (loaded.model.ir_version, loaded.model.opset_imports[""]) == (known_ir, known)
    assert any("newer than onnxruntime's" in note for note in loaded.info.notes) == (known < NEWEST)
    with Session(loaded.model) as session:
        found = session.run({loaded.input_name: IMAGES})[0]
    # float32 Exp and Tanh of onnxruntime are within two units in the last place of numpy's
    assert np.allclose(found, np.exp(np.tanh(IMAGES)).reshape(2, 48), rtol=4 * np.finfo(np.float32).eps, atol=0)


def test_what_is_known_is_what_onnxruntime_says():
    known_ir, known = versions.newest()
    with Session(net(["Tanh"], known, known_ir).SerializeToString()) as session:
        session.run({"image": IMAGES})
    for opset, ir_version in ((known + 1, known_ir), (known, known_ir + 1)):
        with pytest.raises(LieauditError) as caught:
            Session(net(["Tanh"], opset, ir_version).SerializeToString())
        assert "onnxruntime::" not in str(caught.value)


def test_ops_that_changed_are_named():
    """Gelu came with opset 20, Flatten and Mish took more types in 21 and 22, Tanh is as it was in 13, Warp is none."""
    model = ir.from_proto(net(["Tanh", "Mish", "Gelu", "Warp"], 22))
    assert versions.changed_ops(model, 22) == []
    assert versions.changed_ops(model, 21) == [("Mish", 22)]
    assert versions.changed_ops(model, 19) == [("Mish", 22), ("Gelu", 20), ("Flatten", 21)]


@pytest.mark.parametrize(("stamp", "reason"), [("opset", "OPSET_TOO_NEW"), ("ir", "IR_TOO_NEW")])
def test_versions_of_the_future_are_refused_by_number(stamp, reason):
    future = net(["Tanh"], NEWEST + 1) if stamp == "opset" else net(["Tanh"], 17, int(onnx.IR_VERSION) + 1)
    with pytest.raises(LieauditError, match=str(NEWEST + 1 if stamp == "opset" else onnx.IR_VERSION + 1)) as caught:
        load_model(future)
    assert caught.value.reason == reason
