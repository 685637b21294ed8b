"""Reading distrusts the file: every way it can be wrong has its own reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lieaudit.errors import LieauditError, ModelError
from lieaudit.graph.read import read_model


def pooled_linear(seed=0, **model):
    """z = W · mean over pixels: the smallest model with an image input and logits."""
    weight = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        "pooled_linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model.setdefault("opset_imports", [helper.make_opsetid("", 17)])
    model.setdefault("ir_version", 8)
    return helper.make_model(graph, **model)


def reason(source):
    with pytest.raises(ModelError) as caught:
        read_model(source)
    return caught.value.reason


def test_a_good_file_is_read_with_the_digest_of_its_bytes(tmp_path):
    import hashlib

    path = tmp_path / "model.onnx"
    onnx.save(pooled_linear(), path)
    read = read_model(path)
    assert read.name == "model.onnx"
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_missing_empty_and_foreign_files(tmp_path):
    empty, text = tmp_path / "empty.onnx", tmp_path / "text.onnx"
    empty.write_bytes(b"")
    text.write_text("this is not an ONNX file")
    assert reason(tmp_path / "none.onnx") == "MODEL_NOT_FOUND"
    assert reason(empty) == "MODEL_EMPTY"
    assert reason(text) == "NOT_ONNX"
    assert reason(onnx.ModelProto()) in {"MODEL_EMPTY", "NOT_ONNX"}


def test_every_truncation_is_an_error():
    content = pooled_linear().SerializeToString()
    for end in range(0, len(content), 7):
        assert reason(content[:end]) in {"MODEL_TRUNCATED", "MODEL_EMPTY", "NOT_ONNX", "INVALID_MODEL"}


@given(st.data())
def test_damaged_bytes_give_a_typed_error_or_a_model(data):
    content = bytearray(pooled_linear().SerializeToString())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_model(bytes(content))
    except LieauditError as error:
        assert error.reason  # noqa: PT017 - any typed error will do


def test_old_versions_are_named():
    assert reason(pooled_linear(opset_imports=[helper.make_opsetid("", 6)])) == "OPSET_TOO_OLD"
    assert reason(pooled_linear(ir_version=2)) == "IR_TOO_OLD"


def with_external_weight(folder, location):
    model = pooled_linear()
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    stored = onnx.load(folder / "model.onnx", load_external_data=False)
    for entry in stored.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    (folder / "model.onnx").write_bytes(stored.SerializeToString())
    return folder / "model.onnx"


def test_external_data_beside_the_model_is_read(tmp_path):
    model = read_model(with_external_weight(tmp_path, "weights.bin")).model
    expected = numpy_helper.to_array(pooled_linear().graph.initializer[0])
    assert np.array_equal(model.graph.initializers["weight"].const_value.numpy(), expected)


def test_external_data_elsewhere_is_refused(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    assert reason(with_external_weight(folder, "../secret.bin")) == "EXTERNAL_DATA_OUTSIDE"
    assert reason(with_external_weight(folder, str(tmp_path / "secret.bin"))) == "EXTERNAL_DATA_OUTSIDE"
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    assert reason(with_external_weight(folder, "link.bin")) == "EXTERNAL_DATA_OUTSIDE"
    assert reason(with_external_weight(folder, "absent.bin")) == "EXTERNAL_DATA_MISSING"


def test_external_data_cut_short_or_not_sent(tmp_path):
    path = with_external_weight(tmp_path, "weights.bin")
    assert reason(path.read_bytes()) == "EXTERNAL_DATA_MISSING"
    data = tmp_path / "weights.bin"
    data.write_bytes(data.read_bytes()[:-1])
    assert reason(path) == "EXTERNAL_DATA_TRUNCATED"
