"""What other distributions bring: formats and generators by entry point, of a tiny one installed in a venv."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from lieaudit_client import Client, InvalidInputError
from lieaudit_client.formats import named
from lieaudit_client.formats.outcome import Outcome

MODULE = """
import json

def short(outcome):
    return json.dumps({"verdict": outcome.decision.verdict, "rules": len(outcome.decision.rules)})

def names(report):
    return ",".join(sorted(report.results))

def broken(outcome):
    raise KeyError("nothing there")

def bytes_(outcome):
    return b"no text"

def spread(report, generator):
    values = report.results[generator].per_image
    return [abs(value - report.results[generator].median) for value in values]

SWIRL = [[0.0, -1.0, 0.5], [1.0, 0.0, 0.0]]

def drift():
    return [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
"""
ENTRY_POINTS = """[lieaudit.report_formats]
names = acme_lieaudit:names
html = acme_lieaudit:broken
missing = acme_lieaudit:nothing
constant = acme_lieaudit:SWIRL

[lieaudit.measures]
spread = acme_lieaudit:spread
constant = acme_lieaudit:SWIRL

[lieaudit.formats]
short = acme_lieaudit:short
broken = acme_lieaudit:broken
bytes = acme_lieaudit:bytes_
missing = acme_lieaudit:nothing
junit = acme_lieaudit:short

[lieaudit.generators]
swirl = acme_lieaudit:SWIRL
drift = acme_lieaudit:drift
lost = acme_lieaudit:nothing
rotation = acme_lieaudit:SWIRL
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a venv that holds the distribution, over the packages of this one; give its Python."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    (site / "here.pth").write_text("\n".join(path for path in sys.path if path and Path(path).is_dir()) + "\n")
    (site / "acme_lieaudit.py").write_text(MODULE)
    described = site / "acme_lieaudit-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-lieaudit\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(ENTRY_POINTS)
    assert sysconfig.get_python_version() in site.as_posix()
    return folder / "bin" / "python"


@pytest.fixture
def command(installed: Path, tmp_path: Path) -> Run:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        call = [str(installed), "-m", "lieaudit_client", *arguments]
        return subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path, env=dict(os.environ))

    return run


@pytest.fixture
def gate(command: Run, service: str, repo_root: Path, tmp_path: Path) -> Run:
    digits = repo_root / "examples" / "digits"
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nrules:\n  - {id: ceiling, kind: limit, generators: rotation, max: 1000}\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return command(
            "gate", str(digits / "plain.onnx"), "--data", str(digits / "digits.npz"), "--preprocess",
            "mean=0.15,std=0.3", "--policy", str(policy), "--server", service, "--max-images", "64", *arguments,
        )  # fmt: skip

    return run


def test_the_clients_own_formats_have_a_name(outcome: Outcome) -> None:
    assert set(named.FORMATS) == {"json", "junit", "sarif", "markdown", "html"}
    for name in named.FORMATS:
        assert len(named.find(name)(outcome)) > 100, name


@pytest.mark.slow
def test_a_format_of_another_distribution_is_written(gate: Run, tmp_path: Path) -> None:
    done = gate("--format", "short=short.json", "--format", "junit=junit.xml")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "short.json").read_text()) == {"verdict": "pass", "rules": 1}
    assert (tmp_path / "junit.xml").read_text().startswith("<?xml"), "the client's own names are not taken"
    done = gate("--format", "short=-")
    assert json.loads(done.stdout) == {"verdict": "pass", "rules": 1}


@pytest.mark.slow
def test_a_format_that_fails_is_no_pass(gate: Run, tmp_path: Path) -> None:
    for name, says in (
        ("broken", "acme_lieaudit:broken raised KeyError: 'nothing there'"),
        ("bytes", "acme_lieaudit:bytes_ returned bytes, not text"),
    ):
        done = gate("--format", f"{name}=out", "--format", f"short={name}.json")
        assert done.returncode == 3, done.stderr
        assert says in done.stderr
        assert (tmp_path / f"{name}.json").exists(), "the other is still written"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("shrt=out", "did you mean short?"),
        ("missing=out", "acme_lieaudit:nothing"),
        ("short", "'short' is not NAME=FILE"),
        ("short=nowhere/out", "there is no folder"),
    ],
)
def test_a_format_that_is_none_is_refused_before_any_work(gate: Run, given: str, says: str) -> None:
    done = gate("--format", given)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.fixture
