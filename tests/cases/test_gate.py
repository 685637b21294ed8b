"""What the gate must never do: pass what was not measured, or call anything else a broken policy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from lieaudit_client import Client
from lieaudit_client.command import run
from lieaudit_server.embedded import EmbeddedServer
from onnx import TensorProto, helper, numpy_helper

LIEAUDIT = (sys.executable, "-c", "from lieaudit_client.command import main; main()")
CEILING = "version: 1\nimages: {{min: 8}}\nrules:\n  - {{id: ceiling, kind: limit, generators: rotation, max: {}}}\n"


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with EmbeddedServer() as target:
        yield target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with float.onnx, the same network rounded to steps in steps.onnx, images and two policies."""
    place = tmp_path_factory.mktemp("gate")
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.5, (4, 3, 3, 3)).astype(np.float32),
        "w2": rng.normal(0, 0.3, (4 * 8 * 8, 5)).astype(np.float32),
    }
    for name, rounded in (("float", False), ("steps", True)):
        nodes = [
            helper.make_node("Conv", ["x", "w1"], ["h"], pads=[1, 1, 1, 1]),
            helper.make_node("Tanh", ["h"], ["a"]),
        ]
        last = "a"
        if rounded:
            nodes += [
                helper.make_node("QuantizeLinear", ["a", "step", "zero"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["b"]),
            ]
            last = "b"
        nodes += [helper.make_node("Flatten", [last], ["f"]), helper.make_node("MatMul", ["f", "w2"], ["logits"])]
        constants = [numpy_helper.from_array(value, key) for key, value in weights.items()]
        if rounded:
            constants += [
                numpy_helper.from_array(np.float32(1 / 127), "step"),
                numpy_helper.from_array(np.int8(0), "zero"),
            ]
        graph = helper.make_graph(
            nodes, name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
            constants,
        )  # fmt: skip
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), place / f"{name}.onnx"
        )
    np.savez(place / "x.npz", x=rng.normal(0, 1, (32, 3, 8, 8)).astype(np.float32))
    (place / "high.yaml").write_text(CEILING.format(1e6))
    (place / "low.yaml").write_text(CEILING.format(1e-9))
    return place


@pytest.fixture(scope="module")
def report(folder: Path, service: str) -> Path:
    """Return the float network's report."""
    place = folder / "float.json"
    code = run([
        "audit", str(folder / "float.onnx"), "--data", str(folder / "x.npz"), "--server", service, "--json", str(place),
        "--generators", "rotation", "--head", "softmax",
    ])  # fmt: skip
    assert code == 0
    return place


def gate(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*LIEAUDIT, *map(str, arguments)]
    there = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHONIOENCODING"))} | {"CI": "1"}
    return subprocess.run(
        command, cwd=folder, env=there | environment, capture_output=True, text=True, errors="replace", check=False
    )


