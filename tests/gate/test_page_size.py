"""The page of ten generators on photographs, pictures and layers included, is one that can be sent by mail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import json_format
from lieaudit_api.v1 import report_pb2
from lieaudit_client.formats import html
from onnx import helper

import lieaudit
from lieaudit.data import open_dataset, parse_preprocessing

MOST = 1_500_000
"""Bytes, what is promised."""


def _model(blocks: int) -> onnx.ModelProto:
    """Strided convolutions at 224 pixels, as many segments as a ResNet-50's."""
    rng = np.random.default_rng(3)
    nodes, weights, channels = [], [], 3
    name = "image"
    for i in range(blocks):
        kernel = (rng.normal(size=(8, channels, 3, 3)) / (3 * channels**0.5)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(kernel, f"layer{i}.weight"))
        stride = 2 if i < 4 else 1
        nodes.append(
            helper.make_node("Conv", [name, f"layer{i}.weight"], [f"c{i}"], f"/layer{i}/Conv", strides=[stride] * 2,
                             pads=[1] * 4)
        )  # fmt: skip
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"/layer{i}/Relu"))
        name, channels = f"r{i}", 8
    weights.append(onnx.numpy_helper.from_array(rng.normal(size=(8, 10)).astype(np.float32), "fc.weight"))
    nodes += [
        helper.make_node("ReduceMean", [name], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["pooled", "fc.weight"], ["logits"], "/fc/MatMul"),
    ]
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 224, 224])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "strided", [image], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.real
@pytest.mark.slow
def test_ten_generators_with_their_pictures_and_layers(real_dir: Path) -> None:
    images = open_dataset(real_dir / "images" / "imagenet_100")
    spec = lieaudit.AuditSpec(
        preprocessing=parse_preprocessing("imagenet,resize=256,crop=224"), max_images=4, layerwise="op", threads=1,
        bootstrap=100, relative_images=2,
    )  # fmt: skip
    report = lieaudit.audit(_model(24), images, spec)
    assert len(report.pictures) == 20
    assert min(len(part.segments) for part in report.layerwise.values()) > 48
    message = json_format.ParseDict(report.to_dict(), report_pb2.Report())
    page = html.render(message).encode()
    weight = sum(len(p.png) + len(p.tangent_png) for p in report.pictures)
    assert weight * 4 / 3 < 1_000_000, "the pictures are what weighs"
    assert len(page) < MOST
    assert len(html.render(message, message).encode()) < MOST, "against a baseline, with a point per image"
