"""The CI templates: valid by the published schemas of GitHub and GitLab, and their commands do what they say."""

from __future__ import annotations

import json
import os
import re
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


def test_the_action_gates_a_project_and_leaves_its_outputs(project: Path, service: str, repo_root: Path) -> None:
    """As a runner does it: the step's environment from the inputs, its outputs and summary into files."""
    action = _read(repo_root / "action.yml")
    inputs = {name: value.get("default", "") for name, value in action["inputs"].items()}
    inputs |= {
        "model": "models/classifier.onnx", "data": "data/test.npz", "preprocess": PREPROCESS, "server": service,
        "baseline": "models/baseline.json",
    }  # fmt: skip
    assert {n for n, v in action["inputs"].items() if v.get("required")} <= set(inputs)
    (step,) = (step for step in action["runs"]["steps"] if step.get("id") == "gate")
    named = {name: re.fullmatch(r"\$\{\{ inputs\.([a-z-]+) \}\}", text)[1] for name, text in step["env"].items()}
    variables = {name: inputs[given] for name, given in named.items()}
    variables |= {"GITHUB_OUTPUT": str(project / "outputs"), "GITHUB_STEP_SUMMARY": str(project / "summary")}
    done = _bash(step["run"], project, service, variables)
    assert done.returncode == 0, done.stderr + done.stdout
    assert {path.name for path in (project / "lieaudit-gate").iterdir()} == FILES
    outputs = dict(line.split("=", 1) for line in (project / "outputs").read_text().splitlines())
    assert outputs == {"sarif": "lieaudit-gate/lieaudit.sarif", "verdict": "pass"}
    assert set(outputs) == set(action["outputs"])
    assert (project / "summary").read_text().startswith("## ✅ lieaudit gate: PASS")
    (project / "lieaudit.yaml").write_text(
        POLICY.replace("margin: 0.1", "margin: 0.1}\n  - {kind: limit, max: 1e-9, generators: rotation")
    )
    done = _bash(step["run"], project, service, variables)
    assert done.returncode == 1
    assert (project / "outputs").read_text().splitlines()[-1] == "verdict=fail"


def test_the_action_installs_what_it_needs(repo_root: Path) -> None:
    """Without a service it installs the distributions that stand on each other, in the order that pip needs."""
    (install,) = (
        s["run"] for s in _read(repo_root / "action.yml")["runs"]["steps"] if s.get("name") == "Install lieaudit"
    )
    folders = re.findall(r'"\$SOURCE(?:/([a-z]+))?(?:\[cpu\])?"', install)
    assert folders == ["policy", "proto", "client", "", "server"]
    assert all((repo_root / folder / "pyproject.toml").exists() for folder in folders)


def test_zizmor_finds_nothing_in_what_runs_on_github(repo_root: Path, tmp_path: Path) -> None:
    zizmor = Path(sys.executable).parent / "zizmor"
    workflow = repo_root / "examples" / "ci" / "github-workflow.yml"
    check = [zizmor, "--offline", "--persona", "pedantic", "--quiet"]
    done = subprocess.run([*check, repo_root / "action.yml", workflow], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    loose = tmp_path / "github-workflow.yml"
    loose.write_text(re.sub(r"@[0-9a-f]{40} # v\S+", "@v5", workflow.read_text()))
    assert subprocess.run([*check, loose], capture_output=True, check=False).returncode, "it would notice a tag"


def test_the_hooks_of_the_repository_run(project: Path, service: str, repo_root: Path) -> None:
    """pre-commit takes them from a repository: here a clone of what stands in this one."""
    pytest.importorskip("pre_commit", reason="pre-commit is not installed")
    hooks = project.parent / f"{project.name}-hooks"
    hooks.mkdir()
    shutil.copy(repo_root / ".pre-commit-hooks.yaml", hooks)
    commit = "git init -q . && git add -A && git -c user.name=a -c user.email=a@example.org commit -qm hooks"
    assert _bash(commit, hooks, service, {}).returncode == 0
    revision = _bash("git rev-parse HEAD", hooks, service, {}).stdout.strip()
    arguments = ["models/classifier.onnx", "--data", "data/test.npz", "--policy", "lieaudit.yaml"]
    arguments += ["--baseline", "models/baseline.json", "--preprocess", PREPROCESS]
    chosen = [{"id": "lieaudit-policy"}, {"id": "lieaudit-gate", "args": arguments}]
    (project / ".pre-commit-config.yaml").write_text(
        yaml.safe_dump({"repos": [{"repo": str(hooks), "rev": revision, "hooks": chosen}]})
    )
    script = "git init -q . && git add -A && python -m pre_commit run --all-files --hook-stage pre-push -v"
    done = _bash(script, project, service, {})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: every rule is met" in done.stdout
    assert "lieaudit.yaml: 1 rules; needs" in done.stdout


def _read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def _bash(script: str, folder: Path, service: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = {"HOME": str(folder), "PRE_COMMIT_HOME": str(folder / ".cache"), "LIEAUDIT_SERVER": service, "PATH": path}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=os.environ | home | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
