"""Graphs of nothing but a head, or of nothing at all: what is audited is the image itself."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import lieaudit
from lieaudit import AuditSpec
from lieaudit.symmetries import tangents

torch = pytest.importorskip("torch")

IMAGES = np.random.default_rng(4).standard_normal((3, 2, 6, 6)).astype(np.float32)


def graph(op, **attributes):
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2, 6, 6]) for name in ("image", "y")]
    made = helper.make_graph([helper.make_node(op, ["image"], ["y"], **attributes)], "bare", info[:1], info[1:])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("op", ["Identity", "Dropout"])
def test_an_image_that_is_its_own_output_is_equivariant(op):
    spec = AuditSpec(generators=("translation_x", "rotation"), head="spatial")
    found = lieaudit.audit(graph(op), IMAGES, spec)
    assert max(max(result.per_image) for result in found.results.values()) < 1e-12  # of numbers of size 1, squared


@pytest.mark.parametrize("op", ["Softmax", "Sigmoid"])
def test_a_head_alone_is_measured(op):
    """Of a map a pointwise head commutes with the symmetry but for its curvature: float64 says by how much."""
    attributes = {"axis": 1} if op == "Softmax" else {}
    spec = AuditSpec(generators=("rotation",), head="spatial")
    found = lieaudit.audit(graph(op, **attributes), IMAGES, spec).results["rotation"]
    how = {"interpolation": "bilinear", "padding": "reflect", "convention": "central"}
    function = (lambda x: torch.softmax(x, 1)) if op == "Softmax" else torch.sigmoid
    for image, lee in zip(IMAGES.astype(np.float64), found.per_image, strict=True):
        v = torch.tensor(tangents(image, ("rotation",), **how))
        value, moved = torch.func.jvp(function, (torch.tensor(image[None]),), (v,))
        rest = moved - torch.tensor(tangents(value[0].numpy(), ("rotation",), **how))
        assert lee == pytest.approx(float((rest**2).mean()), rel=2e-5)  # the image in float32
