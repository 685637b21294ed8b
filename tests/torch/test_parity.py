"""A network has one attribution, whichever framework runs it: layouts, kinds, status and contributions.

One list of nets, each attributed as a torch module in float64 and as the ONNX graph exported from it in float32.
"""

from __future__ import annotations

import io
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import lieaudit
from lieaudit import AuditSpec
from lieaudit.torch import attribute
from lieaudit.torch import export as exported

GENERATORS = ("rotation", "translation_x", "brightness")
SPEC = AuditSpec(
    generators=GENERATORS, method="forward", layerwise="module", head="identity", threads=1, relative_images=0,
    bootstrap=100,
)  # fmt: skip
SHAPE = (3, 8, 8)

BELOW_FLOAT32 = {("nothing to attribute", "translation_x")}
"""Where L F is 0 but for rounding, float32 and float64 need not round alike: only there may one status differ."""


class Between(nn.Module):
    """A convolution, whatever is tried on its maps, a convolution, squares, a mean over the grid, a classifier."""

    def __init__(self, *inner: nn.Module, after: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.tried = nn.ModuleList(inner)
        self.after = after or nn.Conv2d(4, 4, 1)
        self.last = nn.Linear(4, 5)

    def forward(self, x):
        h = self.first(x)
        for module in self.tried:
            h = module(h)
        return self.last((self.after(h) ** 2).mean((2, 3)))


class Flip(nn.Module):
    def forward(self, x):
        return torch.flip(x, (3,))


class Roll(nn.Module):
    def __init__(self, by: int) -> None:
        super().__init__()
        self.by = by

    def forward(self, x):
        return torch.roll(x, (self.by, self.by), (2, 3))


class TokenMixing(nn.Module):
    """Weights combine positions, as in an MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(64, 64)

    def forward(self, x):
        return x + self.mix(x.flatten(2)).view_as(x)


class Windows(nn.Module):
    """A map over windows of 4×4 pixels of a grid rolled by 2, as in a Swin transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.act = nn.Linear(4, 4), nn.GELU()

    def forward(self, x):
        n, c, h, w = x.shape
        cut = torch.roll(x, (-2, -2), (2, 3)).permute(0, 2, 3, 1).view(n, h // 4, 4, w // 4, 4, c)
        cut = self.act(self.scale(cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)))
        back = cut.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return torch.roll(back.permute(0, 3, 1, 2), (2, 2), (2, 3))


class Tokens(nn.Module):
    """Patches, a class token, positions, attention: a vision transformer of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 17, 8))
        self.norm, self.queries, self.keys, self.values = nn.LayerNorm(8), *(nn.Linear(8, 8) for _ in range(3))
        self.act, self.last = nn.GELU(), nn.Linear(8, 5)

    def forward(self, x):
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), h], 1) + self.places
        n = self.norm(h)
        weights = torch.softmax(self.queries(n) @ self.keys(n).transpose(1, 2) / 8**0.5, -1)
        return self.last(self.act(h + weights @ self.values(n))[:, 0])


class Nothing(nn.Module):
    """Circular convolutions and a mean: translations of a circular image change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.Tanh()
        self.last = nn.Linear(4, 5)

    def forward(self, x):
        return self.last(self.act(self.conv(x)).mean((2, 3)))


NETS = {
    "plain": lambda: Between(nn.Tanh()),
    "flip": lambda: Between(Flip()),
    "flip, then three by three": lambda: Between(Flip(), after=nn.Conv2d(4, 4, 3, padding=1)),
    "roll": lambda: Between(Roll(3)),
    "roll, then three by three": lambda: Between(Roll(3), after=nn.Conv2d(4, 4, 3, padding=1)),
    "roll and back": lambda: Between(Roll(3), nn.Conv2d(4, 4, 1), nn.Tanh(), Roll(-3)),
    "token mixing": lambda: Between(TokenMixing()),
    "windows": lambda: Between(Windows()),
    "average pooling behind a roll": lambda: Between(Roll(3), nn.AvgPool2d(2)),
    "largest of a window behind a roll": lambda: Between(Roll(3), nn.MaxPool2d(2)),
    "resizing behind a roll": lambda: Between(Roll(3), nn.Upsample(scale_factor=2, mode="bilinear")),
    "downsampling": lambda: Between(nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.ReLU()),
    "upsampling": lambda: Between(nn.Upsample(scale_factor=2, mode="nearest"), nn.Tanh()),
    "pooling": lambda: Between(nn.MaxPool2d(2), nn.Tanh()),
    "channels shuffled into pixels": lambda: Between(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2), nn.Tanh()),
    "vision transformer": Tokens,
    "nothing to attribute": Nothing,
}  # fmt: skip


