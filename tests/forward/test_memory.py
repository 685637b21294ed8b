"""The memory budget is kept by the process, on a ViT-B/16 at 224² and on a dense model at 512²."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.torch]

_SCRIPT = """
import io, resource, sys, warnings
import numpy as np, torch
warnings.simplefilter("ignore")
torch.manual_seed(0); torch.set_num_threads(1)
from torch import nn
from lieaudit.derivatives.forward import ForwardDifferentiator
from lieaudit.graph.load import load_model
from lieaudit.spec import AuditSpec

class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads, self.n1, self.n2 = heads, nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
    def forward(self, x):
        b, s, d = x.shape
        q, k, v = self.qkv(self.n1(x)).reshape(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        p = (q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5).softmax(-1)
        x = x + self.out((p @ v).transpose(1, 2).reshape(b, s, d))
        return x + self.down(nn.functional.gelu(self.up(self.n2(x))))

class Transformer(nn.Module):
    # ViT-B/16 at 224 squared: 197 tokens, width 768, 12 heads, 12 blocks
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 768, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 768))
        self.place = nn.Parameter(torch.randn(1, 197, 768))
        self.blocks = nn.Sequential(*(Block(768, 12) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(768), nn.Linear(768, 1000)
    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])

def double(i, o):
    layers = [nn.Conv2d(i, o, 3, 1, 1), nn.BatchNorm2d(o), nn.ReLU(), nn.Conv2d(o, o, 3, 1, 1), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, nn.ReLU())

class Dense(nn.Module):
    # a U-Net: five resolutions, 32 to 512 channels, 21 classes for each pixel
    def __init__(self):
        super().__init__()
        wide = [32, 64, 128, 256, 512]
        self.down = nn.ModuleList(double(i, o) for i, o in zip([3, *wide], wide))
        self.lift = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in zip(wide[:0:-1], wide[-2::-1]))
        self.up = nn.ModuleList(double(2 * o, o) for o in wide[-2::-1])
        self.out = nn.Conv2d(32, 21, 1)
    def forward(self, x):
        skips = []
        for number, stage in enumerate(self.down):
            x = stage(nn.functional.max_pool2d(x, 2) if number else x)
            skips.append(x)
        skips.pop()
        for lift, stage in zip(self.lift, self.up):
            x = stage(torch.cat([lift(x), skips.pop()], 1))
        return self.out(x)

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))

kind, budget, count, lanes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
module, size = (Transformer(), 224) if kind == "transformer" else (Dense(), 512)
buffer = io.BytesIO()
torch.onnx.export(module.eval(), (torch.randn(2, 3, size, size),), buffer, dynamo=False, opset_version=17,
    input_names=["x"], output_names=["z"], dynamic_axes={"x": {0: "N"}, "z": {0: "N"}})
spec = AuditSpec(threads=1, budget_mib=budget)
model = load_model(buffer.getvalue(), spec)
differentiator = ForwardDifferentiator(model, spec)
random = np.random.default_rng(0)
x = random.standard_normal((count, 3, size, size), dtype=np.float32)
v = random.standard_normal((count, lanes, 3, size, size), dtype=np.float32)
# the session exists and its weights are packed
differentiator._session(differentiator._plan(lanes).directions)
results = 8 * count * lanes * model.output_size + 4 * count * model.output_size
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
before = status("VmRSS")
plan = differentiator._plan(lanes)
differentiator._evaluate(x, v)
peak = status("VmHWM") - before - results / 2**20
print("PEAK", peak, plan.images, plan.directions, differentiator._peak(1, lanes) / 2**20)
"""


@pytest.mark.parametrize(("kind", "count", "lanes", "budget"), [("transformer", 1, 4, 160), ("dense", 1, 2, 600)])
def test_activations_stay_within_the_budget(kind, count, lanes, budget):
    pytest.importorskip("torch")  # the script builds its models in it
    if sys.platform != "linux":
        pytest.skip("peak memory is read from /proc")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_SCRIPT), kind, str(budget), str(count), str(lanes)],
        capture_output=True,
        text=True,
        check=False,
        timeout=480,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = next(line for line in done.stdout.splitlines() if line.startswith("PEAK")).split()
    peak, directions = float(said[1]), int(said[3])
    assert directions < lanes  # the budget binds: without it all directions would go at once
    assert peak < 1.2 * budget
    # a budget that is not used would only make it slow
    assert peak > 0.4 * budget
