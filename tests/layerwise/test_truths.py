"""What must come out: zeros where a layer commutes, aliasing where it subsamples, nothing for what is not there."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

CIRCULAR = {"interpolation": "fourier", "padding": "circular"}


class Chain(nn.Module):
    """Layers in a row, then a fixed nonlinear readout that sees every pixel."""

    def __init__(self, *layers, head) -> None:
        super().__init__()
        self.layers, self.flat, self.head = nn.Sequential(*layers), nn.Flatten(), head

    def forward(self, x):
        return self.head(self.flat(self.layers(x)))


def circular(into, out, kernel, stride=1):
    return nn.Conv2d(into, out, kernel, stride, kernel // 2, padding_mode="circular", bias=True)


def seeded(seed=0):
    torch.manual_seed(seed)


def test_layers_that_commute_contribute_nothing(tools):
    """A circular stride-1 convolution, a 1×1 convolution and a per-channel affine map, each with its own row."""
    seeded()
    model = Chain(
        circular(3, 6, 5), nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 4, 1),
        head=nn.Linear(4 * 11 * 15, 5),
    ).eval()  # fmt: skip
    tools.randomise(model)
    source = tools.export(model, 11, 15)
    found = tools.attribute(source, ("translation_x", "translation_y"), keep_all=True, **CIRCULAR)
    scale = np.linalg.norm(found.by_name("layers.3"))
    zero = [n for n in found.names if n in {"layers.0", "layers.1", "layers.2", "layers.4"}]
    assert len(zero) >= 3  # the exporter may fold the normalisation into the convolution before it
    for name in zero:
        assert np.linalg.norm(found.by_name(name)) <= 1e-5 * scale, name
    # nothing proves a 5×5 convolution to commute, so it has a row of its own also when proofs are used
    assert {"layers.0", "layers.3"} <= set(tools.attribute(source, ("translation_x",), **CIRCULAR).names)


def low_pass(channels, size, keep):
    """An ideal circular low-pass as a depthwise convolution with a kernel as large as the image (odd sizes)."""
    frequencies = np.abs(np.fft.fftfreq(size, 1 / size)) <= keep
    kernel = np.fft.fftshift(np.fft.ifft(frequencies).real)
    conv = nn.Conv2d(channels, channels, size, 1, size // 2, groups=channels, bias=False, padding_mode="circular")
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(np.outer(kernel, kernel), dtype=torch.float32).expand(channels, 1, size, size))
    return conv


def test_a_low_pass_before_a_strided_convolution_lowers_its_contribution(tools):
    size = 27

    def norm_of_strided(filtered):
        seeded(1)
        strided = circular(4, 4, 3, stride=3)
        first = circular(3, 4, 3)
        head = nn.Linear(4 * 9 * 9, 5)
        between = [low_pass(4, size, 4)] if filtered else [nn.Identity()]
        model = Chain(first, *between, strided, head=head).eval()
        found = tools.attribute(tools.export(model, size, size), ("translation_x",), head="identity", **CIRCULAR)
        return np.linalg.norm(found.by_name("layers.2"))

    # nothing is left to alias: 9 × 9 pixels hold frequencies up to 4; what remains is rounding
    assert norm_of_strided(filtered=True) <= 1e-4 * norm_of_strided(filtered=False)


class Subsample(nn.Module):
    def forward(self, x):
        return x[:, :, :, ::3]


@pytest.mark.parametrize("width", [27, 45])
def test_subsampling_contributes_its_aliases(tools, width):
    """Gruver et al. 2023, Theorem 1: mode n that lands on mode m turns by 2π n and is read as turning by 2π m."""
    kept = width // 3
    head = nn.Linear(kept, kept, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(kept))
    model = Chain(Subsample(), head=head).eval()
    images = np.random.default_rng(2).standard_normal((3, 1, 1, width)).astype(np.float32)
    source = tools.export(model, 1, width, channels=1)
    found = tools.attribute(source, ("translation_x",), images=images, head="identity", **CIRCULAR)
    spectrum = np.fft.fft(images[:, 0, 0].astype(np.float64)) / width
    modes = np.fft.fftfreq(width, 1 / width)
    landed = (modes + kept // 2) % kept - kept // 2
    positions = np.arange(kept) / kept
    waves = np.exp(2j * np.pi * landed[:, None] * positions)
    expected = ((2j * np.pi * (modes - landed) * spectrum) @ waves).real
    contribution = found.contributions[:, 0, 0]
    assert np.linalg.norm(contribution - expected) <= 1e-4 * np.linalg.norm(expected)
    # the theorem's statement, an energy per image: all modes that land on one m add up
    energy = [
        kept * sum(abs((2 * np.pi * (modes - landed) * s)[landed == m].sum()) ** 2 for m in np.unique(landed))
        for s in spectrum
    ]
    np.testing.assert_allclose(np.sum(contribution**2, axis=1), energy, rtol=1e-4)


def test_removing_the_positional_embedding_removes_its_row(tools):
    def rows(positional):
        seeded(2)
        model = tools.vit(64, 96, positional=positional).eval()
        tools.randomise(model)
        return tools.attribute(tools.export(model, 64, 96), ("translation_x", "rotation"))

    with_it, without = rows(positional=True), rows(positional=False)
    kinds = {s.name: s.kind for s in with_it.prepared.segmentation.segments}
    assert kinds["embedding"] == "positional embedding"
    assert np.linalg.norm(with_it.by_name("embedding")) > 1e-3 * np.linalg.norm(with_it.lie)
    assert "embedding" not in without.names
    assert "positional embedding" not in {s.kind for s in without.prepared.segmentation.segments}
    assert set(with_it.names) - {"embedding"} == set(without.names)


@pytest.mark.parametrize("name", ["resnet", "convnext", "vit", "swin", "segformer", "unet"])
@pytest.mark.parametrize("generators", [("translation_x", "scale"), ("brightness",)], ids=["move", "gain"])
def test_proofs_of_commuting_hold(tools, exported, name, generators):
    """Every op that was proved to commute gets a row all the same: zero to rounding."""
    found = tools.attribute(exported(name, 64, 96), generators, keep_all=True, layerwise="op", count=1)
    segments = found.prepared.segmentation.segments
    gain = generators == ("brightness",)
    proved = [s.name for s in segments if (s.gain if gain else s.geometric)]
    assert len(proved) >= 3
    largest = max(np.linalg.norm(found.by_name(n)) for n in found.names)
    for segment in proved:
        # both terms of a last layer are many times its contribution: observed at most 7e-6
        assert np.linalg.norm(found.by_name(segment)) <= 2e-5 * largest, segment
