"""The MLflow registry end to end: a real MLflow server on SQLite, the real service, the real command.

What the registry holds is read through MLflow's REST interface, not through the code under test.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
SECONDS = 120.0
"""Longest wait for a start; never what a test measures."""
POLICY = """version: 1
rules:
  - {id: no-worse, kind: noninferiority, generators: rotation, margin: 0.1}
"""
# Dies by SIGKILL at the moment when the alias would move: nothing can be tidied up.
CRASH = """
import os, signal, sys
from lieaudit_client.command import run
from lieaudit_client.gate.mlflow import Registry
Registry.move_alias = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(run(sys.argv[1:]))
"""
# As users register a model: MLflow writes weights of more than 1 KiB to a file beside the graph.
LOG = """
import sys, mlflow, onnx
for path in sys.argv[2:]:
    with mlflow.start_run():
        mlflow.onnx.log_model(onnx.load(path), name="model", registered_model_name=sys.argv[1])
"""
COMMAND = "import sys; from lieaudit_client.command import run; sys.exit(run(sys.argv[1:]))"


class MlflowServer:
    """An MLflow server's REST interface, as far as the tests read it."""

    def __init__(self, address: str) -> None:
        self.address = address

    def call(self, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any]:
        url = f"{self.address}/api/2.0/{path}?{urllib.parse.urlencode(query)}"
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=SECONDS) as response:  # noqa: S310
            text = response.read()
        return json.loads(text) if text.strip() else {}

    def register(self, name: str, model: Path) -> str:
        """Log a model's file with a new run and register it: the next version's number."""
        body = {"experiment_id": "0", "start_time": 0}
        run = self.call("POST", "mlflow/runs/create", body)["run"]["info"]
        place = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
        self.call("PUT", f"mlflow-artifacts/artifacts/{place}/model/{model.name}", model.read_bytes())
        source = {"name": name, "source": f"{run['artifact_uri']}/model", "run_id": run["run_id"]}
        return str(self.call("POST", "mlflow/model-versions/create", source)["model_version"]["version"])

    def alias(self, name: str, alias: str) -> str:
        found = self.call("GET", "mlflow/registered-models/alias", name=name, alias=alias)
        return str(found["model_version"]["version"])

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self.call("POST", "mlflow/registered-models/alias", {"name": name, "alias": alias, "version": version})

    def tags(self, name: str, version: str) -> dict[str, str]:
        found = self.call("GET", "mlflow/model-versions/get", name=name, version=version)["model_version"]
        return {tag["key"].removeprefix("lieaudit."): tag["value"] for tag in found.get("tags", [])}

    def artefacts(self, run_id: str) -> dict[str, int]:
        found = self.call("GET", "mlflow/artifacts/list", run_id=run_id)
        return {file["path"]: int(file["file_size"]) for file in found["files"]}


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/artefacts",
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        # A session of its own, so that the server's workers end with it.
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    server = MlflowServer(f"http://127.0.0.1:{port}")
    try:
        _wait(process, server.address, folder / "log")
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=SECONDS)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as response:  # noqa: S310
                if response.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    pytest.fail(f"the MLflow server did not start: {log.read_text()[-2000:]}")


Gate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def gate(mlflow: MlflowServer, service: str, repo_root: Path, tmp_path: Path) -> Gate:
    """Give a function that runs ``lieaudit gate`` on the digits in a process of its own."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)

    def run(model: str, *arguments: str, program: str = COMMAND) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, "gate", model, "--policy", str(policy), "--server", service]
        command += [
            "--data",
            str(repo_root / "examples" / "digits" / "digits.npz"),
            "--preprocess",
            "mean=0.15,std=0.3",
        ]
        command += ["--max-images", "200", "--relative-images", "16", "--method", "finite_difference", *arguments]
        environment = os.environ | {"MLFLOW_TRACKING_URI": mlflow.address, "MLFLOW_DISABLE_TELEMETRY": "true"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    return run


@pytest.fixture
def registered(mlflow: MlflowServer, repo_root: Path, request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """Register both digit models under a name of this test's: (name, plain's version, augmented's version)."""
    name = request.node.name
    mlflow.call("POST", "mlflow/registered-models/create", {"name": name})
    plain, augmented = (
        mlflow.register(name, repo_root / "examples" / "digits" / file) for file in ("plain.onnx", "augmented.onnx")
    )
    return name, plain, augmented


