"""The MLflow registry end to end: a real MLflow server on SQLite, the real service, the real command.

What the registry holds is read through MLflow's REST interface, not through the code under test.
"""

from __future__ import annotations

import hashlib
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
from lieaudit_client.registries.mlflow import Registry
Registry.move_alias = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
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

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", "mlflow/runs/get", run_id=run_id)["run"]
        for kind in ("metrics", "params", "tags"):
            found[kind] = {entry["key"]: entry["value"] for entry in found["data"].get(kind, [])}
        return found

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
    """Return a function that runs ``lieaudit gate`` on the digits in a process of its own."""
    policy = tmp_path / "policy.yaml"

    def run(
        model: str, *arguments: str, program: str = COMMAND, text: str = POLICY
    ) -> subprocess.CompletedProcess[str]:
        policy.write_text(text)
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


def check_run(mlflow: MlflowServer, name: str, version: str, decision: dict[str, Any]) -> None:
    """The gate's run holds what MLflow's charts, sorting and links need, with the report's own numbers."""
    run = mlflow.run(mlflow.tags(name, version)["run_id"])
    place = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    report = mlflow.call("GET", f"mlflow-artifacts/artifacts/{place}/report.json")
    result = report["results"]["rotation"]
    expected = {f"{metric}/rotation": result[metric] for metric in ("lee", "lee_per_px2", "relative")}
    expected |= {"top1": report["data"]["top1"], "rule/no-worse/rotation": decision["rules"][0]["value"]}
    assert run["metrics"] == expected
    assert run["params"]["spec.generators"] == "rotation"
    assert run["params"]["spec.preprocessing.mean"] == "0.15"
    assert run["params"]["model_sha256"] == decision["candidate_sha256"]
    assert run["params"]["baseline_sha256"] == decision["baseline_sha256"]
    tags = {key.removeprefix("lieaudit."): value for key, value in run["tags"].items()}
    assert (tags["verdict"], tags["model_version"]) == ("pass", f"models:/{name}/{version}")
    candidate = mlflow.call("GET", "mlflow/model-versions/get", name=name, version=version)["model_version"]
    assert tags["candidate_run"] == candidate["run_id"]
    assert tags["data_sha256"] == report["data"]["sha256"]
    data = run["inputs"]["dataset_inputs"][0]["dataset"]
    assert (data["name"], data["digest"]) == ("digits.npz", report["data"]["sha256"][:32])
    assert run["info"]["status"] == "FINISHED"


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
    check_run(mlflow, name, augmented, json.loads(done.stdout))

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

    # the same file by MLflow's id of the logged model, and by the run that logged it
    second = mlflow.call("GET", "mlflow/model-versions/get", name="logged", version="2")["model_version"]
    identity, run_id = second["source"].removeprefix("models:/"), second["run_id"]
    done = gate(f"mlflow:models:/{identity}", "--baseline", f"runs:/{second['run_id']}/model", "--json", "-")
    assert done.returncode == 0, done.stderr + done.stdout
    compared = json.loads(done.stdout)["compared"]
    assert compared["candidate"]["model_sha256"] == compared["baseline"]["model_sha256"]
    assert compared["candidate"]["model"] == f"models:/{identity}"
    assert compared["baseline"]["model"] == f"runs:/{run_id}/model"

    found = mlflow.call("GET", f"mlflow/logged-models/{identity}")["model"]
    tags = {tag["key"]: tag["value"] for tag in found["info"]["tags"]}
    assert (tags["lieaudit.verdict"], tags["lieaudit.promotion"]) == ("pass", "not asked for")
    run = mlflow.run(tags["lieaudit.run_id"])
    assert [entry["model_id"] for entry in run["inputs"]["model_inputs"]] == [identity], "the run's link to the model"
    links = {name: run["tags"][f"lieaudit.{name}"] for name in ("candidate_run", "candidate_model", "baseline_run")}
    assert links == {"candidate_run": run_id, "candidate_model": identity, "baseline_run": run_id}
    # the numbers stand on the logged model's own page too
    there = {metric["key"]: metric["value"] for metric in found["data"]["metrics"]}
    assert there["lee/rotation"] == run["metrics"]["lee/rotation"]


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
from lieaudit_client.registries.mlflow import Registry
log = Registry.log
def promote_another(self, experiment, evidence):
    body = {{"name": evidence.version.name, "alias": "champion", "version": "{version}"}}
    url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/registered-models/alias"
    headers = {{"Content-Type": "application/json"}}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers))
    return log(self, experiment, evidence)
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
    assert f"moved from version {plain} to version {other}" in done.stderr
    assert mlflow.alias(name, "champion") == other
    assert mlflow.tags(name, augmented)["promotion"] == "pending: champion"


