"""Modules, layouts, kinds and merges of exported models."""

from __future__ import annotations

import pytest

from lieaudit.graph.load import load_model
from lieaudit.layerwise import layers
from lieaudit.layerwise.modules import _from_elements, _from_scopes
from lieaudit.layerwise.preparation import prepare
from lieaudit.spec import AuditSpec


def tree(source, **fields):
    spec = AuditSpec(**fields)
    return {layer.name: layer for layer in layers(load_model(source, spec), spec)}


@pytest.mark.parametrize(("name", "module", "layout"), [
    ("vit", "vit.embeddings", "tokens 1+4x6"),
    ("deit", "deit.embeddings", "tokens 1+1+4x6"),
    ("registers", "embedding", "tokens 5+4x6"),
    ("swin", "swin.encoder.layers.0.blocks.0.attention.q_proj", "windows 16x24/4x4"),
    ("swin", "swin.encoder.layers.0.blocks.1.attention.q_proj", "windows 16x24/4x4, shifted by 2"),
    ("swin", "swin.encoder.layers.0.downsample", "tokens 8x12"),
    ("convnext", "convnext.encoder.stages.0.layers.0.layernorm", "NHWC 16x24"),
    ("segformer", "segformer.stages.0.patch_embeddings.proj", "tokens 16x24"),
    ("unet", "up1", "NCHW 64x96"),
])  # fmt: skip
def test_layouts_of_exported_models(exported, name, module, layout):
    assert tree(exported(name, 64, 96))[module].layout == layout


@pytest.mark.parametrize(("name", "module", "kind"), [
    ("vit", "vit.embeddings.patch_embeddings.projection", "patch embedding"),
    ("vit", "vit.embeddings", "positional embedding"),
    ("vit", "vit.layers.0.attention", "attention"),
    ("vit", "vit.layers.0.layernorm_before", "normalisation"),
    ("vit", "vit.layers.0.mlp.fc1", "pointwise linear"),
    ("vit", "classifier", "head"),
    ("mixer", "blocks.0:position_mixing", "position mixing"),
    ("unet", "up2", "upsampling"),
    ("unet", "pool", "pooling"),
    ("unet", "down1.2", "nonlinearity"),
    ("unet", "down1.0", "convolution"),
    ("swin", "swin.encoder.layers.0.downsample", "downsampling"),
])  # fmt: skip
def test_kinds_of_exported_models(exported, name, module, kind):
    assert tree(exported(name, 64, 96))[module].kind == kind


def test_token_mixing_merges_and_says_so(tools, exported):
    model = load_model(exported("mixer", 64, 96))
    merged = prepare(model, AuditSpec()).segmentation.merged
    assert merged
    assert all("mixed" in entry.why and "blocks" in entry.why for entry in merged)


def test_depth_cuts_the_tree(exported):
    source = exported("vit", 64, 96)
    shallow = tree(source, depth=2, layerwise="module")
    assert {name for name in shallow if name.startswith("vit.")} >= {"vit.layers", "vit.embeddings"}
    assert len(shallow) < len(tree(source)) < len(tree(source, layerwise="op"))


def test_both_torch_exporters_give_the_same_modules(tools):
    model = tools.vit(32, 48).eval()
    names = [set(tree(tools.export(model, 32, 48, dynamo=dynamo))) for dynamo in (False, True)]
    modules = [{n for n in own if ":" not in n and not n.startswith("rearr")} for own in names]
    missing = modules[0] ^ modules[1]
    # the class token is picked by an op of the model itself, which the exporters call by other names
    assert {m for m in missing if "." in m} == set()


@pytest.mark.parametrize(("elements", "path"), [
    (["layer1", "layer1.0", "conv1"], ("layer1", "0", "conv1")),
    (["features", "features.0", "features.0.0"], ("features", "0", "0")),
    (["1", "1.0", "1.0.0", "fn", "fn.0", "norm"], ("1", "0", "0", "fn", "0", "norm")),
    (["sequential", "conv2d_1"], ("sequential", "conv2d_1")),
    (["layer1", "layer10"], ("layer1", "layer10")),
])  # fmt: skip
def test_scope_names(elements, path):
    assert _from_elements(elements) == path


@pytest.mark.parametrize(("text", "path"), [
    ("['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']", ("layer1", "0", "conv1")),
    ("['', 'add']", ()),
    ("not a list", ()),
    ("__import__('os')", ()),
])  # fmt: skip
def test_dynamo_scopes(text, path):
    assert _from_scopes(text) == path


@pytest.mark.real
def test_a_graph_without_names_falls_back_to_blocks(real_dir):
    found = tree(real_dir / "models" / "resnet_2b_batch1_cifar10.onnx")
    assert {"block_2.Conv_2", "block_2.Relu_2", "Conv_1"} <= set(found)
    shallow = tree(real_dir / "models" / "resnet_2b_batch1_cifar10.onnx", depth=1, layerwise="module")
    assert "block_2" in shallow


@pytest.mark.real
def test_an_nhwc_input_is_tracked(real_dir):
    found = tree(real_dir / "models" / "cnn_small_nhwc_cifar10.onnx", layerwise="op")
    assert {"NHWC 32x32", "NCHW 15x15", "vector"} <= {layer.layout for layer in found.values()}


def test_a_declared_layout_replaces_the_derived_one(tools, exported):
    source = exported("mixer", 64, 96)
    plain = load_model(source)
    tensor = prepare(plain, AuditSpec(layerwise="op")).segmentation.merged[0].what
    model = load_model(source)
    merged = prepare(model, AuditSpec(layerwise="op", layouts={tensor: "vector"})).segmentation.merged
    assert tensor not in {entry.what for entry in merged}
    # a declaration changes where the network is cut, not what adds up
    assert tools.attribute(source, layouts={tensor: "vector"}, layerwise="op").completeness() <= 2e-5