def test_pass_moves_the_alias_and_fail_does_not(
    mlflow: MlflowServer, gate: Gate, registered: tuple[str, str, str]
) -> None:
    name, plain, augmented = registered
    mlflow.set_alias(name, "champion", plain)
    baseline = ("--baseline", f"mlflow:models:/{name}@champion", "--promote", "champion")

    done = gate(f"models:/{name}/{augmented}", *baseline, "--json", "-")
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["verdict"] == "pass", "nothing but JSON, whatever MLflow prints"
    assert mlflow.alias(name, "champion") == augmented
    tags = mlflow.tags(name, augmented)
    assert (tags["verdict"], tags["promotion"]) == ("pass", "done: champion")
    artefacts = mlflow.artefacts(tags["run_id"])
    assert set(artefacts) == {"decision.json", "report.json", "baseline.json", "page.html"}
    assert min(artefacts.values()) > 1000
    assert f"{name} version {augmented} against {name} version {plain}" in done.stderr

    done = gate(f"mlflow:models:/{name}/{plain}", *baseline)
    assert done.returncode == 1, done.stderr + done.stdout
    assert mlflow.alias(name, "champion") == augmented
    tags = mlflow.tags(name, plain)
    assert (tags["verdict"], tags["promotion"]) == ("fail", "refused: champion")
    assert "which it exceeds" in tags["reason"]


def test_models_that_mlflow_saved_with_their_weights_outside(
    mlflow: MlflowServer, gate: Gate, repo_root: Path, tmp_path: Path
) -> None:
    files = [str(repo_root / "examples" / "digits" / file) for file in ("plain.onnx", "augmented.onnx")]
    environment = os.environ | {"MLFLOW_TRACKING_URI": mlflow.address, "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-W", "ignore", "-c", LOG, "logged", *files]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = mlflow.call("GET", "mlflow/model-versions/get", name="logged", version="1")["model_version"]
    logged_id = found["source"].removeprefix("models:/")
    logged = mlflow.call("GET", f"mlflow/logged-models/{logged_id}/artifacts/directories")["files"]
    assert any(file["path"].endswith(".data") for file in logged)

    done = gate("mlflow:models:/logged/2", "--baseline", "mlflow:models:/logged/1")
    assert done.returncode == 0, done.stderr + done.stdout
    assert mlflow.tags("logged", "2")["verdict"] == "pass"


def test_a_crash_before_the_alias_moves_leaves_tags_that_say_so(
    mlflow: MlflowServer, gate: Gate, registered: tuple[str, str, str]
) -> None:
    name, plain, augmented = registered
    mlflow.set_alias(name, "champion", plain)
    arguments = (
        f"models:/{name}/{augmented}",
        "--baseline",
        f"mlflow:models:/{name}@champion",
        "--promote",
        "champion",
    )
    done = gate(*arguments, program=CRASH)
    assert done.returncode == -signal.SIGKILL
    assert mlflow.alias(name, "champion") == plain
    tags = mlflow.tags(name, augmented)
    assert (tags["verdict"], tags["promotion"]) == ("pass", "pending: champion")
    assert "page.html" in mlflow.artefacts(tags["run_id"]), "the evidence is there before anything moves"
    # and running it again heals it
    assert gate(*arguments).returncode == 0
    assert mlflow.tags(name, augmented)["promotion"] == "done: champion"
    assert mlflow.alias(name, "champion") == augmented


MEANWHILE = """
import sys, urllib.request, json, os
from lieaudit_client.command import run
from lieaudit_client.gate.mlflow import Registry
log = Registry.log
def promote_another(self, experiment, version, verdict, artefacts):
    body = {{"name": version.name, "alias": "champion", "version": "{version}"}}
    url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/registered-models/alias"
    headers = {{"Content-Type": "application/json"}}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers))
    return log(self, experiment, version, verdict, artefacts)
Registry.log = promote_another
sys.exit(run(sys.argv[1:]))
"""


def test_an_alias_that_moved_meanwhile_is_left_alone(
    mlflow: MlflowServer, gate: Gate, registered: tuple[str, str, str], repo_root: Path
) -> None:
    name, plain, augmented = registered
    other = mlflow.register(name, repo_root / "examples" / "digits" / "plain.onnx")
    mlflow.set_alias(name, "champion", plain)
    done = gate(
        f"models:/{name}/{augmented}", "--baseline", f"mlflow:models:/{name}@champion", "--promote", "champion",
        program=MEANWHILE.format(version=other),
    )  # fmt: skip
    assert done.returncode == 4
    assert f"moved from version {plain} to {other}" in done.stderr
    assert mlflow.alias(name, "champion") == other
    assert mlflow.tags(name, augmented)["promotion"] == "pending: champion"


@pytest.mark.parametrize(
    ("baseline", "says"),
    [
        ("mlflow:models:/nothing@nobody", "set the alias by hand once"),
        ("mlflow:runs:/abc/model", "write mlflow:models:/NAME/VERSION"),
    ],
)
def test_what_the_registry_does_not_have_is_bad_usage(
    gate: Gate, mlflow: MlflowServer, repo_root: Path, baseline: str, says: str
) -> None:
    done = gate(str(repo_root / "examples" / "digits" / "plain.onnx"), "--baseline", baseline)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr


def test_promoting_a_file_is_bad_usage(gate: Gate, repo_root: Path) -> None:
    done = gate(str(repo_root / "examples" / "digits" / "plain.onnx"), "--promote", "champion")
    assert done.returncode == 2
    assert "mlflow:models:/NAME/VERSION" in done.stderr
