"""The recipes of examples/registries against the real libraries: W&B offline, a local repository of DVC."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lieaudit_client.command import run

pytestmark = pytest.mark.slow
PREPROCESS = "mean=0.15,std=0.3"
POLICY = """version: 1
rules:
  - {id: no-worse, kind: noninferiority, generators: rotation, margin: 0.1}
  - {id: ceiling, kind: limit, generators: rotation, max: 1000}
"""


@pytest.fixture
def recipes(repo_root: Path) -> Path:
    return repo_root / "examples" / "registries"


@pytest.fixture
def digits(repo_root: Path) -> Path:
    return repo_root / "examples" / "digits"


def records(path: Path) -> Iterator[bytes]:
    """Return the records of a W&B file: LevelDB's log, blocks of 32 KiB, after a head of 7 bytes."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, found = 7, b""
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if kind == 0:
            break
        found += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            yield found
            found = b""


def test_weights_and_biases_keeps_the_verdict_and_the_numbers(
    recipes: Path, digits: Path, service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    (tmp_path / "lieaudit.yaml").write_text(POLICY)
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    report = tmp_path / "report.json"
    code = run([
        "gate", str(digits / "augmented.onnx"), "--baseline", str(digits / "plain.onnx"), "--server", service,
        "--data", str(digits / "digits.npz"), "--preprocess", PREPROCESS, "--policy", str(tmp_path / "lieaudit.yaml"),
        "--max-images", "200", "--report", str(report), "--json", str(tmp_path / "decision.json"),
        "--hook", f"{sys.executable} {recipes / 'wandb_hook.py'} --report {report} --project digits",
    ])  # fmt: skip
    assert code == 0
    kept = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(kept) == 1
    found = [wandb_internal_pb2.Record.FromString(record) for record in records(kept[0])]
    history: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for record in found:
        history |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        summary |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.summary.update}
    result = json.loads(report.read_text())["results"]["rotation"]
    decision = json.loads((tmp_path / "decision.json").read_text())
    assert {name: history[f"{name}/rotation"] for name in ("lee", "lee_per_px2", "relative")} == {
        name: result[name] for name in ("lee", "lee_per_px2", "relative")
    }
    assert history["rule/no-worse/rotation"] == decision["rules"][0]["value"]
    assert (summary["verdict"], summary["headline"]) == ("pass", decision["headline"])
    assert next(r.run for r in found if r.HasField("run")).project == "digits"
    artifacts = [r.artifact for r in found if r.HasField("artifact")] + [
        r.request.log_artifact.artifact for r in found if r.request.HasField("log_artifact")
    ]
    names = {
        entry.path for artifact in artifacts if artifact.type == "lieaudit" for entry in artifact.manifest.contents
    }
    assert names == {"report.json", "decision.json"}


def test_dvc_gates_and_compares_with_the_champion(recipes: Path, digits: Path, service: str, tmp_path: Path) -> None:
    dvc = shutil.which("dvc")
    if dvc is None or shutil.which("git") is None:
        pytest.skip("dvc and git are not installed")
    project = tmp_path / "project"
    shutil.copytree(recipes / "dvc", project)
    for source, name in (("plain.onnx", "model.onnx"), ("digits.npz", "data.npz")):
        shutil.copy(digits / source, project / name)
    (project / "lieaudit.yaml").write_text(POLICY)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "lieaudit").write_text(f'#!/bin/sh\nexec {sys.executable} -m lieaudit_client "$@"\n')
    (tmp_path / "bin" / "lieaudit").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "LIEAUDIT_SERVER": service}
    environment |= {"PREPROCESS": PREPROCESS, "HOME": str(tmp_path), "DVC_NO_ANALYTICS": "1"}
    environment |= {
        f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }

    def call(*command: str, code: int = 0) -> str:
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode != 0) == (code != 0), done.stderr + done.stdout
        return done.stdout + done.stderr

    call("git", "init", "-q")
    call(dvc, "init", "-q")
    call(dvc, "add", "-q", "model.onnx", "data.npz")
    assert "PASS of a first version" in call(dvc, "repro")
    call("git", "add", ".")
    call("git", "commit", "-qm", "version 1")
    call("git", "tag", "champion")
    assert "didn't change" in call(dvc, "repro"), "nothing has changed"

    shutil.copy(digits / "augmented.onnx", project / "model.onnx")
    call(dvc, "add", "-q", "model.onnx")
    said = call(dvc, "repro")
    assert "PASS: every rule is met" in said, said
    changes = json.loads(call(dvc, "metrics", "diff", "champion", "--json"))["gate/metrics.json"]
    report = json.loads((project / "gate" / "report.json").read_text())
    assert changes["lee.rotation"]["new"] == report["results"]["rotation"]["lee"]
    assert changes["lee.rotation"]["diff"] < 0
    call("git", "commit", "-qam", "version 2")
    call("git", "tag", "-f", "champion")

    shutil.copy(digits / "plain.onnx", project / "model.onnx")
    call(dvc, "add", "-q", "model.onnx")
    said = call(dvc, "repro", code=1)
    assert "FAIL: at least one rule is broken" in said, said
