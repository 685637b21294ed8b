"""The training penalty: unbiased, with the right gradient, whatever attention the module uses."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from lieaudit import AuditSpec  # noqa: E402
from lieaudit.errors import SourceError, SpecError  # noqa: E402
from lieaudit.symmetries import GENERATORS  # noqa: E402
from lieaudit.torch import LieLoss, audit  # noqa: E402

SIZE = 8


class Tokens(nn.Module):
    """Patches, one attention layer of the kind asked for, and a linear classifier."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        self.kind = attention
        self.embed = nn.Conv2d(2, 8, 2, stride=2)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.classifier = nn.Linear(8 * (SIZE // 2) ** 2, 4)

    def forward(self, x):
        h = self.embed(x).flatten(2).mT
        if self.kind == "sdpa":
            h = h + F.scaled_dot_product_attention(h, h, h)
        elif self.kind == "multihead":
            h = h + self.mix(h, h, h, need_weights=False)[0]
        else:
            h = self.layer(h)
        return self.classifier(h.flatten(1))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.GELU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(6 * SIZE**2, 4),
    )  # fmt: skip


def module(kind: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return (convolutional() if kind == "convolution" else Tokens(kind)).double()


def penalised(loss: LieLoss, net: nn.Module, x: torch.Tensor) -> float:
    return float(loss(net, x).detach())


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).double()


KINDS = ("convolution", "sdpa", "multihead", "encoder")


LAYERS = {
    name: layer
    for name, layer in vars(nn).items()
    if isinstance(layer, type)
    and layer.__module__.rsplit(".", 1)[-1] in {"activation", "normalization", "batchnorm", "instancenorm", "pooling"}
}
BUILT = {
    **{
        name: lambda name=name: LAYERS[name](4) for name in ("BatchNorm2d", "RMSNorm", "LayerNorm", "LocalResponseNorm")
    },
    "untracked BatchNorm2d": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, affine=True),
    "tracked InstanceNorm2d": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "Threshold": lambda: nn.Threshold(0.1, 0.2),
    "Softmax": lambda: nn.Softmax(dim=-1),
    "LogSoftmax": lambda: nn.LogSoftmax(dim=-1),
    "Softmin": lambda: nn.Softmin(dim=-1),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d(3),
    "AdaptiveMaxPool2d": lambda: nn.AdaptiveMaxPool2d(3),
    "AvgPool2d": lambda: nn.AvgPool2d(2),
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "LPPool2d": lambda: nn.LPPool2d(2, 2),
}
# of other ranks, lazily or jointly initialised, random at every call, or covered as attention above
ELSEWHERE = {
    *(name for name in LAYERS if name.endswith(("1d", "3d")) or name.startswith("Lazy")),
    "SyncBatchNorm", "CrossMapLRN2d", "MaxUnpool2d", "FractionalMaxPool2d", "MultiheadAttention", "RReLU", "Module",
    "Parameter",
}  # fmt: skip


@pytest.mark.parametrize("layer", sorted({*LAYERS, *BUILT} - ELSEWHERE))
def test_every_layer_of_torch_has_the_right_gradient(layer):
    """A layer between two convolutions: where torch's own rule is wrong (LayerNorm), it is written out."""
    torch.manual_seed(0)
    middle = BUILT[layer]() if layer in BUILT else LAYERS[layer]()
    net = nn.Sequential(nn.Conv2d(2, 4, 3), middle, nn.LazyConv2d(3, 3), nn.Flatten(), nn.LazyLinear(4))
    net(images().float()[..., :-2] if layer in {"LayerNorm", "RMSNorm"} else images().float())
    x = images()[..., :-2] if layer in {"LayerNorm", "RMSNorm"} else images()
    _check_gradient(net.double(), x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(kind):
    _check_gradient(module(kind), images())


def _check_gradient(net: nn.Module, x: torch.Tensor) -> None:
    """1e-4 of the gradient's norm along random directions: the secant's own error in float64 is 1e-7."""

    def penalty():
        return LieLoss(("rotation", "translation_x", "brightness"), seed=0)(net, x)

    def value():
        return float(penalty().detach())

    parameters = list(net.parameters())
    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    size = sum(float(g.square().sum()) for g in gradients if g is not None) ** 0.5
    assert size > 0
    draw = torch.Generator().manual_seed(2)
    for _ in range(5):
        direction = [torch.randn(p.shape, generator=draw).double() for p in parameters]
        length = sum(float(d.square().sum()) for d in direction) ** 0.5
        step, ends = 1e-5, []
        for sign in (1, -2):
            with torch.no_grad():
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(sign * step / length * d)
            ends.append(value())
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(step / length * d)
        along = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None) / length
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(along, abs=1e-4 * size)


