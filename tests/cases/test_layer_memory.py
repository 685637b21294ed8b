"""``--budget`` holds for layers, too: measured in a process of its own on a network like CaiT (Touvron et al. 2021).

Talking-heads attention is what makes it hard: inside a layer, the attention of 196 tokens is many times larger than
the tokens that pass from layer to layer.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402 - after the check that torch is there

from lieaudit.errors import BudgetError  # noqa: E402
from lieaudit.graph.load import load_model  # noqa: E402
from lieaudit.layerwise import Attributor  # noqa: E402
from lieaudit.spec import AuditSpec  # noqa: E402

DIM, HEADS, PATCH, DEPTH = 96, 4, 8, 6
SIDE = 14 * PATCH
BUDGET = 64
BUDGET_OF_DIFFERENCES = 560
"""The least that differences take of this network, rounded up: their rows are all held at once."""
BEYOND = 24
"""MiB that are no activations: what numpy and the allocator hold, the interpreter's own, per-session buffers."""


class TalkingHeads(nn.Module):
    """Self-attention whose heads are mixed before and after the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.before, self.after = nn.Linear(HEADS, HEADS), nn.Linear(HEADS, HEADS)

    def forward(self, x):
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, HEADS, DIM // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * (DIM // HEADS) ** -0.5) @ k.transpose(-2, -1)
        scores = self.before(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        mixed = self.after(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.out((mixed @ v).transpose(1, 2).reshape(n, tokens, DIM))


class Block(nn.Module):
    """Attention and a perceptron, each scaled per channel and added (LayerScale)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(DIM), TalkingHeads(), nn.LayerNorm(DIM)
        self.scale1, self.scale2 = nn.Parameter(torch.full((DIM,), 0.5)), nn.Parameter(torch.full((DIM,), 0.5))
        self.mlp = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x):
        x = x + self.scale1 * self.attention(self.norm1(x))
        return x + self.scale2 * self.mlp(self.norm2(x))


class CaiT(nn.Module):
    """Patches, talking-heads blocks, mean, classes."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, DIM, PATCH, PATCH), nn.Linear(DIM, 10)
        self.position = nn.Parameter(0.02 * torch.randn(1, (SIDE // PATCH) ** 2, DIM))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.blocks(x).mean(1))


MEASURE = """
import ctypes, gc, json, sys
import numpy as np
from lieaudit.graph.load import load_model
from lieaudit.layerwise import Attributor
from lieaudit.spec import AuditSpec
from lieaudit.symmetries import tangents

path, method, budget, count, side = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024

def fresh():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts anew

generators = ("rotation", "translation_x")
spec = AuditSpec(generators=generators, method=method, layerwise="module", budget_mib=budget, threads=2, head="softmax")
model = load_model(path, spec)
fresh()
loaded = status("VmRSS")
attributor = Attributor(model, spec)
preparing = status("VmHWM") - loaded
images = np.random.default_rng(0).standard_normal((count, 3, side, side)).astype(np.float32)
norms = []
for part in attributor.parts:
    how = {"interpolation": "bilinear", "padding": "reflect", "convention": "central"}
    directions = tangents(images, part, **how).astype(np.float32)
    running = attributor.sessions(part)
    fresh()
    before = status("VmRSS")
    at_once = running.images_at_once
    rows = [running(images[i : i + at_once], directions[i : i + at_once]) for i in range(0, count, at_once)]
    norms.append(float(np.linalg.norm(np.concatenate([r.contributions for r in rows]).astype(np.float64))))
    used = status("VmHWM") - before
    print(json.dumps({"part": part, "at_once": at_once, "used": used, "preparing": preparing, "norm": norms[-1]}))
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            CaiT().eval(), (torch.zeros(2, 3, SIDE, SIDE),), file, dynamo=False, opset_version=17, input_names=["x"],
            dynamic_axes={"x": {0: "N"}},
        )  # fmt: skip
    path = tmp_path_factory.mktemp("cait") / "cait.onnx"
    path.write_bytes(file.getvalue())
    return path


def measured(path, method, budget, count):
    """Return what each pass took, in MiB, and the norm of what it found."""
    command = [sys.executable, "-c", MEASURE, str(path), method, str(budget), str(count), str(SIDE)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark is read from /proc")
@pytest.mark.parametrize(
    ("method", "budget", "count"),
    [("forward", BUDGET, 1), ("forward", BUDGET, 4), ("finite_difference", BUDGET_OF_DIFFERENCES, 2)],
)
def test_layers_stay_within_the_budget(network, method, budget, count):
    passes = measured(network, method, budget, count)
    assert passes
    for one in passes:
        assert one["used"] <= budget + BEYOND, one


def test_differences_that_cannot_are_refused(network):
    """Their rows are many times those of forward mode, and are all held at once."""
    spec = AuditSpec(generators=("rotation",), method="finite_difference", layerwise="module", budget_mib=BUDGET)
    with pytest.raises(BudgetError, match="raise --budget"):
        Attributor(load_model(network, spec), spec)


def test_a_smaller_budget_gives_the_same_numbers(network):
    """Rows go through in other parts; each is computed alone."""
    small, large = measured(network, "forward", BUDGET, 2), measured(network, "forward", 4 * BUDGET, 2)
    assert sum(one["norm"] ** 2 for one in small) == pytest.approx(sum(one["norm"] ** 2 for one in large), rel=1e-9)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark is read from /proc")
def test_measuring_shapes_does_not_hold_every_tensor(network):
    """Each tensor's shape is asked for as soon as it is there: held until the end, they took a gigabyte."""
    (first, *_) = measured(network, "forward", BUDGET, 1)
    weights = network.stat().st_size / 2**20
    attention = 3 * 4 * HEADS * (SIDE // PATCH) ** 4 / 2**20  # of three images in a block; eight tensors are like it
    assert first["preparing"] <= 6 * weights + 8 * attention + BEYOND < DEPTH * 8 * attention