@pytest.mark.parametrize(
    ("baseline", "says"),
    [
        ("mlflow:models:/nothing@nobody", "MLflow has no models:/nothing@nobody"),
        ("mlflow:runs:/abc/model", "MLflow has no mlflow:runs:/abc/model"),
        ("mlflow:models:/m-abc", "MLflow has no mlflow:models:/m-abc"),
        ("mlflow:runs:/abc", "write mlflow:models:/NAME/VERSION"),
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


WITH_LIMIT = POLICY + "  - {id: ceiling, kind: limit, generators: rotation, max: 1000}\n"


def test_a_first_version_is_decided_by_its_limits_and_becomes_the_champion(
    mlflow: MlflowServer, gate: Gate, registered: tuple[str, str, str]
) -> None:
    name, plain, augmented = registered
    baseline = ("--baseline", f"mlflow:models:/{name}@champion", "--promote", "champion")

    # nothing but a comparison in the policy: nobody can say that it is no worse
    done = gate(f"mlflow:models:/{name}/{plain}", *baseline)
    assert done.returncode == 3, done.stderr + done.stdout
    assert "every rule compares with a baseline, and there is none yet" in done.stdout
    assert mlflow.tags(name, plain)["promotion"] == "refused: champion"

    # a limit decides, and the alias is set for the first time
    done = gate(f"mlflow:models:/{name}/{plain}", *baseline, "--json", "-", text=WITH_LIMIT)
    assert done.returncode == 0, done.stderr + done.stdout
    decision = json.loads(done.stdout)
    assert {rule["id"]: rule["outcome"] for rule in decision["rules"]} == {"no-worse": "skipped", "ceiling": "pass"}
    assert decision["headline"] == (
        "PASS of a first version: every other rule is met; 1 had no baseline to compare with"
    )
    assert mlflow.alias(name, "champion") == plain
    tags = mlflow.tags(name, plain)
    assert (tags["promotion"], tags["baseline_sha256"]) == ("done: champion", "none")

    # a name that is spelt wrongly is no first version, and neither is an alias that was set before
    done = gate(f"mlflow:models:/{name}/{augmented}", "--baseline", f"mlflow:models:/{name}@champoin", text=WITH_LIMIT)
    assert done.returncode == 2
    assert "did you mean champion?" in done.stderr
    mlflow.call("DELETE", "mlflow/registered-models/alias", {"name": name, "alias": "champion"})
    done = gate(f"mlflow:models:/{name}/{augmented}", *baseline, text=WITH_LIMIT)
    assert done.returncode == 2
    assert f"the gate has set it before, on version {plain}" in done.stderr
    # … unless its owner says so
    done = gate(f"mlflow:models:/{name}/{augmented}", *baseline, "--first-version", "pass")
    assert done.returncode == 0, done.stderr + done.stdout
    assert mlflow.alias(name, "champion") == augmented


def test_the_report_of_the_champions_own_gate_stands_for_a_new_audit_of_it(
    mlflow: MlflowServer, gate: Gate, registered: tuple[str, str, str], repo_root: Path
) -> None:
    name, plain, augmented = registered
    baseline = ("--baseline", f"mlflow:models:/{name}@champion")
    stands = "its report is that of its own gate"
    assert gate(f"mlflow:models:/{name}/{plain}", *baseline, "--promote", "champion", text=WITH_LIMIT).returncode == 0

    done = gate(f"mlflow:models:/{name}/{augmented}", *baseline, "--json", "-", text=WITH_LIMIT)
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"{name} version {plain}: {stands}" in done.stderr
    again = gate(f"mlflow:models:/{name}/{augmented}", *baseline, "--again", "--json", "-", text=WITH_LIMIT)
    assert stands not in again.stderr
    assert json.loads(again.stdout)["rules"] == json.loads(done.stdout)["rules"], "measured anew it is the same"

    # on other terms it is measured
    other = gate(f"mlflow:models:/{name}/{augmented}", *baseline, "--seed", "1", text=WITH_LIMIT)
    assert (other.returncode, stands in other.stderr) == (0, False), other.stderr
    # and so is another model, whatever its tags say
    run_id = mlflow.tags(name, plain)["run_id"]
    last = mlflow.register(name, repo_root / "examples" / "digits" / "augmented.onnx")
    tag = {"name": name, "version": last, "key": "lieaudit.run_id", "value": run_id}
    mlflow.call("POST", "mlflow/model-versions/set-tag", tag)
    forged = gate(f"mlflow:models:/{name}/{augmented}", "--baseline", f"models:/{name}/{last}", text=WITH_LIMIT)
    assert (forged.returncode, stands in forged.stderr) == (0, False), forged.stderr


def test_auditing_a_registered_model(
    mlflow: MlflowServer, service: str, registered: tuple[str, str, str], repo_root: Path
) -> None:
    name, plain, _ = registered
    digits = repo_root / "examples" / "digits"
    command = [sys.executable, "-c", COMMAND, "audit", f"mlflow:models:/{name}/{plain}", "--server", service]
    command += ["--data", str(digits / "digits.npz"), "--preprocess", "mean=0.15,std=0.3", "--generators", "rotation"]
    command += ["--max-images", "16", "--relative-images", "0", "--json", "-"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": mlflow.address, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    model = json.loads(done.stdout)["model"]
    assert model["name"] == f"{name} version {plain}"
    assert model["sha256"] == hashlib.sha256((digits / "plain.onnx").read_bytes()).hexdigest()
    command[4] = f"mlflow:models:/{name}/999"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert f"MLflow has no models:/{name}/999" in done.stderr