@pytest.mark.parametrize("generator", GENERATORS)
def test_one_generator_has_exactly_the_audits_lee(generator):
    """With one generator the sign squares away: the same number as `lieaudit.torch.audit`, to float32's images."""
    net, x = module("convolution").train(), images().float().double()
    spec = AuditSpec(generators=(generator,), head="softmax")
    expected = audit(net, x.float().numpy(), spec).results[generator].lee
    assert penalised(LieLoss((generator,)), net, x) == pytest.approx(expected, rel=1e-6)
    assert all(m.training for m in net.modules())


def test_maps_that_should_move_with_the_image():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2)).double()
    x = images().float().double()
    spec = AuditSpec(generators=("rotation",), head="spatial")
    expected = audit(net, x.float().numpy(), spec).results["rotation"].lee
    assert penalised(LieLoss(("rotation",), head="spatial"), net, x) == pytest.approx(expected, rel=1e-6)
    # an image that is passed on as it is moves with itself exactly
    assert float(LieLoss(tuple(GENERATORS)[:9], head="spatial")(nn.Identity(), x)) == pytest.approx(0, abs=1e-20)


def test_signs_make_the_estimate_unbiased(monkeypatch):
    """The mean over all sign patterns is Σ w LEE, to rounding: the cross terms cancel exactly."""
    net, x = module("convolution"), images(1)
    weights = {"rotation": 1.0, "scale": 0.5, "translation_y": 0.25}
    patterns = [torch.tensor([signs], dtype=torch.float64) for signs in product((-1, 1), repeat=3)]
    loss, found = LieLoss(weights), []
    for pattern in patterns:
        monkeypatch.setattr(loss, "_signs", lambda _count, pattern=pattern: pattern)
        found.append(penalised(loss, net, x))
    expected = sum(w * penalised(LieLoss((name,)), net, x) for name, w in weights.items())
    assert np.mean(found) == pytest.approx(expected, rel=1e-12)
    assert np.std(found) > 1e-3 * expected  # single patterns do differ


def test_a_share_of_the_batch_is_unbiased_too():
    net, x = module("convolution"), images(4)
    each = [penalised(LieLoss(("rotation",)), net, x[i : i + 1]) for i in range(4)]
    loss = LieLoss(("rotation",), share=0.5, seed=0)
    draws = np.array([penalised(loss, net, x) for _ in range(400)])
    # 400 draws of pairs: five standard errors
    assert abs(draws.mean() - np.mean(each)) < 5 * draws.std() / 20
    pairs = [(each[i] + each[j]) / 2 for i in range(4) for j in range(i)]
    assert all(np.min(np.abs(np.array(pairs) / d - 1)) < 1e-12 for d in draws)


def test_seeds_repeat():
    net, x = module("sdpa"), images()
    first, second = LieLoss(("rotation", "scale"), seed=3), LieLoss(("rotation", "scale"), seed=3)
    assert [penalised(first, net, x) for _ in range(4)] == [penalised(second, net, x) for _ in range(4)]


class _NoForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class _Custom(nn.Module):
    def forward(self, x):
        return _NoForward.apply(x).flatten(1)


class _Pair(nn.Module):
    def forward(self, x):
        return x.flatten(1), x


@pytest.mark.parametrize(("net", "reason"), [(_Custom(), "NO_FORWARD_DERIVATIVE"), (_Pair(), "NO_OUTPUT")])
def test_modules_that_cannot_be_penalised_are_named(net, reason):
    with pytest.raises(SourceError) as refused:
        LieLoss(("rotation",))(net, images())
    assert refused.value.reason == reason
    assert refused.value.subject == type(net).__name__


@pytest.mark.parametrize(
    "arguments",
    [
        {"generators": ()},
        {"generators": ("rotatoin",)},
        {"generators": {"rotation": -1.0}},
        {"generators": ("rotation",), "head": "logits"},
        {"generators": ("rotation",), "share": 0.0},
        {"generators": ("rotation",), "interpolation": "nearest"},
    ],
)
def test_arguments_that_make_no_sense(arguments):
    with pytest.raises(SpecError):
        LieLoss(**arguments)