@pytest.mark.parametrize("sides", [("steps", "float"), ("float", "steps"), ("steps", None)])
def test_steps_never_pass_on_either_side(folder: Path, service: str, sides: tuple[str, str | None]) -> None:
    """The derivative of a quantised network is 0 almost everywhere, which says nothing about it."""
    candidate, baseline = sides
    policy = folder / "either.yaml"
    rule = (
        "kind: noninferiority, generators: rotation, margin: 0.1"
        if baseline
        else "kind: limit, generators: rotation, max: 9"
    )
    policy.write_text(f"version: 1\nimages: {{min: 8}}\nrules:\n  - {{id: either, {rule}}}\n")
    against = ["--baseline", f"{baseline}.onnx"] if baseline else []
    done = gate(
        folder, "gate", f"{candidate}.onnx", *against, "--data", "x.npz", "--policy", policy, "--server", service,
        "--head", "softmax", "--json", "d.json",
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    (rule_outcome,) = json.loads((folder / "d.json").read_text())["rules"]
    assert (rule_outcome["outcome"], rule_outcome["reason"]) == ("inconclusive", "RESULT_INCONCLUSIVE")
    assert "piecewise constant" in rule_outcome["sentence"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize(("policy", "code", "word"), [("high", 0, "PASS"), ("low", 1, "FAIL")])
def test_a_verdict_is_shown_on_any_console(
    folder: Path, service: str, report: Path, policy: str, code: int, word: str, encoding: str
) -> None:
    done = gate(folder, "gate", report, "--policy", f"{policy}.yaml", "--server", service, PYTHONIOENCODING=encoding)
    assert done.returncode == code, done.stderr
    assert word in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(("policy", "code"), [("high", 3), ("low", 1)], ids=["a pass", "a fail"])
@pytest.mark.parametrize("option", ["stdout", "--json", "--junit", "--sarif", "--markdown", "--html", "--report"])
def test_on_a_full_disk_a_pass_is_none_and_a_fail_stays_one(
    folder: Path, service: str, report: Path, option: str, policy: str, code: int
) -> None:
    command = [*LIEAUDIT, "gate", report, "--policy", f"{policy}.yaml", "--server", service]
    with open("/dev/full" if option == "stdout" else os.devnull, "w") as out:  # noqa: PTH123 - a device
        command += [] if option == "stdout" else [option, "/dev/full"]
        done = subprocess.run(command, cwd=folder, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "No space left on device" in done.stderr
    assert "OUTPUT_FAILED" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


COMMANDS = {
    "report": ("report", "float.json"),
    "compare": ("compare", "float.json", "float.json"),
    "gate": ("gate", "float.json", "--policy", "high.yaml", "--server", "SERVICE"),
    "audit": ("audit", "float.onnx", "--data", "x.npz", "--generators", "rotation", "--server", "SERVICE"),
    "inspect": ("inspect", "float.onnx", "--server", "SERVICE"),
    "policy check": ("policy", "check", "high.yaml", "--server", "SERVICE"),
    "policy init": ("policy", "init", "-"),
    "status": ("status", "--server", "SERVICE"),
    "health": ("health", "--server", "SERVICE"),
    "help": ("--help",),
    "version": ("--version",),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_calls_a_full_disk_a_broken_policy(folder: Path, service: str, report: Path, name: str) -> None:
    command = [*LIEAUDIT, *(service if word == "SERVICE" else word for word in COMMANDS[name])]
    for both in (False, True):
        with open("/dev/full", "w") as out:  # noqa: PTH123 - a device
            err = out if both else subprocess.PIPE
            done = subprocess.run(command, cwd=folder, stdout=out, stderr=err, text=True, check=False)
        assert done.returncode == 3, done.stderr
        assert both or "No space left on device" in done.stderr
        assert both or "Traceback" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_calls_a_closed_pipe_a_broken_policy(folder: Path, service: str, report: Path, name: str) -> None:
    command = [*LIEAUDIT, *(service if word == "SERVICE" else word for word in COMMANDS[name])]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command, cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert done.returncode == 3, done.stderr
    assert "closed" in done.stderr or "Broken pipe" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_address_of_a_registry_the_gate_is_refused(folder: Path, service: str) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    done = gate(folder, "gate", "mlflow:models:/net/1", "--policy", "high.yaml", "--data", "x.npz", "--server", service)
    assert done.returncode == 4, done.stderr
    assert "MLFLOW_TRACKING_URI" in done.stderr
    assert not list(folder.glob("mlflow.db")) + list(folder.glob("mlruns")), "no store is made on the way"


CRASHES = {
    "a fault of ours": ("RuntimeError('boom')", "RuntimeError: boom"),
    "no memory": ("MemoryError()", "memory"),
    "the system refuses": ("OSError(28, 'No space left on device', '/tmp/x')", "No space left"),
    "a library ends the process": ("SystemExit(1)", "closed"),
    "a library ends it in words": ("SystemExit('gave up')", "gave up"),
}


@pytest.mark.parametrize("kind", CRASHES)
def test_no_crash_is_a_broken_policy(
    kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    problem, said = CRASHES[kind]

    def crash(*_: object, **__: object) -> None:
        raise eval(problem)  # noqa: S307 - text of this file

    monkeypatch.setattr("lieaudit_client.command.gate.read_policy", crash)
    assert run(["policy", "check", __file__]) == 3
    err = capfd.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_an_output_that_cannot_be_written_is_refused_before_any_work(folder: Path) -> None:
    (folder / "folder").mkdir(exist_ok=True)
    done = gate(folder, "gate", "float.onnx", "--data", "x.npz", "--policy", "high.yaml", "--json", "folder")
    assert done.returncode == 2
    assert "it is a folder" in done.stderr


def test_layers_are_attributed_for_the_candidate_alone(folder: Path, service: str) -> None:
    policy = folder / "shares.yaml"
    policy.write_text(
        "version: 1\nimages: {min: 8}\nrules:\n"
        "  - {id: no-worse, kind: noninferiority, generators: rotation, margin: 0.1}\n"
        "  - {id: shares, kind: kind_share, generators: rotation, layer_kind: convolution, max: 9}\n"
    )
    arguments = ["--data", "x.npz", "--policy", policy, "--server", service, "--head", "softmax", "--seed", 5]
    done = gate(folder, "gate", "float.onnx", "--baseline", "float.onnx", *arguments)
    assert done.returncode in {0, 3}, done.stderr
    with Client(service) as client:
        newest = [audit for audit in client.audits() if audit.spec.seed == 5]
    assert sorted(audit.spec.layerwise for audit in newest) == ["module", "none"]


def test_a_shifted_set_fails_whichever_side_it_is_named_on(folder: Path, service: str) -> None:
    images = np.load(folder / "x.npz")["x"]
    np.savez(folder / "shifted.npz", x=0.2 * images)
    policy = folder / "gap.yaml"
    policy.write_text(
        "version: 1\nimages: {min: 8}\nstatistic: geometric_mean\nrules:\n"
        "  - {id: shift, kind: gap, generators: rotation, dataset: other, margin: 0.2}\n"
    )
    said = []
    for data, other in (("x.npz", "shifted.npz"), ("shifted.npz", "x.npz")):
        done = gate(
            folder, "gate", "float.onnx", "--data", data, "--dataset", f"other={other}", "--policy", policy,
            "--head", "identity", "--server", service,
        )  # fmt: skip
        assert done.returncode == 1, done.stdout + done.stderr
        said.append(" ".join(done.stdout.split()))
    assert all("in either direction, which it exceeds" in text for text in said)
    assert sum("geometric mean LEE on 'other' is" in text for text in said) == 1


def test_rules_on_relative_grow_with_the_images(folder: Path, service: str, report: Path) -> None:
    relative = json.loads(report.read_text())["results"]["rotation"]["relative"]
    policy = folder / "relative.yaml"
    policy.write_text(
        "version: 1\nimages: {min: 8, max: 32}\non_inconclusive: more_images\nrules:\n"
        f"  - {{id: learned, kind: relative, generators: rotation, max: {1.05 * relative}}}\n"
    )
    arguments = ["--data", "x.npz", "--policy", policy, "--server", service, "--head", "softmax", "--power"]
    done = gate(folder, "gate", "float.onnx", *arguments, "--json", "d.json")
    assert done.returncode == 3, done.stderr
    assert [f"more: {count}" in done.stderr for count in (16, 32)] == [True, True]
    assert json.loads((folder / "d.json").read_text())["rules"][0]["images"] == 32
    assert "--relative-images" in done.stdout
