"""The CI templates: valid by the published schemas of GitHub and GitLab, and their commands do what they say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml
from lieaudit_client.command import run

PREPROCESS = "mean=0.15,std=0.3"
POLICY = "version: 1\nrules:\n  - {id: no-worse, kind: noninferiority, generators: rotation, margin: 0.1}\n"
FILES = {"page.html", "junit.xml", "lieaudit.sarif", "summary.md", "decision.json", "report.json"}


@pytest.fixture(scope="module")
def templates(repo_root: Path) -> Path:
    return repo_root / "examples" / "ci"


@pytest.fixture
def project(repo_root: Path, service: str, tmp_path: Path) -> Path:
    """Lay out a user's repository as the templates expect it; the baseline's report is a fresh audit."""
    digits = repo_root / "examples" / "digits"
    for folder in ("models", "data"):
        (tmp_path / folder).mkdir()
    shutil.copy(digits / "augmented.onnx", tmp_path / "models" / "classifier.onnx")
    shutil.copy(digits / "digits.npz", tmp_path / "data" / "test.npz")
    (tmp_path / "lieaudit.yaml").write_text(POLICY)
    code = run([
        "audit", str(digits / "plain.onnx"), "--data", str(digits / "digits.npz"), "--server", service,
        "--generators", "rotation", "--preprocess", PREPROCESS, "--json", str(tmp_path / "models" / "baseline.json"),
    ])  # fmt: skip
    assert code == 0
    return tmp_path


@pytest.mark.parametrize(
    ("name", "schema"), [("github-workflow.yml", "github-workflows"), ("gitlab-ci.yml", "gitlab-ci")]
)
def test_templates_fit_the_published_schemas(templates: Path, name: str, schema: str) -> None:
    published = resources.files("check_jsonschema").joinpath("builtin_schemas", "vendor", f"{schema}.json")
    rules = json.loads(published.read_text(encoding="utf-8"))
    kind = jsonschema.validators.validator_for(rules)
    # YAML 1.1 reads the key `on` as true, GitHub does not.
    document = {("on" if key is True else key): value for key, value in _read(templates / name).items()}
    assert list(kind(rules).iter_errors(document)) == []
    del document[next(reversed(document))]
    document["jobs"] = 3
    assert list(kind(rules).iter_errors(document)), "the schema would notice"


def test_the_commands_of_github_and_gitlab_gate_a_project(templates: Path, project: Path, service: str) -> None:
    github = _read(templates / "github-workflow.yml")
    gitlab = _read(templates / "gitlab-ci.yml")["equivariance"]
    steps = {step.get("name"): step for step in github["jobs"]["gate"]["steps"]}
    for script, variables in (
        (steps["Gate"]["run"] + steps["Summary"]["run"], github["env"]),
        ("\n".join(gitlab["script"]), gitlab["variables"]),
    ):
        plain = {name: value for name, value in variables.items() if not name.startswith("LIEAUDIT_")}
        environment = plain | {"PREPROCESS": PREPROCESS, "GITHUB_STEP_SUMMARY": str(project / "summary")}
        done = _bash(script, project, service, environment)
        assert done.returncode == 0, done.stderr + done.stdout
        assert {path.name for path in (project / "gate").iterdir()} == FILES
        shutil.rmtree(project / "gate")
    assert (project / "summary").read_text().startswith("## ✅ lieaudit gate: PASS")


def test_the_pre_commit_hooks_run_and_block(templates: Path, project: Path, service: str, repo_root: Path) -> None:
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    text = (templates / "pre-commit-config.yaml").read_text()
    (project / ".pre-commit-config.yaml").write_text(
        text.replace("--preprocess imagenet", f"--preprocess {PREPROCESS}")
    )
    script = "git init -q . && git add -A && python -m pre_commit run --all-files --hook-stage pre-push -v"
    done = _bash(script, project, service, {})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: every rule is met" in done.stdout
    # the plain model against a report of the augmented one is a regression, and a typo is none of the policy's rules
    for name, model in (("baseline.json", "augmented.onnx"), ("classifier.onnx", "plain.onnx")):
        path = project / "models" / name
        if name.endswith(".json"):
            arguments = ["--data", str(project / "data" / "test.npz"), "--server", service, "--generators", "rotation"]
            model_path = str(repo_root / "examples" / "digits" / model)
            assert run(["audit", model_path, *arguments, "--preprocess", PREPROCESS, "--json", str(path)]) == 0
        else:
            shutil.copy(repo_root / "examples" / "digits" / model, path)
    done = _bash("python -m pre_commit run --all-files --hook-stage pre-push", project, service, {})
    assert done.returncode == 1
    assert "FAIL: at least one rule is broken" in done.stdout
    (project / "lieaudit.yaml").write_text(POLICY.replace("margin", "marign"))
    done = _bash("python -m pre_commit run lieaudit-policy --all-files", project, service, {})
    assert done.returncode == 1
    assert "lieaudit.yaml:3: rules[0].marign: no such field" in done.stdout


def _read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def _bash(script: str, folder: Path, service: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = {"HOME": str(folder), "PRE_COMMIT_HOME": str(folder / ".cache"), "LIEAUDIT_SERVER": service, "PATH": path}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=os.environ | home | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
