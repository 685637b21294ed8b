"""Layerwise attribution in torch, against derivatives written out by hand, and truths that must come out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lieaudit import AuditSpec
from lieaudit.errors import SourceError, SpecError
from lieaudit.torch import SourceFunction, attribute

ROTATION = AuditSpec(generators=("rotation",), head="identity", bootstrap=100)


def rotated(h):
    """X h of the rotation, with reflection about the edge pixels, written here anew."""
    height, width = h.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=h.dtype) - (height - 1) / 2,
        torch.arange(width, dtype=h.dtype) - (width - 1) / 2,
        indexing="ij",
    )
    wide = torch.nn.functional.pad(h, (1, 1, 1, 1), mode="reflect")
    dx = (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2
    dy = (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2
    return y * dx - x * dy


def jvp(f, x, v):
    return torch.func.jvp(f, (x,), (v,))[1]


def norm(values):
    return float(np.linalg.norm(values))


class Chain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(6)
        self.act = torch.nn.GELU()
        self.down = torch.nn.Conv2d(6, 8, 3, stride=2)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.down(self.act(self.norm(self.first(x)))).mean((2, 3)))


@pytest.fixture
def images(noise):
    return noise(3, 3, 13)


@pytest.fixture
def chain():
    torch.manual_seed(0)
    model = Chain().eval()
    model.norm.running_var.uniform_(0.5, 2)
    return model


def test_every_contribution_is_the_chain_rule_written_out(chain, images):
    result = attribute(chain, images, ROTATION)["rotation"]
    model = chain.double()
    h = torch.as_tensor(images).double()
    layers = [model.first, model.norm, model.act, model.down]
    names = ["first", "norm", "act", "down"]

    def after(k):
        def rest(h):
            for layer in layers[k + 1 :]:
                h = layer(h)
            return model.head(h.mean((2, 3)))

        return rest

    with torch.no_grad():
        total = jvp(model, h, rotated(h))
        assert norm(result.lie - total.numpy()) < 1e-13 * norm(total)
        for k, (name, layer) in enumerate(zip(names, layers, strict=True)):
            out = layer(h)
            broken = jvp(layer, h, rotated(h)) - rotated(out)
            expected = jvp(after(k), out, broken)
            assert norm(result.inclusive[name] - expected.numpy()) < 1e-13 * norm(total)
            h = out
        # what is left is the pooling: it maps X h to the derivative of a mean
        pooling = model.head(rotated(h).mean((2, 3))) - model.head.bias
    assert norm(result.parts["own operations"] - pooling.numpy()) < 1e-13 * norm(total)
    assert result.completeness < 1e-13


def test_shares_add_up_and_errors_are_rounding(chain, images):
    result = attribute(chain, images, ROTATION)["rotation"].layerwise
    assert sum(s.share for s in result.segments) == pytest.approx(1, abs=1e-12)
    assert {s.name: s.layout for s in result.segments}["down"] == "NCHW 6x6"
    by_name = {s.name: s for s in result.segments}
    # a per-channel affine map commutes with moving pixels
    assert by_name["norm"].lee < 1e-25
    assert by_name["head"].commutes
    assert by_name["head"].lee == 0
    largest = max(s.lee for s in result.segments)
    for segment in result.segments:
        assert segment.error_bar < 1e-12 * largest
        assert segment.lee_ci95[0] <= segment.lee <= segment.lee_ci95[1]
        assert segment.name == "head" or segment.error_bar > 0


def test_float32_error_bars_cover_the_distance_to_float64(chain, images):
    exact = attribute(chain, images, ROTATION)["rotation"].layerwise.segments
    single = attribute(chain, images, ROTATION, precision="float32")["rotation"].layerwise.segments
    assert [s.name for s in exact] == [s.name for s in single]
    # bars hold for 95 % of draws of the rounding, so a mean may miss one on some processor, but not by a factor
    assert all(abs(a.lee - b.lee) <= 3 * b.error_bar for a, b in zip(exact, single, strict=True))


class Residual(torch.nn.Module):
    """Functional calls, a residual addition, a module called twice, in-place operators."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.twice = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.relu = torch.nn.ReLU(inplace=True)
        self.inner = torch.nn.ModuleDict({"a": torch.nn.Conv2d(4, 4, 1), "b": torch.nn.Tanh()})

    def forward(self, x):
        h = self.relu(self.stem(x))
        h = h + self.twice(torch.sigmoid(self.twice(h)))
        h = h + self.inner["b"](self.inner["a"](h))
        return torch.nn.functional.max_pool2d(h, 3).flatten(1).mean(1, keepdim=True)


