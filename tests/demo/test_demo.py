"""The demo runs end to end: a real server, both models, all generators; its numbers against a float64 oracle."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from lieaudit_client.command import run

from lieaudit.spec import GENERATORS
from lieaudit.statistics import compare


@pytest.fixture(scope="module")
def digits_dir(repo_root):
    return repo_root / "examples" / "digits"


@pytest.fixture(scope="module")
def demo(digits_dir, tmp_path_factory):
    """Standard output and the two reports of one run."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-W", "error", digits_dir / "demo.py", folder],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    reports = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("*.json")}
    return done.stdout, reports, folder


def test_it_says_what_it_did_and_where_the_reports_are(demo):
    output, reports, folder = demo
    assert "plain 96.6 %, augmented 95.3 %" in output
    assert set(reports) == {"plain", "augmented"}
    for name, report in reports.items():
        assert str(folder / f"{name}.json") in output.replace("\n", "")
        assert list(report["results"]) == list(GENERATORS)
        assert report["data"]["count"] == 297
    for generator in GENERATORS:
        assert f"{reports['plain']['results'][generator]['lee']:.3g}" in output


def test_the_gate_lets_the_augmented_model_replace_the_plain_one_and_not_the_reverse(demo):
    output, _, folder = demo
    forth, back = output.split("may plain replace augmented?")
    assert "PASS: every rule is met" in forth
    assert f"exit code 0; page: {folder / 'gate-augmented.html'}" in forth
    assert "FAIL: at least one rule is broken" in back
    assert f"exit code 1; page: {folder / 'gate-plain.html'}" in back
    said = " ".join(back.split())
    assert "no-worse: rotation: mean LEE is" in said
    assert "which it exceeds" in said
    assert "plain.onnx against augmented.onnx" in (folder / "gate-plain.html").read_text(encoding="utf-8")


def test_it_ends_with_three_things_to_try_that_work(demo, capfd):
    output, _, folder = demo
    tried = output.split("three things to try next:")[1]
    assert [line.split(".")[0].strip() for line in tried.splitlines() if line[:4].strip()[:1].isdigit()] == list("123")
    assert str(folder / "gate-plain.html") in tried
    (line,) = [line.strip() for line in tried.splitlines() if " audit " in line]
    name, *arguments = line.split()
    assert name.endswith("lieaudit")
    assert run([*arguments, "--generators", "rotation", "--max-images", "8", "--bootstrap", "100"]) in {0, 3}
    assert "layers: each segment's share" in capfd.readouterr().out
    assert "inspect YOUR_MODEL.onnx" in tried


def test_make_demo_says_what_it_does_while_it_installs(repo_root):
    plan = subprocess.run(
        ["make", "--dry-run", "--always-make", "--no-print-directory", "demo"],
        cwd=repo_root,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},  # of the make around it
        capture_output=True,
        text=True,
        check=True,
    )
    lines = plan.stdout.splitlines()
    (install,) = [line for line in lines if "pip install" in line]
    assert "--quiet" not in install
    assert "--progress-bar on" in install
    assert [line for line in lines if line.startswith("echo")] == sorted(line for line in lines if "echo" in line)
    assert lines[-1].endswith("examples/digits/demo.py")


def test_training_on_moved_digits_lowers_what_it_was_trained_on(demo):
    """By the paired interval of the ratio, image by image, and against the answer to other changes."""
    _, reports, _ = demo
    for generator in ("translation_x", "translation_y", "rotation"):
        plain, augmented = (reports[name]["results"][generator] for name in ("plain", "augmented"))
        interval = compare(augmented["per_image"], plain["per_image"]).interval
        assert interval is not None
        assert interval[1] < 1
        assert augmented["relative"] < 0.75 * plain["relative"]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on importing torch.func
@pytest.mark.parametrize("name", ["plain", "augmented"])
def test_the_reports_agree_with_a_float64_jacobian_vector_product(demo, digits_dir, assert_covers, name):
    """The network rebuilt in torch from its training script, tangents by central differences of the raw pixels."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("digits_train", digits_dir / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    net = train.DigitsNet().double()
    weights = onnx.load(digits_dir / f"{name}.onnx").graph.initializer
    arrays = {w.name: torch.from_numpy(onnx.numpy_helper.to_array(w).copy()) for w in weights}
    net.load_state_dict({key: arrays[key] for key in net.state_dict()})

    raw = np.load(digits_dir / "digits.npz")["x"][..., 0].astype(np.float64) / 255
    # Rounded to float32 as the audited images are: forward mode's error bars are smaller than this rounding's effect.
    image = ((raw - train.MEAN) / train.STD).astype(np.float32).astype(np.float64)
    black = float(np.float32(-train.MEAN / train.STD))
    # The margin is black, so that a circular difference is the one at the border too.
    dx = (np.roll(image, -1, 2) - np.roll(image, 1, 2)) / 2
    dy = (np.roll(image, -1, 1) - np.roll(image, 1, 1)) / 2
    x, y = np.meshgrid(np.arange(20) - 9.5, np.arange(20) - 9.5)
    tangents = {
        "translation_x": 20 * dx,
        "translation_y": 20 * dy,
        "rotation": y * dx - x * dy,
        "scale": x * dx + y * dy,
        "shear_x": y * dx,
        "shear_y": x * dy,
        "stretch_x": x * dx,
        "stretch_y": y * dy,
        "hyperbolic_rotation": y * dx + x * dy,
        "brightness": image - black,
    }
    primal = torch.from_numpy(image[:, None])
    for generator, tangent in tangents.items():
        result = demo[1][name]["results"][generator]
        _, derivative = torch.func.jvp(
            lambda images: net(images).softmax(1), (primal,), (torch.from_numpy(tangent[:, None]),)
        )
        exact = derivative.square().mean(1).detach().numpy()
        # The report's own bars: of every mean, and of at least 95 % of the single images' results.
        assert abs(result["lee"] - exact.mean()) <= 3 * result["error_bar"], generator
        assert_covers(np.abs(np.array(result["per_image"]) - exact) <= result["per_image_error"])
        # A bar that covers because it is wide says nothing: float32 rounding, 6e-8, grows by less than this in 8 nodes.
        assert result["error_bar"] <= 1e-5 * result["lee"], generator