def audit(command: Run, service: str, repo_root: Path) -> Run:
    digits = repo_root / "examples" / "digits"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return command(
            "audit", str(digits / "plain.onnx"), "--data", str(digits / "digits.npz"), "--preprocess",
            "mean=0.15,std=0.3", "--server", service, "--max-images", "32", "--relative-images", "0", *arguments,
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_a_generator_of_another_distribution_is_measured_as_the_field_that_it_is(audit: Run) -> None:
    done = audit("--generators", "swirl,drift,rotation", "--json", "-")
    assert done.returncode == 0, done.stderr
    named_ones = json.loads(done.stdout)["results"]
    done = audit(
        "--generator", "a=0,-1,0.5;1,0,0", "--generator", "b=0,0,1;0,0,1", "--generators", "a,b,rotation", "--json", "-"
    )
    given = json.loads(done.stdout)["results"]
    assert set(named_ones) == {"swirl", "drift", "rotation"}
    for name, same in (("swirl", "a"), ("drift", "b"), ("rotation", "rotation")):
        assert named_ones[name]["per_image"] == pytest.approx(given[same]["per_image"], rel=1e-6)


@pytest.mark.parametrize(
    ("given", "says"),
    [("swril", "did you mean swirl?"), ("lost", "the generator 'lost' (acme_lieaudit:nothing) cannot be loaded")],
)
def test_a_generator_that_is_none_is_refused_before_any_work(audit: Run, given: str, says: str) -> None:
    done = audit("--generators", given)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.slow
def test_a_service_offers_what_its_operator_lists_and_no_more(installed: Path, tmp_path: Path, repo_root: Path) -> None:
    serve = [str(installed), "-m", "lieaudit_server", "serve", "--listen", "127.0.0.1:0", "--log-level", "error"]
    serve += ["--data-dir", str(tmp_path / "data"), "--min-free-bytes", "0", "--worker-user", "0", "--generators"]
    done = subprocess.run([*serve, "swirl,lost,none"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "lost (acme_lieaudit:nothing): AttributeError" in done.stderr
    assert "no installed distribution brings 'none'" in done.stderr

    digits = repo_root / "examples" / "digits"
    settings = {"preprocessing": "mean=0.15,std=0.3", "max_images": 16, "relative_images": 0}
    with subprocess.Popen([*serve, "swirl"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            target = process.stdout.readline().removeprefix("ready ").strip()
            with Client(target) as client:
                model, data = str(digits / "plain.onnx"), str(digits / "digits.npz")
                report = client.audit(model, data, {**settings, "generators": ["swirl"]})
                same = client.audit(
                    model, data, {**settings, "generators": ["own"], "custom": {"own": [[0, -1.0, 0.5], [1, 0, 0]]}}
                )
                assert list(report.results["swirl"].per_image) == list(same.results["own"].per_image)
                assert "swirl" in report.spec.custom, "the report holds the field itself"
                with pytest.raises(InvalidInputError, match="drift"):  # installed there, and not listed
                    client.audit(model, data, {**settings, "generators": ["drift"]})
        finally:
            process.terminate()


SPREAD = "version: 1\nrules:\n  - {id: even, kind: limit, measure: spread, generators: rotation, max: %s}\n"


@pytest.mark.slow
def test_a_policy_bounds_a_measure_of_another_distribution_where_the_operator_lists_it(
    installed: Path, command: Run, service: str, tmp_path: Path, repo_root: Path
) -> None:
    digits = repo_root / "examples" / "digits"
    (tmp_path / "policy.yaml").write_text(SPREAD % 1000)
    (tmp_path / "strict.yaml").write_text(SPREAD % 1e-9)
    ask = [
        "gate",
        str(digits / "plain.onnx"),
        "--data",
        str(digits / "digits.npz"),
        "--preprocess",
        "mean=0.15,std=0.3",
    ]
    ask += ["--max-images", "64", "--relative-images", "0", "--report", "report.json", "--json", "-", "--policy"]
    assert command("policy", "check", "policy.yaml").returncode == 0, "it is installed here"

    done = command(*ask, "policy.yaml", "--server", service)  # which lists none
    assert done.returncode == 2
    assert "'spread'" in done.stderr

    serve = [str(installed), "-m", "lieaudit_server", "serve", "--listen", "127.0.0.1:0", "--log-level", "error"]
    serve += ["--data-dir", str(tmp_path / "data"), "--min-free-bytes", "0", "--worker-user", "0", "--measures"]
    failed = subprocess.run([*serve, "constant,none"], capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert "'constant' cannot be loaded: acme_lieaudit:SWIRL is no function" in failed.stderr
    assert "'none' cannot be loaded: no installed distribution brings it" in failed.stderr
    with subprocess.Popen([*serve, "spread"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            target = process.stdout.readline().removeprefix("ready ").strip()
            done = command(*ask, "policy.yaml", "--server", target)
            strict = command(*ask, "strict.yaml", "--server", target)
        finally:
            process.terminate()
    assert (done.returncode, strict.returncode) == (0, 1), done.stderr + strict.stderr
    rule = json.loads(done.stdout)["rules"][0]
    result = json.loads((tmp_path / "report.json").read_text())["results"]["rotation"]
    expected = sum(abs(value - result["median"]) for value in result["per_image"]) / 64
    assert rule["value"] == pytest.approx(expected, rel=1e-12)
    assert rule["interval"][0] < rule["value"] < rule["interval"][1]
    assert rule["sentence"].startswith("rotation: mean spread is ")

    # of the embedded service the user is the operator
    own = os.environ | {"LIEAUDIT_MEASURES": "spread", "LIEAUDIT_WORKER_USER": "0"}
    call = [str(installed), "-m", "lieaudit_client", *ask, "policy.yaml"]
    here = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path, env=own)
    assert here.returncode == 0, here.stderr
    assert json.loads(here.stdout)["rules"][0]["value"] == rule["value"]


@pytest.mark.slow
def test_a_report_is_written_in_the_format_of_another_distribution(audit: Run, command: Run, tmp_path: Path) -> None:
    done = audit(
        "--generators",
        "rotation,scale",
        "--format",
        "names=names.txt",
        "--format",
        "html=page.html",
        "--json",
        "r.json",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "names.txt").read_text() == "rotation,scale"
    assert "</html>" in (tmp_path / "page.html").read_text(), "the client's own names are not taken"
    assert command("report", "r.json", "--format", "names=-").stdout == "rotation,scale"
    for name, says in (
        ("missing", "acme_lieaudit:nothing"),
        ("constant", "it is no function"),
        ("nmes", "did you mean names?"),
    ):
        refused = audit("--format", f"{name}=out")
        assert refused.returncode == 2
        assert says in refused.stderr
