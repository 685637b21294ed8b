"""Behind a cyclic roll the torch path and the ONNX path give one attribution."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest

from lieaudit import AuditSpec

torch = pytest.importorskip("torch")

SPEC = AuditSpec(
    generators=("rotation",), layerwise="module", head="identity", threads=1, relative_images=0, bootstrap=100
)


class Rolled(torch.nn.Module):
    """A convolution, a roll, a convolution of ``kernel`` pixels there, the roll undone, squares."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Linear(4, 5)
        self.inner = torch.nn.Conv2d(4, 4, kernel, padding=kernel // 2)

    def forward(self, x):
        h = torch.roll(self.first(x), (3, 3), (2, 3))
        h = torch.roll(self.inner(h), (-3, -3), (2, 3))
        return self.last((torch.relu(h) ** 2).mean((2, 3)))


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_behind_a_roll(kernel):
    """1×1: it commutes, whichever pixel is where, and contributes 0. 3×3: its windows hold pixels that are none's
    neighbours, so nothing is said of it alone."""
    import lieaudit.torch

    torch.manual_seed(0)
    net = Rolled(kernel).eval()
    x = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.zeros(2, 3, 8, 8),), file, dynamo=False, opset_version=17, input_names=["x"],
            dynamic_axes={"x": {0: "N"}},
        )  # fmt: skip
    proved = lieaudit.audit(file.getvalue(), x, SPEC).layerwise["rotation"]
    found = lieaudit.torch.attribute(net, x, SPEC)["rotation"]
    shares = {s.name: s.share for s in found.layerwise.segments}
    assert shares["first"] == pytest.approx(proved.segments[0].share, rel=1e-4)
    if kernel == 1:
        assert [s.lee for s in proved.segments if s.ops == ("Conv",)][1] == 0
        # float64 leaves nothing of it but the rounding of a difference of equal numbers
        assert abs(shares["inner"]) < 1e-12
    else:
        assert "inner" not in shares
        assert any(skip.what == "inner" for skip in found.layerwise.merged)
