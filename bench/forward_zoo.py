"""Tiny random-weight image models of every family that forward mode is measured and tested on.

Each entry gives a torch module in eval mode, mapping images to raw outputs, and the image shape. The weights are drawn
with a seed; batch-norm statistics are randomised, so that no normalisation is the identity.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import onnx
import torch
import transformers

hf: Any = transformers  # its configurations are typed without their base's fields

Shape = tuple[int, int, int]
Built = tuple[torch.nn.Module, Shape]


class _Output(torch.nn.Module):
    """One tensor of a transformers model's output."""

    def __init__(self, model: torch.nn.Module, field: str) -> None:
        super().__init__()
        self.model = model
        self.field = field

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        out = self.model(pixel_values)
        return getattr(out, self.field)  # type: ignore[no-any-return]


def _finish(make: Callable[[], Any], shape: Shape = (3, 32, 32), field: str = "logits") -> Built:
    torch.manual_seed(0)
    model = make()
    if hasattr(model, "set_attn_implementation"):
        with contextlib.suppress(ValueError):
            model.set_attn_implementation("eager")  # forward AD of torch knows no fused attention
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.running_mean.normal_(0.0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                # transformers draws at 0.02 whatever the width: signals would die out in deep narrow networks
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        for name, parameter in model.named_parameters():
            # transformers starts position embeddings, biases and layer scales at 0 or tiny values: make them count
            if parameter.ndim < 2 and ("bias" in name or "lambda" in name or "scale" in name):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return _Output(model, field).eval(), shape


_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 10,
}


def vit() -> Built:
    return _finish(lambda: hf.ViTForImageClassification(hf.ViTConfig(**_VIT)))


def deit() -> Built:
    return _finish(lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**_VIT)))


def beit() -> Built:
    config = hf.BeitConfig(**_VIT, use_relative_position_bias=True, layer_scale_init_value=0.5)
    return _finish(lambda: hf.BeitForImageClassification(config))


def dinov2_registers() -> Built:
    values = {k: v for k, v in _VIT.items() if k != "intermediate_size"}
    config = hf.Dinov2WithRegistersConfig(**values, mlp_ratio=2, num_register_tokens=3)
    return _finish(lambda: hf.Dinov2WithRegistersForImageClassification(config))


def swin() -> Built:
    config = hf.SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=10
    )
    return _finish(lambda: hf.SwinForImageClassification(config))


def convnext() -> Built:
    config = hf.ConvNextConfig(
        depths=[1, 2], hidden_sizes=[16, 32], num_stages=2, num_labels=10, layer_scale_init_value=0.5
    )
    return _finish(lambda: hf.ConvNextForImageClassification(config))


def resnet() -> Built:
    config = hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2], layer_type="bottleneck", num_labels=10
    )
    return _finish(lambda: hf.ResNetForImageClassification(config))


def mobilenet_v2() -> Built:
    return _finish(
        lambda: hf.MobileNetV2ForImageClassification(hf.MobileNetV2Config(num_labels=10, depth_multiplier=0.35)),
        (3, 64, 64),
    )


def efficientnet() -> Built:
    config = hf.EfficientNetConfig(
        image_size=64,
        width_coefficient=0.25,
        depth_coefficient=0.25,
        hidden_dim=320,
        num_labels=10,
        in_channels=[32, 16, 24],
        out_channels=[16, 24, 40],
        kernel_sizes=[3, 3, 5],
        depthwise_padding=[],
        strides=[1, 2, 2],
        num_block_repeats=[1, 2, 2],
        expand_ratios=[1, 6, 6],
    )
    return _finish(lambda: hf.EfficientNetForImageClassification(config), (3, 64, 64))


def poolformer() -> Built:
    config = hf.PoolFormerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 32], num_labels=10, layer_scale_init_value=0.5
    )
    return _finish(lambda: hf.PoolFormerForImageClassification(config), (3, 64, 64))


def levit() -> Built:
    config = hf.LevitConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        num_labels=10,
    )
    return _finish(lambda: hf.LevitForImageClassification(config), (3, 64, 64))


def cvt() -> Built:
    config = hf.CvtConfig(embed_dim=[8, 8, 16], num_heads=[1, 1, 2], depth=[1, 2, 3], num_labels=10)
    return _finish(lambda: hf.CvtForImageClassification(config))


def mobilevit() -> Built:
    config = hf.MobileViTConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 16, 24, 32],
        num_labels=10,
    )
    return _finish(lambda: hf.MobileViTForImageClassification(config), (3, 64, 64))


def segformer() -> Built:
    config = hf.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[4, 2], hidden_sizes=[8, 16], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=5,
    )  # fmt: skip
    return _finish(lambda: hf.SegformerForSemanticSegmentation(config))


def upernet() -> Built:
    backbone = hf.ConvNextConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = hf.UperNetConfig(
        backbone_config=backbone, hidden_size=16, pool_scales=[1, 2], num_labels=5, use_auxiliary_head=False,
        auxiliary_in_channels=16,
    )  # fmt: skip
    return _finish(lambda: hf.UperNetForSemanticSegmentation(config), (3, 64, 64))


def clip_vision() -> Built:
    values = {k: v for k, v in _VIT.items() if k != "num_labels"}
    config = hf.CLIPVisionConfig(**values, projection_dim=16)
    return _finish(lambda: hf.CLIPVisionModelWithProjection(config), field="image_embeds")


ZOO: dict[str, Callable[[], Built]] = {
    f.__name__: f
    for f in (
        vit, deit, beit, dinov2_registers, swin, convnext, resnet, mobilenet_v2, efficientnet, poolformer, levit, cvt,
        mobilevit, segformer, upernet, clip_vision,
    )
}  # fmt: skip


def _fix_positions(module: torch.nn.Module, undo: contextlib.ExitStack) -> None:
    kind = transformers.models.dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersEmbeddings
    embeddings: Any
    for embeddings in [part for part in module.modules() if isinstance(part, kind)]:
        embeddings.interpolate_pos_encoding = lambda _tokens, _h, _w, own=embeddings: own.position_embeddings
        undo.callback(delattr, embeddings, "interpolate_pos_encoding")


def export(module: torch.nn.Module, shape: Shape, exporter: str) -> onnx.ModelProto:
    """Export to ONNX: ``script`` or ``dynamo`` with a symbolic batch; with ``-static`` at batch size 1.

    TorchScript has no antialiased resize, which DINOv2 asks for even where its position embeddings fit the image; they
    are taken as they are there.
    """
    image = torch.randn(1 if exporter.endswith("static") else 2, *shape)
    with warnings.catch_warnings(), torch.no_grad(), contextlib.ExitStack() as undo:
        warnings.simplefilter("ignore")
        if exporter.startswith("script"):
            _fix_positions(module, undo)
        if exporter.startswith("dynamo"):
            dynamic = None if exporter.endswith("static") else ({0: torch.export.Dim("N")},)
            program = torch.onnx.export(module, (image,), dynamo=True, dynamic_shapes=dynamic, verbose=False)
            assert program is not None
            proto = program.model_proto
        else:
            buffer: Any = io.BytesIO()
            axes = None if exporter.endswith("static") else {"x": {0: "N"}, "z": {0: "N"}}
            torch.onnx.export(
                module, (image,), buffer, dynamo=False, opset_version=17, input_names=["x"], output_names=["z"],
                dynamic_axes=axes,
            )  # fmt: skip
            proto = onnx.load_from_string(buffer.getvalue())
    return proto