def test_a_module_called_twice_counts_both_calls(images):
    torch.manual_seed(0)
    model = Residual().eval()
    result = attribute(model, images, ROTATION)["rotation"]
    assert set(result.parts) == {"stem", "twice", "relu", "inner.a", "inner.b", "own operations"}
    model.double()
    x = torch.as_tensor(images).double()

    def conjugated(alpha):
        """F with both calls of ``twice`` conjugated to first order by hand."""

        def twice(h):
            out = model.twice(h + alpha * rotated(h))
            return out - alpha * rotated(out)

        h = torch.relu(model.stem(x))
        h = h + twice(torch.sigmoid(twice(h)))
        h = h + model.inner["b"](model.inner["a"](h))
        return torch.nn.functional.max_pool2d(h, 3).flatten(1).mean(1, keepdim=True)

    with torch.no_grad():
        expected = jvp(conjugated, torch.zeros(()).double(), torch.ones(()).double())
    assert norm(result.inclusive["twice"] - expected.numpy()) < 1e-12 * norm(result.lie)
    assert norm(result.inclusive["inner.a"]) < 1e-13 * norm(result.lie)


def test_parents_are_known_beside_their_parts(resnet20, cifar):
    deep = attribute(resnet20, cifar[:2], AuditSpec(generators=("rotation",), bootstrap=100))["rotation"]
    size = norm(deep.lie)
    # the softmax is all but certain of these images: its differential loses eight digits of the rows to cancellation
    assert deep.completeness < 1e-6
    for parent in ("layer1", "layer2.0", "layer3"):
        inside = [value for name, value in deep.parts.items() if name.split(":")[0].startswith(parent)]
        assert norm(np.sum(inside, axis=0) - deep.inclusive[parent]) < 1e-11 * size
    # the residual block's own operations are a functional ReLU and, in layer2.0, a strided slice
    assert "layer2.0: own operations" in deep.parts
    for name in ("bn1", "layer3.2.bn2"):
        assert norm(deep.parts[name]) < 1e-12 * size
    flat = attribute(resnet20, cifar[:2], AuditSpec(generators=("rotation",), bootstrap=100, depth=1))["rotation"]
    assert set(flat.inclusive) == {"conv1", "bn1", "layer1", "layer2", "layer3"}
    for name, value in flat.inclusive.items():
        assert norm(value - deep.inclusive[name]) < 1e-6 * size


@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "segformer"])
def test_transformers_models_are_attributed_completely(transformers_models, noise, name):
    model, size = transformers_models[name]
    spec = AuditSpec(generators=("rotation",), bootstrap=100)
    for result in attribute(model, noise(2, 3, size), spec).values():
        assert result.completeness < 1e-11
        assert result.layerwise.merged == ()
        commuting = ("q_proj", "k_proj", "v_proj", "fc1", "fc2", "dropout", "pwconv1", "pwconv2", "batch_norm")
        for part, value in result.parts.items():
            if part.endswith(commuting):
                assert norm(value) < 1e-12 * norm(result.lie), part


def test_removing_the_positional_embedding_removes_its_row(transformers_models, noise):
    import copy

    model, size = transformers_models["vit"]
    bare = copy.deepcopy(model)
    with torch.no_grad():
        bare.vit.embeddings.position_embeddings.zero_()
    spec = AuditSpec(generators=("rotation",), bootstrap=100)
    row = "vit.embeddings: own operations"
    x = noise(2, 3, size)
    assert norm(attribute(model, x, spec)["rotation"].parts[row]) > 0
    result = attribute(bare, x, spec)["rotation"]
    assert norm(result.parts.get(row, np.zeros(1))) < 1e-12 * norm(result.lie)


def test_lattice_exact_layers_contribute_nothing(noise):
    torch.manual_seed(0)
    circular = torch.nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")
    model = torch.nn.Sequential(circular, torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 3), torch.nn.Flatten())
    spec = AuditSpec(generators=("translation_x",), padding="circular", head="identity", bootstrap=100)
    result = attribute(model, noise(2, 3, 9), spec)["translation_x"]
    for name in ("0", "1"):
        assert norm(result.parts[name]) < 1e-13 * norm(result.lie)


