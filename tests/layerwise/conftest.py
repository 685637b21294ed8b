"""Small models of every architecture, exported with random weights, and the path from a file to its contributions."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from lieaudit.derivatives.base import Float32Array, Float64Array
from lieaudit.graph.forward import rewrite
from lieaudit.graph.load import AuditableModel, load_model
from lieaudit.layerwise.attribution import Attributor
from lieaudit.layerwise.contribution_rows import Rows
from lieaudit.layerwise.forward_pass import Chain
from lieaudit.layerwise.preparation import Prepared, prepare
from lieaudit.runtime.session import Session
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import tangents

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
nn = torch.nn


class Logits(nn.Module):
    """A transformers model reduced to what an export of it gives: images in, logits out."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(pixel_values=x).logits


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 24), nn.GELU(), nn.Linear(24, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x):
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    def __init__(self, height: int, width: int, patch: int = 8, dim: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, patch, patch)
        tokens = (height // patch) * (width // patch)
        self.blocks = nn.Sequential(MixerBlock(tokens, dim), MixerBlock(tokens, dim))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


def _twice(into: int, out: int):
    return nn.Sequential(
        nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
        nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle, self.pool = _twice(3, 8), _twice(8, 16), _twice(16, 16), nn.MaxPool2d(2)
        self.up2, self.use2 = nn.ConvTranspose2d(16, 16, 2, 2), _twice(32, 8)
        self.up1, self.use1 = nn.Upsample(scale_factor=2, mode="bilinear"), _twice(16, 8)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(self.pool(a))
        y = self.use2(torch.cat([self.up2(self.middle(self.pool(b))), b], 1))
        return self.out(self.use1(torch.cat([self.up1(y), a], 1)))


class Attention(nn.Module):
    """The part of attention that is not a linear layer."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, q, k, v):
        n, tokens, dim = q.shape
        q, k, v = (t.reshape(n, tokens, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        weights = torch.softmax(q @ k.transpose(2, 3) / (dim / self.heads) ** 0.5, dim=-1)
        return (weights @ v).transpose(1, 2).reshape(n, tokens, dim)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.attention, self.fc1, self.act, self.fc2 = (
            Attention(heads), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )  # fmt: skip

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.proj(self.attention(self.q(y), self.k(y), self.v(y)))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class Embedding(nn.Module):
    """Prefix tokens put before the patches; a positional embedding added."""

    def __init__(self, tokens: int, prefix: int, dim: int, positional: bool) -> None:
        super().__init__()
        self.prefix = nn.Parameter(torch.randn(1, prefix, dim)) if prefix else None
        self.position = nn.Parameter(torch.randn(1, tokens + prefix, dim)) if positional else None

    def forward(self, x):
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], 1)
        return x if self.position is None else x + self.position


class ViT(nn.Module):
    """A ViT of which every step that can break equivariance is a module."""

    def __init__(
        self, height: int, width: int, *, prefix: int = 1, patch: int = 16, dim: int = 32, depth: int = 2,
        heads: int = 2, positional: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch = nn.Conv2d(3, dim, patch, patch)
        self.embedding = Embedding(height * width // patch**2, prefix, dim, positional)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x):
        x = self.embedding(self.patch(x).flatten(2).transpose(1, 2))
        x = self.norm(self.blocks(x))
        return self.head(x[:, 0] if self.embedding.prefix is not None else x.mean(1))


class ResidualBlock(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = (
            nn.Conv2d(into, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        )
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
        self.shortcut = nn.Conv2d(into, out, 1, stride, bias=False) if stride > 1 or into != out else None

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016) of full width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn, self.relu = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, 1)
        widths = [64, 64, 128, 256, 512]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(ResidualBlock(a, b, 1 if i == 0 else 2), ResidualBlock(b, b, 1))
                for i, (a, b) in enumerate(pairwise(widths))
            )
        )
        self.average, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 10)

    def forward(self, x):
        x = self.layers(self.pool(self.relu(self.bn(self.stem(x)))))
        return self.fc(self.average(x).flatten(1))


def randomise(model) -> None:
    """Return normalisations and biases other values than their trivial initial ones."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
            elif isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                module.bias.normal_(0, 0.2)


def build(name: str, height: int, width: int):
    """Return a small model of an architecture, in evaluation mode."""
    t, common = transformers, {"num_labels": 10}
    vit = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 16,
        "image_size": (height, width), **common,
    }  # fmt: skip
    builders: dict[str, Callable[[], nn.Module]] = {
        "resnet": lambda: Logits(
            t.ResNetForImageClassification(
                t.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], **common)
            )
        ),
        "convnext": lambda: Logits(
            t.ConvNextForImageClassification(
                t.ConvNextConfig(hidden_sizes=[8, 16], depths=[2, 1], num_stages=2, **common)
            )
        ),
        "mobilenetv2": lambda: Logits(
            t.MobileNetV2ForImageClassification(t.MobileNetV2Config(depth_multiplier=0.25, **common))
        ),
        "vit": lambda: Logits(t.ViTForImageClassification(t.ViTConfig(**vit))),
        "registers": lambda: ViT(height, width, prefix=5),
        "deit": lambda: Logits(t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**vit))),
        "swin": lambda: Logits(
            t.SwinForImageClassification(
                t.SwinConfig(
                    image_size=height, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4,
                    **common,
                )
            )
        ),
        "segformer": lambda: Logits(
            t.SegformerForSemanticSegmentation(
                t.SegformerConfig(
                    num_encoder_blocks=2, depths=[1, 1], hidden_sizes=[8, 16], num_attention_heads=[1, 2],
                    sr_ratios=[4, 1], decoder_hidden_size=16, patch_sizes=[7, 3], strides=[4, 2], mlp_ratios=[2, 2],
                    **common,
                )
            )
        ),
        "mixer": lambda: Mixer(height, width),
        "unet": UNet,
    }  # fmt: skip
    torch.manual_seed(0)
    model = builders[name]().eval()
    randomise(model)
    if name == "mobilenetv2":  # with transformers' initial weights its activations die out
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    return model


