"""Contributions of layers against the float64 Jacobian of the conjugated steps, written out anew here.

Central differences, reflection about the edge pixels: nothing of the measured path is in the oracle.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import lieaudit
from lieaudit import AuditSpec

GENERATORS = ("translation_x", "rotation")
METHODS = {"forward": 1e-4, "finite_difference": 0.06}
"""Up to this the contributions add up: float32 rounding; two steps of a difference, one of them too large."""
SHAPE = (3, 8, 12)
SPEC = AuditSpec(generators=GENERATORS, layerwise="op", head="identity", threads=1, relative_images=0, bootstrap=100)


def images(count=3, seed=4):
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


def gradient(h, axis):
    import torch

    h = h.movedim(axis, -1)
    padded = torch.cat([h[..., 1:2], h, h[..., -2:-1]], dim=-1)
    return ((padded[..., 2:] - padded[..., :-2]) / 2).movedim(-1, axis)


def acting(height, width):
    """Return X for tensors whose ``height`` and ``width`` lie on these axes; None: on none, X is 0 along it."""

    def act(h, generator):
        import torch

        def along(axis):
            size = h.shape[axis]
            at = torch.arange(size, dtype=h.dtype) - (size - 1) / 2
            return at.reshape([size if i == axis % h.dim() else 1 for i in range(h.dim())])

        if height is None and width is None:
            return torch.zeros_like(h)
        x = along(width) if width is not None else 0.0
        y = along(height) if height is not None else 0.0
        vx, vy = (h.shape[width] if width is not None else 1.0, 0.0) if generator == "translation_x" else (y, -x)
        moved = torch.zeros_like(h)
        if width is not None:
            moved = moved + vx * gradient(h, width)
        if height is not None:
            moved = moved + vy * gradient(h, height)
        return moved

    return act


MAP, VECTOR, ROWS = acting(2, 3), acting(None, None), acting(None, 0)


def oracle(steps, x, generator, head):
    """Return C_k of every step and L F, float64 (S, n, K): ∂F/∂α_k at 0, each step conjugated by its own α."""
    import torch

    x = torch.tensor(x, dtype=torch.float64)

    def conjugated(alpha):
        h, before = x, MAP
        for k, (function, after) in enumerate(steps):
            h = function(h + alpha[k] * before(h, generator))
            h = h - alpha[k] * after(h, generator)
            before = after
        return head(h)

    zero = torch.zeros(len(steps), dtype=torch.float64)
    columns = torch.func.jacfwd(conjugated)(zero).movedim(-1, 0)
    return columns.reshape(len(steps), len(x), -1).detach().numpy()


def export(module):
    import torch

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, *SHAPE),), file, dynamo=False, opset_version=17, input_names=["x"],
            dynamic_axes={"x": {0: "N"}},
        )  # fmt: skip
    return file.getvalue()


def steps_of(name):
    """Return the steps of a net as (function, action on its output), and its head."""
    import torch
    from torch import nn

    torch.manual_seed(11)
    conv, mix, last = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 6), nn.Linear(6, 5)
    tanh, softmax = torch.tanh, lambda z: torch.softmax(z, 1)
    gru = nn.GRU(6, 6)
    sequence = [(conv, MAP), (tanh, MAP), (lambda h: h.mean(2).permute(2, 0, 1), ROWS)]
    nets = {
        "time first": ([*sequence, (mix, ROWS), (tanh, ROWS), (lambda h: h.mean(0), VECTOR), (last, VECTOR)], None),
        "recurrent": ([*sequence, (lambda h: gru(h)[0][-1], VECTOR), (last, VECTOR)], None),
        "batch last": (
            [
                (conv, MAP),
                (lambda h: torch.tanh(h.permute(2, 3, 1, 0)).permute(3, 2, 0, 1), MAP),
                (lambda h: h**2, MAP),
                (lambda h: h.mean((2, 3)), VECTOR),
                (last, VECTOR),
            ],
            None,
        ),
        "flattened": ([(conv, MAP), (tanh, MAP), (lambda h: h.flatten(1), VECTOR)], softmax),
        "only flattened": ([(lambda h: h.flatten(1), VECTOR)], softmax),
        "a map taken for a vector": ([(conv, MAP), (tanh, MAP), (nn.Conv2d(6, 2, 1), VECTOR)], None),
        "rectified map taken for a vector": ([(conv, MAP), (torch.relu, VECTOR)], None),
    }
    steps, head = nets[name]
    return steps, head, [conv, mix, last, gru, *(f for f, _ in steps if isinstance(f, nn.Module))]


NETS = (
    "time first", "recurrent", "batch last", "flattened", "only flattened", "a map taken for a vector",
    "rectified map taken for a vector",
)  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETS)
def test_contributions_are_those_of_float64(name, method):
    torch = pytest.importorskip("torch")
    steps, head, modules = steps_of(name)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.ModuleList(modules)

        def forward(self, x):
            for function, _ in steps:
                x = function(x)
            return x if head is None else head(x)

    x = images()
    spec = replace(SPEC, method=method, head="softmax" if head is not None else "identity")
    report = lieaudit.audit(export(Net().eval()), x, spec)
    for module in modules:
        module.double()
    for generator in GENERATORS:
        expected = oracle(steps, x, generator, head or (lambda z: z))
        whole = expected.sum(axis=0)
        size = whole.shape[-1]
        found = report.layerwise[generator]
        assert found.status == "ok", found.reasons
        assert found.completeness <= METHODS[method]
        # float32 rows, and differences of which the report says how far they are off
        rtol = {"forward": 2e-4, "finite_difference": 0.08}[method]
        assert report.results[generator].lee == pytest.approx(np.mean(np.sum(whole**2, axis=1)) / size, rel=rtol)
        lees = [np.mean(np.sum(c**2, axis=1)) / size for c in expected]
        counted = [k for k, lee in enumerate(lees) if lee > 1e-6 * max(lees)]
        rows = [s for s in found.segments if s.lee > 1e-6 * max(lees)]  # below lies rounding
        assert [s.lee for s in rows] == pytest.approx([lees[k] for k in counted], rel=rtol)
        shares = [np.sum(expected[k] * whole) / np.sum(whole**2) for k in counted]
        assert [s.share for s in rows] == pytest.approx(shares, rel=rtol, abs=rtol)


@pytest.mark.parametrize("generator", ["brightness"])
def test_a_gain_acts_on_no_output(generator):
    """A homogeneous last op commutes with a gain of maps, but the output is not one that the gain acts on."""
    kernel = numpy_helper.from_array(np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32), "k")
    nodes = [helper.make_node("Conv", ["image", "k"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["map"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *SHAPE])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["N", 4, 8, 12])],
        [kernel],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    spec = replace(SPEC, generators=(generator,), head="spatial", method="forward")
    found = lieaudit.audit(model, np.abs(images()), spec).layerwise[generator]
    assert found.completeness <= 1e-5
    assert [s.share for s in found.segments] == pytest.approx([0, 1], abs=1e-6)