def export(net, shape):
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.zeros(2, *shape),), file, dynamo=False, opset_version=17, input_names=["x"],
            dynamic_axes={"x": {0: "N"}}, do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
        )  # fmt: skip
    return file.getvalue()


def belonging(segments, module):
    """Return the segments of a module: those at its path, or below."""
    return [s for s in segments if f"{s.name.split(':')[0]}.".startswith(f"{module}.")]


def grid(layout):
    return layout.rpartition(" ")[2]


def compare(net, model, x, spec, name, under=str):
    """Compare the two attributions of a net, module by module; returns how many contributions were not 0.

    ``under`` says in the name of which module the exporter puts what a module does: a convolution in that of the
    normalisation that it was folded into.
    """
    onnx = lieaudit.audit(model, x, spec).layerwise
    found = attribute(net, x, spec)
    counted = 0
    for generator in spec.generators:
        graph, module = onnx[generator], found[generator].layerwise
        if (name, generator) not in BELOW_FLOAT32:
            assert module.status == graph.status, (generator, module.reasons, graph.reasons)
        if graph.status != "ok":
            continue
        whole = float(np.mean(np.sum(found[generator].lie ** 2, axis=1))) / found[generator].lie.shape[1]
        own_operations = [s for s in module.segments if s.name.endswith("own operations")]
        parts: dict[str, list] = {}
        for segment in module.segments:
            if segment not in own_operations:
                parts.setdefault(under(segment.name), []).append(segment)
        left = list(graph.segments)
        for label, segments in parts.items():
            own = belonging(graph.segments, label)
            left = [s for s in left if s not in own]
            compare_part(segments, own, whole)
            counted += sum(s.lee for s in segments) > 1e-6 * whole
        rest = sum(s.share for s in own_operations)
        assert sum(s.share for s in left) == pytest.approx(rest, abs=1e-4), generator
    return counted


def compare_part(segments, own, whole):
    segment = max(segments, key=lambda s: s.lee)
    if not own:
        assert segment.lee <= 1e-12 * whole, segment.name
        return
    assert sum(s.share for s in own) == pytest.approx(sum(s.share for s in segments), abs=1e-4), segment.name
    if len(own) > 1:
        return
    # an ONNX segment takes along what only renames its axes
    renamed = own[0].ops[-1] in {"Reshape", "Transpose", "Flatten"}
    assert grid(own[0].layout) == grid(segment.layout), segment.name
    assert own[0].layout == segment.layout or renamed, segment.name
    assert own[0].kind in {s.kind for s in segments}, segment.name
    if len(segments) == 1:
        assert own[0].lee == pytest.approx(segment.lee, rel=1e-4, abs=1e-8 * whole), segment.name


@pytest.mark.parametrize("name", NETS)
def test_both_paths_say_the_same(name):
    torch.manual_seed(0)
    net = NETS[name]().eval()
    x = np.random.default_rng(1).standard_normal((3, *SHAPE)).astype(np.float32)
    spec = SPEC
    if name == "nothing to attribute":
        spec = AuditSpec(**{**SPEC.to_dict(), "padding": "circular", "generators": ("translation_x",)})
    counted = compare(net, export(net, SHAPE), x, spec, name)
    assert counted > 1 or name == "nothing to attribute"


@pytest.mark.real
def test_both_paths_say_the_same_of_a_trained_model(resnet20, cifar):
    model = exported(resnet20, cifar[:1])
    assert compare(resnet20, model, cifar[:2], SPEC, "resnet20", lambda name: re.sub(r"conv(\d)$", r"bn\1", name)) > 40
