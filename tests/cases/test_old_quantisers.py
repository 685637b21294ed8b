"""Quantised graphs of old opsets, with the quantisers of the standard or of onnxruntime's own domain."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.ops import MICROSOFT
from lieaudit.symmetries import tangents

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((3, 3, 8, 8)).astype(np.float32)
WHOLE = np.clip(RNG.standard_normal((4, 3, 3, 3)) * 40, -127, 127).astype(np.int8)
SCALES = np.array([0.01, 0.013, 0.008, 0.02], np.float32)
FORMS = {
    "opset 10": (10, "", False),
    "opset 11": (11, "", False),
    "opset 12, own domain": (12, MICROSOFT, False),
    "opset 13, a scale per channel": (13, "", True),
    "opset 11, own domain, a scale per channel": (11, MICROSOFT, True),
    "opset 9, own domain": (9, MICROSOFT, False),
    "opset 7, own domain": (7, MICROSOFT, False),
}


def graph(form, *, activations):
    opset, domain, per_channel = FORMS[form]
    axis = {"axis": 0} if per_channel else {}
    scale, zero = (SCALES, np.zeros(4, np.int8)) if per_channel else (SCALES[:1].reshape(()), np.zeros((), np.int8))
    nodes = [("DequantizeLinear", ["whole", "scale", "zero"], ["w"], axis, domain)]
    if activations:
        nodes += [
            ("QuantizeLinear", ["image", "step", "middle"], ["q"], {}, domain),
            ("DequantizeLinear", ["q", "step", "middle"], ["x"], {}, domain),
        ]
    nodes += [
        ("Conv", ["x" if activations else "image", "w"], ["c"], {"pads": [1] * 4}, ""),
        ("Tanh", ["c"], ["t"], {}, ""),
        ("GlobalAveragePool", ["t"], ["p"], {}, ""),
        ("Flatten", ["p"], ["z"], {}, ""),
    ]
    arrays = {"whole": WHOLE, "scale": scale, "zero": zero, "step": np.float32(0.02), "middle": np.uint8(128)}
    info = helper.make_tensor_value_info
    made = helper.make_graph(
        [helper.make_node(o, i, y, name=f"net/{o}_{k}", domain=d, **a) for k, (o, i, y, a, d) in enumerate(nodes)],
        "net",
        [info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [info("z", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(made, opset_imports=imports, ir_version=7)


def spec():
    return AuditSpec(generators=("rotation",), head="identity", threads=1)


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_integers_are_the_numbers_that_they_stand_for(form):
    found = lieaudit.audit(graph(form, activations=False), IMAGES, spec()).results["rotation"]
    scale = SCALES.astype(np.float64) if FORMS[form][2] else np.full(4, SCALES[0], np.float64)
    weights = torch.tensor(WHOLE * scale[:, None, None, None])
    assert found.status == "ok"
    for image, lee in zip(IMAGES.astype(np.float64), found.per_image, strict=True):
        v = tangents(image, ("rotation",), interpolation="bilinear", padding="reflect", convention="central")
        _, moved = torch.func.jvp(
            lambda x: torch.tanh(torch.nn.functional.conv2d(x, weights, padding=1)).mean((2, 3)),
            (torch.tensor(image[None]),),
            (torch.tensor(v),),
        )
        assert lee == pytest.approx(float((moved**2).mean()), rel=2e-5)  # a float32 convolution of 27 products


@pytest.mark.parametrize("form", FORMS)
def test_quantised_activations_are_inconclusive_by_the_node_of_the_user(form):
    found = lieaudit.audit(graph(form, activations=True), IMAGES, spec()).results["rotation"]
    assert found.status == "inconclusive"
    assert "QuantizeLinear 'net/QuantizeLinear_1' is piecewise constant" in found.reasons[0]