class Sorted(torch.nn.Module):
    """A tensor whose layout cannot be derived."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.mix = torch.nn.Linear(16, 16)
        self.last = torch.nn.Conv1d(4, 4, 1)

    def forward(self, x):
        tokens = self.mix(self.conv(x).flatten(2))
        return self.last(tokens.sort(dim=2).values).mean(2)


def test_unknown_layouts_are_named_and_can_be_declared(noise):
    torch.manual_seed(0)
    x = noise(2, 3, 4)
    result = attribute(Sorted().eval(), x, ROTATION)["rotation"]
    merged = {skipped.what: skipped.why for skipped in result.layerwise.merged}
    assert set(merged) == {"mix", "last"}
    assert "input 0 of shape (2, 4, 16)" in merged["last"]
    assert "layouts[last]" in merged["last"]
    assert result.completeness < 1e-12
    spec = AuditSpec(
        generators=("rotation",),
        head="identity",
        bootstrap=100,
        layouts={"mix": "vector", "last:input": "vector", "last": "vector"},
    )
    declared = attribute(Sorted().eval(), x, spec)["rotation"]
    assert declared.layerwise.merged == ()


@pytest.mark.parametrize(
    ("layouts", "reason"),
    [
        ({"nothing": "NCHW"}, "UNKNOWN_TENSOR"),
        ({"first": "tokens:3x4"}, "INVALID_LAYOUT"),
        ({"first": "x"}, "INVALID_LAYOUT"),
    ],
)
def test_wrong_declarations_are_refused(chain, images, layouts, reason):
    with pytest.raises(SpecError) as raised:
        attribute(chain, images, AuditSpec(generators=("rotation",), layouts=layouts))
    assert raised.value.reason == reason


class Moody(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        for _ in range(x.shape[0]):
            x = self.conv(x)
        return x.flatten(1)


def test_calls_that_change_between_batches_are_refused(noise):
    with pytest.raises(SourceError) as raised:
        attribute(Moody(), noise(1, 3, 5), ROTATION)
    assert raised.value.reason == "CALLS_DIFFER"
    assert raised.value.subject == "conv"


def test_hooks_are_gone_afterwards(chain, images):
    function = SourceFunction(chain)
    x = function.tensor(images)
    before = function(x)
    attribute(chain, images, ROTATION)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in chain.modules())
    assert torch.equal(function(x), before)


class Collecting(torch.nn.Module):
    """What a hook collects on the way goes to the classifier beside what the last layer returns."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1)
        self.last = torch.nn.Linear(8, 5)
        self.kept = []
        self.first.register_forward_hook(lambda _module, _args, output: self.kept.append(output))

    def forward(self, x):
        self.kept.clear()
        h = self.second(torch.tanh(self.first(x)))
        return self.last(torch.cat([self.kept[0] ** 2, h**2], dim=1).mean((2, 3)))


def test_what_a_hook_collects_is_what_the_module_returns(images):
    torch.manual_seed(0)
    result = attribute(Collecting().eval(), images, ROTATION)["rotation"]
    # rounding of a few hundred sums in float64; without the collected path it is of order one
    assert result.completeness < 1e-12
    assert result.layerwise.status == "ok"


def test_an_attribution_that_does_not_add_up_is_inconclusive(images):
    """A part that is detached from its input has no derivative through its boundaries, and L F none either."""
    torch.manual_seed(0)

    class Detached(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Linear(4, 5)

        def forward(self, x):
            return self.last((self.first(x.detach()) ** 2).mean((2, 3)))

    found = attribute(Detached().eval(), images, ROTATION)["rotation"].layerwise
    assert found.status == "inconclusive"
    assert found.reasons


def test_a_single_image_has_no_interval(chain, images):
    result = attribute(chain, images[:1], ROTATION)["rotation"].layerwise
    assert {segment.lee_ci95 for segment in result.segments} == {()}


def test_modules_under_combined_generators_are_those_of_each_alone():
    model = Chain().eval()
    images = np.random.default_rng(5).standard_normal((3, 3, 9, 12))
    names = ("rotation", "shear_x", "shear_y", "hyperbolic_rotation")
    custom = {"tilt": [[0.2, 0.1, 3.0], [0.0, -0.3, 1.0]]}
    whole = attribute(model, images, AuditSpec(generators=names, custom=custom))
    assert tuple(whole) == (*names, "tilt")
    for name in whole:
        alone = attribute(model, images, AuditSpec(generators=(name,), custom=custom if name == "tilt" else {}))[name]
        np.testing.assert_allclose(whole[name].lie, alone.lie, rtol=1e-9, atol=1e-12)
        for label, rows in alone.parts.items():
            np.testing.assert_allclose(whole[name].parts[label], rows, rtol=1e-9, atol=1e-12)
