"""``lieaudit repair``: the mended file, the gate's verdict on it, the trade in one line, and what it refuses."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from lieaudit_client.command import run
from lieaudit_client.formats.numbers import wilson
from onnx import TensorProto, helper, numpy_helper

CALL = ["--average", "shifts:1x2", "--generators", "translation_x", "--head", "softmax"]


@pytest.fixture
def case(tmp_path, monkeypatch):
    """Gives a folder with a classifier and its images."""
    random = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["h"], strides=[2, 2]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"]),
            helper.make_node("MatMul", ["f", "v"], ["logits"]),
        ],
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4])],
        [
            numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
            for name, shape in (("w", (4, 1, 2, 2)), ("v", (64, 4)))
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    x = random.standard_normal((40, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, y=np.zeros(40, np.int64))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_trade_is_shown_and_gated(case, capfd):
    code = run(["repair", "model.onnx", *CALL, "--out", "mended.onnx", "--data", "x.npz"])
    said = capfd.readouterr().out
    assert code in {0, 1, 3}
    assert {0: "PASS", 1: "FAIL", 3: "INCONCLUSIVE"}[code] in said
    line = next(line for line in said.splitlines() if line.startswith("trade"))
    value = r"[\d.e+-]+"
    between = rf"\({value} … {value}\)"
    assert re.search(rf"translation_x LEE × {value} {between}, {value} → {value} per px²", line)
    top1 = r"\d+\.\d% \(\d+\.\d% … \d+\.\d%\)"
    assert re.search(rf"top-1 {top1} → {top1}; {value} {between} times the time$", line)
    onnx.checker.check_model(onnx.load(case / "mended.onnx"), full_check=True)


def test_the_interval_of_accuracy_is_wilsons():
    assert wilson(0.5, 10) == pytest.approx(
        (0.2365931, 0.7634069), abs=1e-6
    )  # z²/n = 0.38415: (.69207 ± .36463)/1.38415
    assert wilson(1.0, 20)[0] == pytest.approx(20 / (20 + 1.959964**2), abs=1e-12)
    assert wilson(0.0, 20)[0] == 0


def test_without_images_nothing_is_called_a_repair(case, capfd):
    assert run(["repair", "model.onnx", *CALL, "--out", "mended.onnx"]) == 0
    assert "give --data to see whether it is a repair" in capfd.readouterr().err
    assert (case / "mended.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--average", "flips"], "shifts:HxW"),
        (["--average", "shifts:2x2", "--head", "identity"], "class scores"),
        (["--average", "shifts:2x2", "--out", "nowhere/m.onnx"], "there is no folder"),
    ],
)
def test_refusals(case, capfd, arguments, words):
    assert run(["repair", "model.onnx", "--out", "mended.onnx", *arguments]) == 2
    assert words in capfd.readouterr().err
    assert not (case / "mended.onnx").exists()
