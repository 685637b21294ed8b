"""Advice from shares: which layer, by what means, and never a repair."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from lieaudit_api.v1 import report_pb2
from lieaudit_client.command import run
from lieaudit_client.formats.advice import MEANS, TRAINING, advice
from onnx import TensorProto, helper, numpy_helper

from lieaudit.layerwise.kinds import KINDS


def _layers(**shares: float) -> report_pb2.Layerwise:
    segments = [report_pb2.Segment(name=n, kind="downsampling", share=share) for n, share in shares.items()]
    return report_pb2.Layerwise(segments=segments, status="ok")


def test_the_largest_owner_comes_first_with_all_that_it_owns() -> None:
    found = advice([("rotation", _layers(stem=0.3, late=0.7)), ("scale", _layers(stem=0.95, late=0.05))])
    assert [item.segment for item in found] == ["stem", "late"]
    assert found[0].shares == (("scale", 0.95), ("rotation", 0.3))
    assert found[0].sentence() == (
        "stem (downsampling) owns 95.0 % of scale, 30.0 % of rotation. "
        "Known to help: anti-aliased downsampling: blur before the stride, then train."
    )


@pytest.mark.parametrize("share", [0.19, -0.9])
def test_a_small_or_opposing_share_is_no_reason_to_change(share: float) -> None:
    assert advice([("rotation", _layers(stem=share))]) == ()


def test_layers_that_undo_each_other_own_nothing() -> None:
    assert advice([("rotation", _layers(stem=5.6, late=-4.6))]) == ()


def test_an_unsure_decomposition_is_no_ground_for_advice() -> None:
    part = _layers(stem=0.9)
    part.status = "inconclusive"
    assert advice([("rotation", part)]) == ()


def test_nothing_about_places_is_advised_for_brightness() -> None:
    (item,) = advice([("brightness", _layers(stem=0.9))])
    assert item.means == TRAINING


def test_what_owns_places_comes_before_what_owns_brightness() -> None:
    found = advice([("brightness", _layers(late=0.9)), ("rotation", _layers(stem=0.6, late=0.3))])
    assert [item.segment for item in found] == ["stem", "late"]


def test_each_means_is_for_a_kind_that_there_is() -> None:
    assert set(MEANS) <= {name for name, _ in KINDS}


def test_the_planted_layer_is_named(tmp_path, monkeypatch, capfd) -> None:
    """Only the stride is at fault under shifts: all else is circular and pointwise, or sees vectors."""
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((4, 1, 3, 3)), "v": random.standard_normal((4, 5))}
    graph = helper.make_graph(
        [
            helper.make_node("Pad", ["image", "pads"], ["p"], mode="wrap"),
            helper.make_node("Conv", ["p", "w"], ["h"], name="/stem/Conv", strides=[2, 2]),
            helper.make_node("Mul", ["h", "h"], ["s"], name="/square/Mul"),
            helper.make_node("GlobalAveragePool", ["s"], ["g"], name="/pool/GlobalAveragePool"),
            helper.make_node("Flatten", ["g"], ["f"], name="/flat/Flatten"),
            helper.make_node("MatMul", ["f", "v"], ["logits"], name="/head/MatMul"),
        ],
        "strided",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [
            *(numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()),
            numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads"),
        ],
    )
    opset = helper.make_opsetid("", 19)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=random.standard_normal((12, 1, 12, 12)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    call = ["audit", "m.onnx", "--data", "x.npz", "--head", "softmax", "--generators", "translation_x"]
    assert run([*call, "--padding", "circular", "--interpolation", "fourier", "--layerwise", "module"]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert "what to change" in said
    assert "stem (downsampling) owns" in said
    assert "advice, not a repair" in said
