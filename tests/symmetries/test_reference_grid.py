"""The reference convention against torch: its float32 grid bit for bit, and the published procedure written anew."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lieaudit import AuditSpec, audit
from lieaudit.spec import Preprocessing
from lieaudit.symmetries import GENERATORS, derivative_matrix, tangent
from lieaudit.symmetries.interpolation import reference_floor

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
SPATIAL = tuple(name for name in GENERATORS if GENERATORS[name].spatial)
ROUNDED_ONCE = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="torch rounds the grid twice on a processor without fused multiply-adds; GPUs and others round once",
)


def grid(theta: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Where a sampler looks, (height, width, 2), x then y in pixels: float32, corners aligned."""
    points = torch.nn.functional.affine_grid(theta[None], (1, 1, height, width), align_corners=True)[0]
    size = torch.tensor([width - 1, height - 1], dtype=torch.float32)
    return ((points + 1) / 2) * size


@ROUNDED_ONCE
def test_the_floor_is_torch_s_bit_for_bit() -> None:
    identity = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    moved = []
    for size in range(2, 513):
        x = grid(identity, 2, size)[0, :, 0]
        y = grid(identity, size, 2)[:, 0, 1]
        ours = reference_floor(size)
        np.testing.assert_array_equal(torch.floor(x).numpy(), ours, err_msg=str(size))
        np.testing.assert_array_equal(torch.floor(y).numpy(), ours, err_msg=str(size))
        moved.append(np.mean(ours != np.arange(size)))
    share = dict(zip(range(2, 513), moved, strict=True))
    assert share[32] == 0
    assert [round(100 * share[size], 1) for size in (28, 112, 160, 224)] == [10.7, 13.4, 22.5, 16.1]


@pytest.mark.parametrize("size", [28, 32, 160])
def test_slopes_are_those_of_the_side_that_the_grid_is_on(size: int) -> None:
    row = np.random.default_rng(0).normal(0, 1, size)
    slopes = derivative_matrix(size, interpolation="bilinear", padding="reflect", right=True) @ row
    inside = slice(1, size - 1)
    right, left = np.append(np.diff(row), 0), np.append(0, np.diff(row))
    behind = reference_floor(size) < np.arange(size)
    np.testing.assert_allclose(slopes[inside], np.where(behind, left, right)[inside], atol=1e-15)


def theta(name: str, t: torch.Tensor) -> torch.Tensor:
    """The 2 × 3 matrix that carries a point of the output to where the input is read, in coordinates of [-1, 1]."""
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    rows = {
        "translation_x": (one, zero, t, zero, one, zero),
        "translation_y": (one, zero, zero, zero, one, t),
        "rotation": (t.cos(), t.sin(), zero, -t.sin(), t.cos(), zero),
        "scale": (one - t, zero, zero, zero, one - t, zero),
        "shear_x": (one, t, zero, zero, one, zero),
        "shear_y": (one, zero, zero, t, one, zero),
        "stretch_x": (one + t, zero, zero, zero, one, zero),
        "stretch_y": (one, zero, zero, zero, one + t, zero),
        "hyperbolic_rotation": (t.cosh(), t.sinh(), zero, t.sinh(), t.cosh(), zero),
    }[name]
    return torch.stack(rows).reshape(2, 3)


def sampled(images: torch.Tensor, name: str, t: torch.Tensor) -> torch.Tensor:
    """Bilinear samples with reflection at the edges, differentiable in t; the corner of a cell is a floor."""
    height, width = images.shape[-2:]
    if name == "brightness":
        return images * (1 + t)
    x, y = grid(theta(name, t), height, width).unbind(-1)
    left, top = x.detach().floor(), y.detach().floor()
    across, down = x - left, y - top

    def pixel(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        row, column = (n - 1 - (n - 1 - i.abs()).abs() for i, n in ((row, height), (column, width)))
        return images[:, :, row.long(), column.long()]

    upper = pixel(top, left) * (1 - across) + pixel(top, left + 1) * across
    lower = pixel(top + 1, left) * (1 - across) + pixel(top + 1, left + 1) * across
    return upper * (1 - down) + lower * down


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Conv2d(3, 6, 3, stride=2), torch.nn.Linear(6, 5)
        with torch.no_grad():
            self.last.weight *= 6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.nn.functional.softplus(self.first(x)).square().mean((2, 3)))

    def onnx(self, size: int) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Conv", ["x", "w1", "b1"], ["h"], strides=[2, 2]),
            helper.make_node("Softplus", ["h"], ["s"]),
            helper.make_node("Mul", ["s", "s"], ["q"]),
            helper.make_node("GlobalAveragePool", ["q"], ["g"]),
            helper.make_node("Flatten", ["g"], ["f"]),
            helper.make_node("Gemm", ["f", "w2", "b2"], ["logits"], transB=1),
        ]
        values = {"w1": self.first.weight, "b1": self.first.bias, "w2": self.last.weight, "b2": self.last.bias}
        graph = helper.make_graph(
            nodes, "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, size, size])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
            [numpy_helper.from_array(value.detach().numpy(), name) for name, value in values.items()],
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@ROUNDED_ONCE
@pytest.mark.parametrize("size", [28, 32, 112, 160, 224])
def test_the_published_procedure_within_one_percent_in_the_mean(size: int) -> None:
    """Probabilities of normalised images, the derivative through the sampler at t = 0, mean |L F| over classes."""
    pixels = np.random.default_rng(size).integers(0, 256, (4, size, size, 3)).astype(np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    net = Net()
    spec = AuditSpec(
        convention="reference",
        preprocessing=Preprocessing(255.0, mean, std),
        head="softmax",
        method="forward",
        threads=1,
    )
    found = audit(net.onnx(size), pixels, spec)
    images = (torch.tensor(pixels).permute(0, 3, 1, 2) / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
        :, None, None
    ]
    for name in GENERATORS:
        t = torch.zeros(())
        _, lie = torch.func.jvp(lambda t, name=name: net(sampled(images, name, t)).softmax(1), (t,), (torch.ones(()),))
        expected = float(lie.detach().abs().mean())
        assert found.results[name].mean_abs == pytest.approx(expected, rel=0.01), name


def test_brightness_scales_what_the_model_takes() -> None:
    image = np.random.default_rng(0).normal(0, 1, (1, 3, 5, 5))
    moved = tangent(image, "brightness", interpolation="bilinear", padding="reflect", convention="reference")
    np.testing.assert_array_equal(moved, image)
