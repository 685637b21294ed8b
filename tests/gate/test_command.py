"""``lieaudit gate``, ``compare`` and ``policy`` on trained models through the real service: every exit code, really."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from lieaudit_client import Client
from lieaudit_client.command import run

PREPROCESS = ("--preprocess", "mean=0.15,std=0.3")
NO_WORSE = """version: 1
rules:
  - {{id: no-worse, kind: noninferiority, generators: [rotation, translation_x], margin: 0.1{}}}
"""


@dataclass
class Digits:
    """The demo's models and images, and an audit of each model."""

    plain: Path
    augmented: Path
    data: Path
    plain_report: Path
    augmented_report: Path


@pytest.fixture(scope="module")
def digits(repo_root: Path, service: str, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    folder, out = repo_root / "examples" / "digits", tmp_path_factory.mktemp("digits")
    data = folder / "digits.npz"
    for name in ("plain", "augmented"):
        code = run([
            "audit", str(folder / f"{name}.onnx"), "--data", str(data), "--server", service, *PREPROCESS,
            "--generators", "rotation,translation_x", "--json", str(out / f"{name}.json"),
        ])  # fmt: skip
        assert code == 0
    return Digits(folder / "plain.onnx", folder / "augmented.onnx", data, out / "plain.json", out / "augmented.json")


@pytest.fixture
def gate(service: str, tmp_path: Path) -> Callable[..., int]:
    """Return a function: (model, policy text, options) → exit code."""

    def call(model: object, policy: str, *arguments: object) -> int:
        path = tmp_path / "policy.yaml"
        path.write_text(policy)
        return run(["gate", str(model), "--policy", str(path), "--server", service, *map(str, arguments)])

    return call


def test_augmented_passes_against_plain_and_the_reverse_fails_in_words(
    digits: Digits, gate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(digits.augmented_report, NO_WORSE.format(""), "--baseline", digits.plain_report) == 0
    said = capsys.readouterr().out
    assert "PASS: every rule is met" in said
    assert gate(digits.plain_report, NO_WORSE.format(""), "--baseline", digits.augmented_report) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "FAIL: at least one rule is broken" in said
    assert "no-worse: rotation: mean LEE is" in said
    assert "up to 1.1 × is accepted, which it exceeds" in said


def test_every_file_is_written(digits: Digits, gate: Callable[..., int], tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("json", "junit", "sarif", "markdown", "html", "report")}
    options = [item for name, path in files.items() for item in (f"--{name}", path)]
    assert gate(digits.plain_report, NO_WORSE.format(""), "--baseline", digits.augmented_report, *options) == 1
    decision = json.loads(files["json"].read_text())
    assert (decision["schema"], decision["verdict"]) == ("lieaudit.decision/1", "fail")
    assert {rule["outcome"] for rule in decision["rules"]} == {"fail"}
    assert "<testsuites" in files["junit"].read_text()
    assert json.loads(files["sarif"].read_text())["version"] == "2.1.0"
    assert files["markdown"].read_text().startswith("## ❌")
    assert "<!doctype html>" in files["html"].read_text()
    assert files["report"].read_text() == digits.plain_report.read_text(), "the next baseline"


def test_models_are_audited_for_what_the_rules_need_and_no_more(
    digits: Digits, gate: Callable[..., int], tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    code = gate(
        digits.augmented, NO_WORSE.format(""), "--baseline", digits.plain, "--data", digits.data, *PREPROCESS,
        "--report", report,
    )  # fmt: skip
    assert code == 0
    assert list(json.loads(report.read_text())["results"]) == ["translation_x", "rotation"]


def test_a_model_is_measured_on_the_images_of_its_baseline(
    digits: Digits, gate: Callable[..., int], service: str, tmp_path: Path
) -> None:
    baseline, report = tmp_path / "baseline.json", tmp_path / "report.json"
    arguments = ["--data", str(digits.data), "--server", service, *PREPROCESS, "--generators", "rotation"]
    assert run(["audit", str(digits.plain), *arguments, "--max-images", "100", "--json", str(baseline)]) == 0
    policy = NO_WORSE.format("").replace("[rotation, translation_x]", "rotation")
    for text in (policy, policy + "on_inconclusive: more_images\nimages: {min: 50, max: 200}\n"):
        code = gate(
            digits.augmented, text, "--baseline", baseline, "--data", digits.data, *PREPROCESS, "--report", report
        )
        assert code in {0, 3}, "decided or not, but comparable: a report that is fixed does not grow"
        assert json.loads(report.read_text())["data"]["count"] == 100


def test_an_earlier_audit_of_the_service_is_a_baseline(digits: Digits, gate: Callable[..., int], service: str) -> None:
    with Client(service) as client:
        sha256 = client.upload_model(digits.plain).sha256
        asked = ["rotation", "translation_x"]
        mine = (a for a in client.audits("succeeded") if (a.model_sha256, list(a.spec.generators)) == (sha256, asked))
        audit = next(mine)
    for baseline in (f"audit:{audit.id}", audit.id):
        assert gate(digits.augmented_report, NO_WORSE.format(""), "--baseline", baseline) == 0


def test_a_gap_is_measured_between_two_datasets(
    digits: Digits, gate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Upright digits against the same turned by a quarter: another dataset for a model that never saw such."""
    policy = "version: 1\nrules:\n  - {kind: gap, generators: rotation, dataset: turned, margin: 9}\n"
    with np.load(digits.data) as found:
        np.savez(tmp_path / "turned.npz", x=np.rot90(found["x"], axes=(1, 2)), y=found["y"])
    turned = f"turned={tmp_path / 'turned.npz'}"
    assert gate(digits.plain, policy, "--data", digits.data, "--dataset", turned, *PREPROCESS) == 0
    assert "the one on 'turned'" not in capsys.readouterr().out, "what passes needs no words"
    assert gate(digits.plain_report, policy, "--dataset", turned) == 2
    assert "the candidate is a report" in capsys.readouterr().err


def test_one_model_is_no_worse_than_itself(digits: Digits, gate: Callable[..., int]) -> None:
    policy = NO_WORSE.format("").replace("0.1", "0")
    assert gate(digits.plain, policy, "--baseline", digits.plain_report, "--data", digits.data, *PREPROCESS) == 0


def test_inconclusive_blocks_warns_fails_or_measures_more(
    digits: Digits, gate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    # Against a limit in the middle of its own interval nothing can be decided.
    lee = json.loads(digits.plain_report.read_text())["results"]["rotation"]["lee"]
    policy = f"version: 1\nrules:\n  - {{kind: limit, generators: rotation, max: {lee}}}\n"
    assert gate(digits.plain_report, policy, "--power") == 3
    assert "INCONCLUSIVE" in capsys.readouterr().out
    assert gate(digits.plain_report, policy + "on_inconclusive: warn\n") == 0
    assert "only warns" in capsys.readouterr().err
    assert gate(digits.plain_report, policy + "on_inconclusive: fail\n") == 1
    more = policy + "on_inconclusive: more_images\nimages: {min: 60, max: 120}\n"
    assert gate(digits.plain, more, "--data", digits.data, *PREPROCESS) == 3
    said = capsys.readouterr()
    assert "inconclusive on 60 images; the policy asks for more: 120" in said.err
    assert "120 images" in said.out


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (NO_WORSE.format("").replace("margin", "marign"), "rules[0].marign: no such field (did you mean 'margin'?)"),
        (NO_WORSE.format("").replace("rotation", "rotaton"), "unknown generator 'rotaton' (did you mean 'rotation'?)"),
        (NO_WORSE.format("").replace("0.1", "-1"), "-1 is not in 0 … 1000 (how much worse is acceptable"),
    ],
    ids=["typo", "unknown generator", "margin of -1"],
)
def test_a_wrong_policy_is_bad_usage_and_says_what_to_change(
    digits: Digits, gate: Callable[..., int], capsys: pytest.CaptureFixture[str], policy: str, says: str
) -> None:
    assert gate(digits.plain_report, policy, "--baseline", digits.plain_report) == 2
    said = capsys.readouterr().err
    assert "policy.yaml:3: " in said
    assert says in said


def test_an_expired_waiver_fails_again_and_a_valid_one_is_shown(
    digits: Digits, gate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    waiver = "waivers:\n  - {{rule: no-worse, owner: ada, reason: known, expires: {}}}\n"
    policy, baseline = NO_WORSE.format(""), ("--baseline", digits.augmented_report)
    assert gate(digits.plain_report, policy + waiver.format("2020-01-31"), *baseline) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "The waiver by ada expired on 2020-01-31: fix it, or renew the waiver." in said
    assert gate(digits.plain_report, policy + waiver.format("2999-01-31"), *baseline) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Waived until 2999-01-31 by ada: known." in said


def test_a_baseline_from_other_images_is_refused_by_name(
    digits: Digits, gate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads(digits.plain_report.read_text())
    report["data"] |= {"sha256": "e" * 64, "name": "others.npz"}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(report))
    assert gate(digits.augmented_report, NO_WORSE.format(""), "--baseline", other) == 2
    said = capsys.readouterr().err
    assert "other images: baseline others.npz (eeeeeeeeeeee" in said
    assert "audit the baseline again on the same images" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give --baseline REPORT.json, MODEL.onnx, audit:ID, mlflow:models:/NAME@ALIAS or hf:OWNER/REPO@REVISION"),
        (("--baseline", "nothing-here"), "neither a file here nor an audit of the service"),
        (("--baseline", "audit:nothing-here"), "neither a file here nor an audit of the service"),
        (("--generators", "scale"), "the policy's rules say which ones are measured"),
        (("--dataset", "train"), "is not NAME=DATA"),
        (("--promote", "champion"), "give MODEL as mlflow:models:/NAME/VERSION"),
        (("--json", "-", "--html", "-"), "only one format can be written to standard output"),
        (("--html", "/no/such/folder/x.html"), "cannot write"),
    ],
)
def test_bad_usage_is_refused_before_any_audit(
    digits: Digits, gate: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert gate(digits.plain_report, NO_WORSE.format(""), *arguments) == 2
    assert says in capsys.readouterr().err


def test_a_model_without_images_and_a_missing_dataset_are_bad_usage(
    digits: Digits, gate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(digits.augmented, NO_WORSE.format(""), "--baseline", digits.plain_report) == 2
    assert "give --data DATA" in capsys.readouterr().err
    gap = "version: 1\nrules:\n  - {kind: gap, generators: rotation, dataset: train, margin: 0.5}\n"
    assert gate(digits.augmented_report, gap) == 2
    assert "--dataset train=DATA" in capsys.readouterr().err


def test_a_service_that_is_not_there_is_code_4(digits: Digits, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(NO_WORSE.format(""))
    arguments = ["gate", str(digits.plain_report), "--policy", str(policy), "--baseline", str(digits.plain_report)]
    assert run([*arguments, "--server", "127.0.0.1:1"]) == 4


def test_the_hook_gets_the_verdict_and_its_failure_is_no_pass(
    digits: Digits, gate: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "print('hook', os.environ['LIEAUDIT_VERDICT'], json.load(sys.stdin)['rules'][0]['id'])\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    baseline = ("--baseline", digits.plain_report)
    assert gate(digits.augmented_report, NO_WORSE.format(""), *baseline, "--hook", f"{hook} 0") == 0
    assert "hook pass no-worse" in capfd.readouterr().out
    assert gate(digits.augmented_report, NO_WORSE.format(""), *baseline, "--hook", f"{hook} 7") == 4
    assert "the hook ended with code 7" in capfd.readouterr().err
    for unusable in ("/no/such/hook", "", "echo 'never ends"):
        assert gate(digits.augmented_report, NO_WORSE.format(""), *baseline, "--hook", unusable) == 4
        assert "the hook cannot be started" in capfd.readouterr().err


def test_policy_init_writes_what_policy_check_accepts(
    service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lieaudit.yaml"
    assert run(["policy", "init", str(path)]) == 0
    assert run(["policy", "init", str(path)]) == 2, "it does not overwrite"
    assert run(["policy", "check", str(path), "--server", service]) == 0
    assert "2 rules; needs: measures translation_x" in capsys.readouterr().out
    path.write_text(path.read_text().replace("margin", "marign"))
    assert run(["policy", "check", str(path), "--server", service]) == 2
    assert f"{path}:24: rules[0].marign: no such field (did you mean 'margin'?)" in capsys.readouterr().err


def test_compare_shows_reports_side_by_side(digits: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert run(["compare", str(digits.plain_report), str(digits.augmented_report), "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert "plain" in said
    assert "top-1" in said
    assert "Against accuracy" in page.read_text()
    assert run(["compare", str(digits.plain_report)]) == 2


@pytest.mark.real
@pytest.mark.slow
def test_trained_models_reach_pass_fail_and_inconclusive(
    real_dir: Path, service: str, tmp_path: Path, gate: Callable[..., int]
) -> None:
    """Rotation on 500 upright digits: the augmented CNN against the plain one, and the reverse, by two statistics."""
    reports = {}
    for name in ("cnn_plain", "cnn_augmented", "p4_gcnn"):
        reports[name] = tmp_path / f"{name}.json"
        code = run([
            "audit", str(real_dir / "models" / f"mnist_rot_{name}.onnx"), "--server", service, "--max-images", "500",
            "--data", str(real_dir / "images" / "mnist_test_2000.npz"), "--preprocess", "mean=0.13,std=0.3",
            "--generators", "rotation", "--json", str(reports[name]),
        ])  # fmt: skip
        assert code == 0
    typical = NO_WORSE.format(", statistic: geometric_mean").replace("[rotation, translation_x]", "rotation")
    plain, augmented, p4 = (("--baseline", reports[n]) for n in ("cnn_plain", "cnn_augmented", "p4_gcnn"))
    assert gate(reports["cnn_augmented"], typical, *plain) == 0
    assert gate(reports["cnn_plain"], typical, *augmented) == 1
    # The mean is carried by few images; 500 of them do not decide 10 %, whichever of the two comes first.
    mean = typical.replace("geometric_mean", "mean")
    assert gate(reports["p4_gcnn"], mean, *augmented) == 3
    assert gate(reports["p4_gcnn"], mean, *p4) == 0
