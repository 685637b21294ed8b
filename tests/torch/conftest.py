"""Models for the torch path: the shared ResNet-20, and tiny transformers models with random weights."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch path needs torch")

pytestmark = pytest.mark.torch


class Block(torch.nn.Module):
    """A basic block with the parameter-free shortcut of the CIFAR ResNets (option A)."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(outer)
        self.conv2 = torch.nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(outer)
        self.pad = (outer - inner) // 2

    def forward(self, x):
        out = torch.nn.functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.pad:
            x = torch.nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return torch.nn.functional.relu(out + x)


class ResNet20(torch.nn.Module):
    """The CIFAR-10 ResNet-20 whose weights are shared."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(16)
        widths = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        for number, (inner, outer, stride) in enumerate(widths, 1):
            blocks = [Block(inner, outer, stride), Block(outer, outer, 1), Block(outer, outer, 1)]
            setattr(self, f"layer{number}", torch.nn.Sequential(*blocks))
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, x):
        x = torch.nn.functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.nn.functional.avg_pool2d(x, x.shape[-2:]).flatten(1))


def make_resnet20() -> torch.nn.Module:
    """Return an untrained ResNet-20 in evaluation mode; also the factory that a server test registers."""
    return ResNet20().eval()


@pytest.fixture(scope="session")
def resnet20(real_dir):
    """The trained CIFAR-10 ResNet-20."""
    model = make_resnet20()
    stored = torch.load(real_dir / "checkpoints" / "resnet20_cifar10.th", weights_only=True, map_location="cpu")
    model.load_state_dict({name.removeprefix("module."): value for name, value in stored["state_dict"].items()})
    return model


@pytest.fixture(scope="session")
def cifar(real_dir):
    """128 CIFAR-10 test images as the ResNet takes them, float32 (128, 3, 32, 32)."""
    with np.load(real_dir / "images" / "cifar10_test_1017.npz") as data:
        raw = data["x"][:128].astype(np.float32) / 255
    normal = (raw - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))


def _vit(transformers):
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8,
        num_labels=10, initializer_range=0.2,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config), 32


def _swin(transformers):
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=10,
        initializer_range=0.2,
    )  # fmt: skip
    return transformers.SwinForImageClassification(config), 32


def _convnext(transformers):
    config = transformers.ConvNextConfig(
        num_stages=2,
        hidden_sizes=[8, 16],
        depths=[2, 2],
        num_labels=10,
        layer_scale_init_value=0.5,
        initializer_range=0.2,
    )
    return transformers.ConvNextForImageClassification(config), 32


def _segformer(transformers):
    config = transformers.SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, num_labels=5, initializer_range=0.2,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config), 32


MAKERS = {"vit": _vit, "swin": _swin, "convnext": _convnext, "segformer": _segformer}


@pytest.fixture(scope="session")
def transformers_models():
    """Name → (model, image size): ViT, Swin, ConvNeXt and SegFormer, small, with random weights of order one."""
    transformers = pytest.importorskip("transformers", reason="the models come from transformers")
    models = {}
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        model, size = make(transformers)
        models[name] = (model.eval(), size)
    return models


@pytest.fixture
def noise():
    """Smooth-free random images: (count, channels, size) → float32 (count, channels, size, size)."""

    def make(count: int, channels: int, size: int, seed: int = 0):
        return np.random.default_rng(seed).normal(size=(count, channels, size, size)).astype(np.float32)

    return make
