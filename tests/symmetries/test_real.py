"""The two conventions on a trained network: two rows of the table of docs/numerics.md, section 3."""

from __future__ import annotations

import numpy as np
import pytest

from lieaudit.symmetries import tangents

# mean |L F| and mean (L F)² over classes and images, per unit of the reference convention
PUBLISHED = {
    "translation_x": {"central": (0.1693, 1.753), "reference": (0.5981, 20.40)},
    "rotation": {"central": (0.1089, 0.6395), "reference": (0.3107, 5.219)},
}


def _resnet20(torch, weights):
    """ResNet-20 for CIFAR-10 with parameter-free shortcuts, from its published weights, in float64."""
    functional = torch.nn.functional

    def normalised(x, name):
        values = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *values)

    def convolved(x, name, stride=1):
        return functional.conv2d(x, weights[f"{name}.weight"], stride=stride, padding=1)

    def forward(x):
        x = normalised(convolved(x, "conv1"), "bn1").relu()
        for stage in (1, 2, 3):
            for block in (0, 1, 2):
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                y = normalised(convolved(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
                y = normalised(convolved(y, f"{name}.conv2"), f"{name}.bn2")
                if stride == 2:
                    channels = y.shape[1] // 4
                    x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, channels, channels))
                x = (x + y).relu()
        return functional.linear(x.mean((2, 3)), weights["linear.weight"], weights["linear.bias"]).softmax(1)

    return forward


@pytest.mark.real
@pytest.mark.torch
@pytest.mark.parametrize("convention", ["central", "reference"])
def test_conventions_on_a_trained_network(real_dir, convention):
    torch = pytest.importorskip("torch")
    stored = torch.load(real_dir / "checkpoints" / "resnet20_cifar10.th", weights_only=True, map_location="cpu")
    weights = {name.removeprefix("module."): value.double() for name, value in stored["state_dict"].items()}
    network = _resnet20(torch, weights)
    with np.load(real_dir / "images" / "cifar10_test_1017.npz") as arrays:
        pixels = arrays["x"][:64].transpose(0, 3, 1, 2) / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = (pixels - mean[:, None, None]) / std[:, None, None]
    directions = tangents(images, list(PUBLISHED), interpolation="bilinear", padding="reflect", convention=convention)
    for g, (name, values) in enumerate(PUBLISHED.items()):
        direction = torch.from_numpy(directions[:, g])
        if convention == "central" and name.startswith("translation"):
            direction = direction * (15.5 / 32)
        with torch.no_grad():
            _, lie = torch.func.jvp(network, (torch.from_numpy(images),), (direction,))
        # the table's four digits; float64 holds twelve more
        found = (float(lie.abs().mean()), float(lie.square().mean()))
        assert found == pytest.approx(values[convention], rel=5e-4)
