"""Watching the LEE during training: in a plain loop, and by Lightning's own trainer."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from lieaudit import AuditSpec  # noqa: E402
from lieaudit.torch import EquivarianceMonitor, LieLoss, audit  # noqa: E402

SPEC = AuditSpec(generators=("rotation", "scale"), head="softmax", bootstrap=200, threads=1)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(4 * 36, 3))


def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((12, 1, 8, 8)).astype(np.float32)


def test_a_plain_loop_sees_the_audits_numbers_fall():
    module, monitor = net(), EquivarianceMonitor(images(), SPEC)
    penalty, seen = LieLoss(SPEC.generators, seed=0), []
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for _ in range(20):
        seen.append(monitor(module)["rotation"])
        optimizer.zero_grad()
        penalty(module, torch.from_numpy(images())).backward()
        optimizer.step()
    assert all(s.low < s.lee < s.high and s.status == "ok" for s in seen)
    assert seen[-1].lee < 0.5 * seen[0].lee
    expected = audit(net(), images(), SPEC, precision="float32").results["rotation"]
    assert (seen[0].lee, seen[0].low, seen[0].high) == (expected.lee, *expected.ci95)
    assert all(m.training for m in module.modules())


def test_one_image_has_no_interval():
    watched = EquivarianceMonitor(images()[:1], SPEC)(net())["scale"]
    assert watched.low is None
    assert watched.high is None


@pytest.mark.filterwarnings("ignore")  # Lightning warns of loaders, loggers and its own dependencies
def test_lightning_logs_the_lee_with_its_interval(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
    from lieaudit.torch.lightning import LogEquivariance

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _index):
            return F.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, _index):
            self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    data = torch.utils.data.TensorDataset(torch.from_numpy(images()), torch.arange(12) % 3)
    loader = torch.utils.data.DataLoader(data, batch_size=6)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[LogEquivariance(EquivarianceMonitor(images(), SPEC), every=2)],
    )  # fmt: skip
    module = Classifier()
    trainer.fit(module, loader, loader)
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    assert {f"{k}/{g}" for k in ("lee", "lee_low", "lee_high") for g in SPEC.generators} <= set(
        trainer.callback_metrics
    )
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert all(metrics[f"lee_low/{g}"] < metrics[f"lee/{g}"] < metrics[f"lee_high/{g}"] for g in SPEC.generators)
    assert "loss" in logged
