"""Directional derivatives of modules, against reverse-mode derivatives and closed forms."""

from __future__ import annotations

import collections
from typing import NamedTuple

import numpy as np
import pytest
import torch

from lieaudit.errors import SourceError, SpecError
from lieaudit.torch import SourceFunction, TorchDifferentiator

NAMES = ["vit", "swin", "convnext", "segformer"]


def double_backward(function, x, v):
    """Dz(x)[v] by reverse over reverse: shares no differentiation rule with the forward mode under test."""
    _, tangent = torch.autograd.functional.jvp(function, x, v, strict=False)
    return tangent


def directions(images, count, seed=1):
    shape = (len(images), count, *images.shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def relative(a, b):
    return np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b))


@pytest.mark.parametrize("name", NAMES)
def test_transformers_models_match_double_backward_in_float64(transformers_models, noise, name):
    model, size = transformers_models[name]
    x = noise(2, 3, size)
    v = directions(x, 3)
    function = SourceFunction(model)
    result = TorchDifferentiator(function)(x, v)
    for d in range(3):
        expected = double_backward(function, function.tensor(x), function.tensor(v[:, d]))
        # two orders of summation of float64: a few hundred roundings
        assert relative(result.tangent[:, d], expected) < 1e-12
    assert relative(result.value, function(function.tensor(x)).detach()) == 0


def test_resnet20_matches_double_backward_in_float64(resnet20, cifar):
    v = directions(cifar[:4], 2)
    function = SourceFunction(resnet20)
    result = TorchDifferentiator(function)(cifar[:4], v)
    for d in range(2):
        expected = double_backward(function, function.tensor(cifar[:4]), function.tensor(v[:, d]))
        assert relative(result.tangent[:, d], expected) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_float32_error_bar_covers_the_distance_to_float64(transformers_models, noise, assert_covers, name):
    model, size = transformers_models[name]
    x = noise(64, 3, size)
    v = directions(x, 1)
    exact = TorchDifferentiator(SourceFunction(model))(x, v)
    single = TorchDifferentiator(SourceFunction(model, precision="float32"))(x, v)
    error = np.linalg.norm((single.tangent - exact.tangent).reshape(64, -1), axis=1)
    bar = single.coverage * np.linalg.norm(np.stack(single.spreads).reshape(4, 64, -1), axis=(0, 2))
    assert_covers(error <= bar)
    # and it is a bar, not a blanket: float32 rounding is 1e-7, a deep graph's a hundred times that
    assert np.median(bar / np.linalg.norm(exact.tangent.reshape(64, -1), axis=1)) <= 1e-4


def test_float32_error_bar_covers_on_the_trained_resnet(resnet20, cifar, assert_covers):
    count = len(cifar)
    v = directions(cifar, 1)
    exact = TorchDifferentiator(SourceFunction(resnet20))(cifar, v)
    single = TorchDifferentiator(SourceFunction(resnet20, precision="float32"))(cifar, v)
    error = np.linalg.norm((single.tangent - exact.tangent).reshape(count, -1), axis=1)
    bar = single.coverage * np.linalg.norm(np.stack(single.spreads).reshape(4, count, -1), axis=(0, 2))
    assert_covers(error <= bar)
    exact_bar = exact.coverage * np.linalg.norm(np.stack(exact.spreads).reshape(4, count, -1), axis=(0, 2))
    assert (exact_bar > 0).all()
    # what is left in float64 is the rounding of the float32 directions, 6e-8
    assert exact_bar.max() < 1e-6 * np.linalg.norm(exact.tangent.reshape(count, -1), axis=1).max()


def test_linear_module_has_its_matrix_as_derivative():
    layer = torch.nn.Linear(12, 5)
    module = torch.nn.Sequential(torch.nn.Flatten(), layer)
    x = np.ones((2, 3, 2, 2), np.float32)
    v = directions(x, 4)
    result = TorchDifferentiator(SourceFunction(module))(x, v)
    expected = v.reshape(2, 4, 12).astype(np.float64) @ layer.weight.detach().double().numpy().T
    assert np.abs(result.tangent - expected).max() < 1e-13


class _Grid(torch.nn.Module):
    def forward(self, x):
        theta = torch.tensor([[0.9, 0.2, 0.1], [-0.2, 0.9, 0.0]]).expand(len(x), 2, 3)
        grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
        return torch.nn.functional.grid_sample(x, grid + 0.1 * x.mean(), align_corners=False)