ARCHITECTURES = (
    "resnet", "convnext", "mobilenetv2", "vit", "registers", "deit", "swin", "mixer", "segformer", "unet",
)  # fmt: skip


def export(model, height: int, width: int, *, dynamo: bool = False, channels: int = 3) -> bytes:
    """Export with a free batch size."""
    x = torch.zeros(2, channels, height, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = ({0: torch.export.Dim("N", min=1, max=4096)},)
            program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
            return program.model_proto.SerializeToString()
        file = io.BytesIO()
        torch.onnx.export(
            model, (x,), file, dynamo=False, opset_version=17, input_names=["x"], dynamic_axes={"x": {0: "N"}}
        )
        return file.getvalue()


@dataclass
class Attributed:
    """Contributions of a few images before and after the head."""

    model: AuditableModel
    prepared: Prepared
    chain: Chain
    images: Float32Array
    directions: Float32Array
    rows: Rows
    contributions: Float64Array
    lie: Float64Array
    """L F carried through the same sessions."""
    independent: Float64Array
    """L F by the rewrite of the whole graph."""

    @property
    def names(self) -> list[str]:
        return [self.prepared.segmentation.segments[k].name for k in self.rows.sources]

    def by_name(self, name: str) -> Float64Array:
        """Return C_k of a segment, (n, G, K)."""
        return self.contributions[:, self.names.index(name)]

    def completeness(self) -> float:
        return _distance(self.contributions.sum(axis=1), self.lie)

    def drift(self) -> float:
        return _distance(self.lie, self.independent)


def _distance(a: Float64Array, b: Float64Array) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def attribute(
    source: bytes | str,
    generators: tuple[str, ...] = ("translation_x", "rotation"),
    *,
    images: Float32Array | None = None,
    count: int = 2,
    keep_all: bool = False,
    **fields: object,
) -> Attributed:
    """Attribute a model on a few images."""
    spec = AuditSpec(threads=1, layerwise=str(fields.pop("layerwise", "module")), generators=generators, **fields)  # type: ignore[arg-type]
    model = load_model(source, spec)
    prepared = prepare(model, spec)
    if images is None:
        shape = (count, model.channels, model.height, model.width)
        images = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    how = {"interpolation": spec.interpolation, "padding": spec.padding, "convention": spec.convention}
    directions = tangents(images, generators, **how)
    chain = Chain(model, prepared, spec, generators, keep_all=keep_all)
    rows = chain(images, directions)
    whole = rewrite(model.model)
    with Session(whole.model, threads=1) as session:
        z, dz = session.run({whole.values_in[0]: images, whole.tangents_in[0]: np.moveaxis(directions, 1, 0)})
    dz = np.moveaxis(dz, 1, 0)
    shift = np.float64(0.0)
    if model.head.spatial and "brightness" not in generators:
        shift = tangents(z.astype(np.float64), generators, **how)
    n, segments = len(images), len(rows.sources)
    contributions = np.stack([model.head.differential(z, rows.contributions[:, k]) for k in range(segments)], axis=1)
    return Attributed(
        model, prepared, chain, images, directions, rows,
        contributions.reshape(n, segments, len(generators), -1),
        (model.head.differential(z, rows.total) - shift).reshape(n, len(generators), -1),
        (model.head.differential(z, dz) - shift).reshape(n, len(generators), -1),
    )  # fmt: skip


@pytest.fixture(scope="session")
def exported() -> Callable[[str, int, int], bytes]:
    """Export each architecture and size once."""
    made: dict[tuple[str, int, int], bytes] = {}

    def get(name: str, height: int, width: int) -> bytes:
        key = (name, height, width)
        if key not in made:
            made[key] = export(build(name, height, width), height, width)
        return made[key]

    return get


@dataclass(frozen=True)
class Tools:
    """What tests of this folder share."""

    architectures = ARCHITECTURES
    build = staticmethod(build)
    export = staticmethod(export)
    attribute = staticmethod(attribute)
    randomise = staticmethod(randomise)
    vit = ViT
    resnet18 = ResNet18
    attributor = Attributor


@pytest.fixture(scope="session")
def tools() -> Tools:
    return Tools()
