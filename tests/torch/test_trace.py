"""The stochastic trace estimator, against the exact contributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lieaudit import AuditSpec
from lieaudit.errors import DataError, SourceError, SpecError
from lieaudit.torch import attribute, estimate

SPEC = AuditSpec(generators=("rotation",), bootstrap=100)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.act = torch.nn.GELU()
        self.down = torch.nn.Conv2d(6, 8, 3, stride=2)
        self.relu = torch.nn.ReLU()
        self.head = torch.nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.relu(self.down(self.act(self.first(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def images(noise):
    return noise(4, 3, 9)


def exact(module, images):
    result = attribute(module, images, SPEC)["rotation"]
    size = result.lie[0].size
    return {
        name: float(np.mean(np.sum(c.reshape(len(c), -1) ** 2, axis=1))) / size for name, c in result.inclusive.items()
    }


def test_agrees_with_the_exact_contributions_within_three_standard_errors(net, images):
    truth = exact(net, images)
    found = estimate(net, images, SPEC, tolerance=0.02)["rotation"]
    assert found.converged
    assert set(found.lee) == set(truth) == {"first", "act", "down", "relu"}
    for name, value in truth.items():
        assert abs(found.lee[name] - value) <= 3 * found.error[name], name


def test_agrees_on_a_transformer(transformers_models, noise):
    model, size = transformers_models["vit"]
    x = noise(2, 3, size)
    truth = exact(model, x)
    found = estimate(model, x, SPEC, tolerance=0.1)["rotation"]
    largest = max(truth.values())
    for name, value in truth.items():
        # rows that commute are rounding in both, and rounding is not a random variable with that error
        assert abs(found.lee[name] - value) <= 3 * found.error[name] + 1e-25 * largest, name


def test_stops_at_its_tolerance_and_not_before(net, images):
    coarse = estimate(net, images, SPEC, tolerance=0.2)["rotation"]
    fine = estimate(net, images, SPEC, tolerance=0.05)["rotation"]
    for found, tolerance in ((coarse, 0.2), (fine, 0.05)):
        assert found.converged
        assert all(found.error[n] <= tolerance * found.lee[n] for n in found.lee)
        earlier = found.history[: found.probes - 16]
        if len(earlier) >= 16:
            mean = earlier.mean(axis=0)
            error = earlier.std(axis=0, ddof=1) / np.sqrt(len(earlier))
            assert (error > tolerance * mean).any()
    assert fine.probes > 4 * coarse.probes


def test_says_when_the_limit_comes_first(net, images):
    found = estimate(net, images, SPEC, tolerance=0.001, limit=32)["rotation"]
    assert found.probes == 32
    assert not found.converged
    assert found.history.shape == (32, 4)


def test_error_falls_with_the_square_root_of_the_probes(net, images):
    truth = exact(net, images)
    names = sorted(truth)
    found = estimate(net, images, SPEC, tolerance=1e-4, limit=4096)["rotation"]
    order = [list(found.lee).index(name) for name in names]
    history = found.history[:, order] / np.array([truth[name] for name in names])
    counts = np.array([8, 16, 32, 64, 128, 256])
    deviation = []
    for count in counts:
        blocks = history[: len(history) // count * count].reshape(-1, count, len(names)).mean(axis=1)
        deviation.append(np.sqrt(np.mean((blocks - 1) ** 2)))
    slope = np.polyfit(np.log(counts), np.log(deviation), 1)[0]
    # 16 blocks of 256 probes know their deviation to 1/√(2·16·4) = 9 %, which moves the slope by about 0.05
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_one_image_and_one_output_direction_has_the_stated_spread(images):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(98, 1))
    spec = AuditSpec(generators=("rotation",), head="identity", bootstrap=100)
    found = estimate(module, images[:1], spec, tolerance=1e-4, limit=2048)["rotation"]
    relative = found.history[:, 0].std() / found.history[:, 0].mean()
    # the square of a normal variable: √2, known from 2048 draws (kurtosis 15) to 4 %
    assert relative == pytest.approx(np.sqrt(2), rel=0.12)


@pytest.mark.parametrize("options", [{"tolerance": 0}, {"tolerance": 1}, {"floor": 1}, {"limit": 3}])
def test_bad_options_are_refused(net, images, options):
    with pytest.raises(SpecError):
        estimate(net, images, SPEC, **options)


@pytest.mark.parametrize("method", [attribute, estimate])
def test_unusable_images_are_refused(net, images, method):
    for unusable in (images[0], images[:0], (255 * images).astype(np.uint8), None):
        with pytest.raises(DataError, match=r"not floats \(N, C, H, W\)"):
            method(net, unusable, SPEC)
    with pytest.raises(SourceError, match="NaN or infinity") as caught:
        method(net, images * np.nan, SPEC)
    assert caught.value.reason == "NON_FINITE_OUTPUT"