class _InPlace(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.relu = torch.nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.relu(self.conv(x))
        h += 0.5 * h.roll(1, 2)
        h[:, 0] *= 2
        buffer = torch.zeros_like(h)
        buffer[:, 1:] = h[:, :-1]
        return buffer.mul_(h).flatten(1)


class _Casts(torch.nn.Module):
    """Casts down inside, and keeps a constant that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.scale = torch.linspace(0.5, 1.5, 8)

    def forward(self, x):
        h = torch.nn.functional.softmax(x * self.scale, dim=-1, dtype=torch.float32).to(x.dtype)
        return (h.half().float() * x.float()).flatten(1)


class _Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")

    def forward(self, x):
        return self.inner(x.flatten(1, 2))


ODD = {
    "grid_sample": _Grid,
    "cdist": lambda: _function(lambda x: torch.cdist(x.flatten(2), 2 * x.flatten(2)).flatten(1)),
    "in place": _InPlace,
    "casts": _Casts,
    "fast path attention": _Attention,
    "sort": lambda: _function(lambda x: x.flatten(1).sort(dim=1).values[:, -5:]),
    "complex": lambda: _function(lambda x: torch.fft.rfft2(x).abs().flatten(1)),
    "bicubic": lambda: _function(lambda x: torch.nn.functional.interpolate(x, scale_factor=1.5, mode="bicubic")),
}


def _function(call):
    class Function(torch.nn.Module):
        def forward(self, x):
            return call(x)

    return Function()


@pytest.mark.parametrize("name", ODD)
def test_functions_with_no_forward_rule_or_odd_style(noise, name):
    torch.manual_seed(0)
    function = SourceFunction(ODD[name]().eval())
    x = noise(2, 3, 8)
    v = directions(x, 2)
    result = TorchDifferentiator(function)(x, v)
    h = 1e-6
    for d in range(2):
        point, step = function.tensor(x), h * function.tensor(v[:, d])
        with torch.no_grad():
            expected = (function(point + step) - function(point - step)) / (2 * h)
        # second-order truncation h² and rounding 1e-16/h of the difference quotient: 1e-9 of a derivative of order one
        assert relative(result.tangent[:, d], expected) < 1e-7


def test_control_flow_on_values_is_differentiated_one_direction_at_a_time(noise):
    module = _function(lambda x: (x**2 if bool(x.sum() > 0) else x**3).flatten(1))
    x = noise(1, 3, 4)
    v = directions(x, 3)
    result = TorchDifferentiator(SourceFunction(module))(x, v)
    power = 2 if x.sum() > 0 else 3
    expected = power * x.astype(np.float64)[:, None] ** (power - 1) * v
    assert relative(result.tangent, expected.reshape(1, 3, -1)) < 1e-14


class _Pair(NamedTuple):
    logits: torch.Tensor
    features: torch.Tensor


def test_outputs_of_every_container_can_be_named(noise):
    x = noise(2, 3, 4)
    cases = {
        "1": lambda x: (x.mean(), x.flatten(1)),
        "z": lambda x: {"z": x.flatten(1), "aux": x},
        "features": lambda x: _Pair(x, x.flatten(1)),
        "0.z": lambda x: [{"z": x.flatten(1)}, x],
    }
    for name, call in cases.items():
        function = SourceFunction(_function(call), output=name)
        assert torch.equal(function(function.tensor(x)), function.tensor(x).flatten(1))
    only = SourceFunction(_function(lambda x: {"z": x.flatten(1), "size": 3, "index": x.argmax()}))
    assert only(only.tensor(x)).shape == (2, 48)


@pytest.mark.parametrize(
    ("call", "output", "reason", "names"),
    [
        (lambda x: (x, 2 * x), "", "AMBIGUOUS_OUTPUT", "0, 1"),
        (lambda x: {"a": x}, "b", "NO_SUCH_OUTPUT", "a"),
        (lambda x: x.argmax(), "", "NO_OUTPUT", "Tensor"),
        (lambda x: x.mean(), "", "NO_BATCH_AXIS", "()"),
    ],
)
def test_unclear_outputs_are_named(noise, call, output, reason, names):
    function = SourceFunction(_function(call), output=output)
    with pytest.raises(SourceError) as raised:
        function(function.tensor(noise(2, 3, 4)))
    assert raised.value.reason == reason
    assert names in str(raised.value)


class _Several(torch.nn.Module):
    def forward(self, images, scale, offset=0.0, *, flag):
        return (images * scale + offset).flatten(1) if flag else images.flatten(1)


def test_further_inputs_are_fixed_or_named(noise):
    with pytest.raises(SourceError, match="needs scale, flag") as raised:
        SourceFunction(_Several())
    assert raised.value.reason == "MISSING_INPUTS"
    with pytest.raises(SourceError, match="has no argument 'size'"):
        SourceFunction(_Several(), others={"size": 3})
    scale = torch.full((1, 3, 1, 1), 2.0)
    function = SourceFunction(_Several(), others={"scale": scale, "flag": True})
    x = noise(3, 3, 4)
    assert relative(function(function.tensor(x)), 2 * x.reshape(3, -1)) < 1e-7


def test_a_failing_submodule_is_named(noise):
    module = torch.nn.Sequential(collections.OrderedDict(stem=torch.nn.Conv2d(3, 4, 3), body=torch.nn.Conv2d(5, 4, 3)))
    function = SourceFunction(module)
    with pytest.raises(SourceError, match="fails in body") as raised:
        function(function.tensor(noise(1, 3, 8)))
    assert raised.value.reason == "TORCH_RUN_FAILED"
    assert raised.value.subject == "body"


def test_a_function_without_derivative_is_named(noise):
    module = _function(lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127).flatten(1))
    x = noise(1, 3, 4)
    with pytest.raises(SourceError, match="fake_quantize") as raised:
        TorchDifferentiator(SourceFunction(module))(x, directions(x, 1))
    assert raised.value.reason == "NO_FORWARD_DERIVATIVE"


class _Stateful(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x):
        self.total += x.mean()
        return x.flatten(1) * self.total


def test_a_module_that_remembers_earlier_calls_is_refused(noise):
    module = _Stateful()
    function = SourceFunction(module)
    with pytest.raises(SourceError, match="total") as raised:
        function(function.tensor(noise(1, 3, 4)))
    assert raised.value.reason == "STATEFUL_MODULE"
    assert module.total.item() == 0


def test_nan_is_refused(noise):
    x = noise(1, 3, 4)
    with pytest.raises(SourceError, match="NaN") as raised:
        TorchDifferentiator(SourceFunction(_function(lambda x: x.flatten(1).sqrt())))(x, directions(x, 1))
    assert raised.value.reason == "NON_FINITE_OUTPUT"


def test_the_users_module_is_left_as_it_was(noise):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5)).half()
    module.train()
    module[2].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = noise(2, 3, 8)
    TorchDifferentiator(SourceFunction(module))(x, directions(x, 2))
    assert [m.training for m in module] == [True, True, False]
    assert torch.get_default_dtype() == torch.float32
    for name, value in module.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


def test_fixed_batch_sizes_are_filled_up(noise):
    def strict(x):
        assert len(x) == 4
        return x.flatten(1) ** 2

    x = noise(6, 3, 4)
    v = directions(x, 2)
    result = TorchDifferentiator(SourceFunction(_function(strict)), batch=4)(x, v)
    assert result.value.shape == (6, 48)
    assert relative(result.tangent, (2 * x[:, None].astype(np.float64) * v).reshape(6, 2, -1)) < 1e-14


def test_a_memory_budget_cuts_images_and_directions(noise):
    torch.manual_seed(0)
    seen = []

    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 64, 3, padding=1)

        def forward(self, x):
            seen.append(len(x))
            return torch.tanh(self.conv(x)).mean((2, 3))

    function = SourceFunction(Wide())
    x = noise(4, 3, 32)
    v = directions(x, 6)
    whole = TorchDifferentiator(function)(x, v)
    # a row of 64 × 32 × 32 float64 in eight tensors takes 4 MiB: four rows fit 16 MiB
    seen.clear()
    pieces = TorchDifferentiator(function, budget_mib=16)(x, v)
    assert set(seen) == {1}
    # one image and three directions at a time: two passes for each image, twice for the error bar
    assert len(seen) == 1 + 2 * 4 * 2
    assert relative(pieces.tangent, whole.tangent) < 1e-14


def test_unknown_precision_and_device_are_spec_errors():
    with pytest.raises(SpecError, match="precision"):
        SourceFunction(torch.nn.Identity(), precision="float16")
    with pytest.raises(SpecError, match="nonsense"):
        SourceFunction(torch.nn.Identity(), device="nonsense")
