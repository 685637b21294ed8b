"""What hinders a newcomer: mistyped names, swapped arguments, silence, the same audit twice, a closed laptop."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import click
import pytest
from lieaudit_client import Client, InvalidInputError, read_report
from lieaudit_client.command import COMMANDS, run
from lieaudit_client.command.audit import audit as audit_command
from lieaudit_client.command.grouping import GroupedOption
from lieaudit_client.specification import to_spec

import lieaudit
from lieaudit.data import parse_preprocessing
from lieaudit.errors import LieauditError, SpecError

LEAN = ["--generators", "rotation", "--method", "finite_difference", "--bootstrap", "100", "--threads", "1"]
PROGRAM = [sys.executable, "-m", "lieaudit_client"]


@pytest.fixture(autouse=True)
def as_in_ci(monkeypatch):
    monkeypatch.setenv("CI", "1")


@pytest.fixture
def call(server, capfd):
    def run_it(*arguments):
        code = run([*map(str, arguments), "--server", server.target])
        return code, *capfd.readouterr()

    return run_it


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistyped_command_is_guessed(name, capfd):
    assert run([name[:-1] + "x"]) == 2
    said = capfd.readouterr().err
    assert "No such command" in said
    assert f"did you mean {name}" in said or f"or {name}" in said


def test_a_mistyped_option_is_guessed(capfd):
    assert run(["audit", "--generatrs", "rotation"]) == 2
    assert re.search(r"Did you mean.*'--generators'", capfd.readouterr().err)


@pytest.mark.parametrize("name", lieaudit.GENERATORS)
def test_a_mistyped_generator_is_guessed_everywhere(name, files, capfd):
    wrong = name[:-2] + "q"
    for refusal in (
        lambda: lieaudit.AuditSpec(generators=(wrong,)),
        lambda: lieaudit.AuditSpec.from_dict({"generators": [wrong]}),
    ):
        with pytest.raises(SpecError, match=rf"did you mean (\w+ or )*{name}"):
            refusal()
    assert run(["audit", str(files[0]), "--data", str(files[1]), "--generators", wrong]) == 2
    assert re.search(rf"did you mean (\w+ or )*{name}", capfd.readouterr().err)


def test_a_mistyped_preset_is_guessed():
    with pytest.raises(InvalidInputError, match="did you mean imagenet"):
        to_spec({"preprocessing": "imagnet"})
    with pytest.raises(LieauditError, match="did you mean imagenet"):
        parse_preprocessing("imagnet")


def test_texts_in_python_are_understood_or_refused_in_words():
    assert lieaudit.AuditSpec(generators="rotation").generators == ("rotation",)
    assert lieaudit.AuditSpec(generators="scale, shear_x").generators == ("scale", "shear_x")
    assert lieaudit.AuditSpec.from_dict({"generators": "rotation"}).generators == ("rotation",)
    assert list(to_spec({"generators": "scale,shear_x"}).generators) == ["scale", "shear_x"]
    assert to_spec({"preprocessing": "imagenet"}).preprocessing.name == "imagenet"
    with pytest.raises(SpecError, match="is a str, not a Preprocessing") as problem:
        lieaudit.AuditSpec(preprocessing="imagenet")
    assert "parse_preprocessing" in problem.value.hint


def test_swapped_model_and_images_are_said_to_be(call, client, files, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for images in (files[1], folder):
        for command in ("audit", "inspect"):
            code, _, said = call(command, images, "--data", files[0])
            assert code == 2
            assert "SWAPPED" in said
            assert f"{files[0]} --data {images}" in said
    with pytest.raises(InvalidInputError, match="swapped"):
        client.audit(str(files[1]), str(files[0]))


def test_options_stand_in_groups_with_their_defaults(capfd):
    assert run(["audit", "--help"]) == 0
    text = capfd.readouterr().out
    headings = re.findall(r"^([A-Z][^:\n]*):$", text, re.MULTILINE)
    assert headings == [
        "Options", "Images", "What is measured", "The model's inputs", "Statistics", "Computing", "Torch", "Output",
        "Service",
    ]  # fmt: skip
    shown = {option.name: option for option in audit_command.params if isinstance(option, click.Option)}
    spec = lieaudit.AuditSpec()
    said = {"generators": "all", "depth": "to its leaves", "max_images": "all"}
    said |= {"threads": "0: all the service gives", "budget": "auto"}
    for name, option in shown.items():
        assert isinstance(option, GroupedOption), name
        assert option.group
        if option.unset and name != "deadline":
            assert option.unset == said.get(name, str(getattr(spec, name, None))), name
    for name in ("method", "head", "convention", "interpolation", "padding", "layerwise", "input_layout", "seed",
                 "bootstrap", "relative_images", "provider"):  # fmt: skip
        assert shown[name].unset == str(getattr(spec, name))


@pytest.mark.parametrize(
    ("command", "absent"),
    [("gate", ["--generators"]), ("inspect", ["--bootstrap", "--seed", "--method", "--torch-source", "--generators"])],
)
def test_options_that_do_nothing_are_not_shown(command, absent, capfd):
    assert run([command, "--help"]) == 0
    shown = re.findall(r"--[\w-]+", capfd.readouterr().out)
    assert set(absent).isdisjoint(shown)
    assert "--preprocess" in shown


@pytest.mark.parametrize("module", ["lieaudit", "lieaudit_client"])
def test_python_dash_m(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lieaudit, version ")
    bad = subprocess.run([sys.executable, "-m", module, "spin"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2


def test_the_same_audit_is_answered_from_its_report(call, server, files, tmp_path):
    """By the same owner, of equal bytes, names and options; what differs in any of them is measured."""
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    arguments = ("audit", files[0], "--data", files[1], *LEAN)
    code, out, said = call(*arguments, "--json", first)
    assert "measured before" not in said
    assert call(*arguments, "--json", second)[:2] == (code, out)
    assert first.read_text() == second.read_text(), "to the byte, its time included"
    with Client(server.target) as client:
        count = len(list(client.audits()))
        said = call(*arguments)[2]
        (audit_id,) = re.findall(r"measured before, .* UTC, audit (\w+); --again measures anew", said)
        assert client.get_audit(audit_id).state == "succeeded"
        assert len(list(client.audits())) == count, "no new audit"
        for more in (["--again"], ["--seed", "1"], ["--max-images", "5"]):
            assert "measured before" not in call(*arguments, *more)[2]
            count += 1
            assert len(list(client.audits())) == count
        client.audit(str(files[0]), str(files[1]), {"generators": "rotation", "bootstrap": 100, "threads": 1})
        assert len(list(client.audits())) == count + 1, "Python asks for reuse, or gets a new audit"


def test_another_version_measures_anew(new_server, files, tmp_path, monkeypatch, capfd):
    """The state is that of a server whose onnx was another one: its numbers are not this server's."""
    server = new_server(tmp_path / "data").start()
    arguments = ["audit", str(files[0]), "--data", str(files[1]), *LEAN, "--server"]
    run([*arguments, server.target])
    server.stop()
    other = tmp_path / "other" / "onnx-99.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: onnx\nVersion: 99.0\n")
    monkeypatch.setenv("PYTHONPATH", str(other.parent))
    again = new_server(tmp_path / "data").start()
    try:
        capfd.readouterr()
        assert run([*arguments, again.target]) in {0, 3}
        assert "measured before" not in capfd.readouterr().err
        assert run([*arguments, again.target]) in {0, 3}
        assert "measured before" in capfd.readouterr().err
    finally:
        again.stop()


def test_a_gate_does_not_measure_its_baseline_again(call, make_model, files, tmp_path):
    policy = tmp_path / "policy.yaml"
    rule = "{id: no-worse, kind: noninferiority, generators: [rotation], margin: 5}"
    policy.write_text(f"version: 1\nimages: {{min: 4}}\nrules:\n  - {rule}\n")
    baseline = tmp_path / "baseline.onnx"
    baseline.write_bytes(make_model(30))
    for seed, measured in ((31, 0), (32, 1)):
        candidate = tmp_path / f"candidate{seed}.onnx"
        candidate.write_bytes(make_model(seed))
        arguments = ("gate", candidate, "--data", files[1], "--policy", policy, "--baseline", baseline, *LEAN[2:])
        code, _, said = call(*arguments)
        assert code in {0, 1, 3}
        assert said.count("measured before") == measured, "the baseline of the second gate"
    assert call(*arguments, "--again")[2].count("measured before") == 0


def test_detach_watch_fetch_cancel(call, server, make_model, make_images, files, tmp_path):
    code, out, said = call("audit", files[0], "--data", files[1], *LEAN, "--detach")
    assert code == 0
    (audit_id,) = out.split()
    assert call("watch", audit_id, "--json", tmp_path / "w.json")[0] in {0, 3}
    code, out, _ = call("fetch", audit_id, "--json", tmp_path / "f.json", "--html", tmp_path / "f.html")
    assert code in {0, 3}
    assert "rotation" in out
    assert (tmp_path / "w.json").read_bytes() == (tmp_path / "f.json").read_bytes()
    assert read_report(tmp_path / "f.json").results.keys() == {"rotation"}
    assert "<!doctype html" in (tmp_path / "f.html").read_text()
    assert call("fetch", "0" * 28)[0] == 2

    slow, many = tmp_path / "slow.onnx", tmp_path / "many.npz"
    slow.write_bytes(make_model(3, size=32, repeat=40))
    many.write_bytes(make_images(3, size=32, count=300))
    (running,) = call("audit", slow, "--data", many, "--method", "finite_difference", "--detach")[1].split()
    code, out, said = call("fetch", running)
    assert (code, out) == (3, "")
    assert f"lieaudit watch {running}" in said
    assert call("cancel", running)[:2] == (0, f"audit {running} is cancelled\n")
    code, _, said = call("watch", running)
    assert code == 3
    assert "cancelled" in said
    assert call("cancel", audit_id)[:2] == (3, f"audit {audit_id} is succeeded\n"), "nothing was there to cancel"


def test_detaching_needs_a_service(files, capfd):
    assert run(["audit", str(files[0]), "--data", str(files[1]), "--detach"]) == 2
    assert "--detach needs --server" in capfd.readouterr().err


def on_a_terminal(arguments):
    """Run the command on a pseudo-terminal of 100 columns and give its exit code and what was shown."""
    main_end, other_end = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | {"TERM": "xterm-256color", "COLUMNS": "100"}
    ends = {"stdin": other_end, "stdout": other_end, "stderr": other_end}
    with subprocess.Popen([*PROGRAM, *map(str, arguments)], env=environment, **ends) as command:
        os.close(other_end)
        shown = b""
        while True:
            try:
                piece = os.read(main_end, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
    os.close(main_end)
    return command.returncode, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())


def test_no_second_is_silent_on_a_terminal(files):
    code, shown = on_a_terminal(["inspect", files[0], "--json", "-"])
    assert code == 0
    assert shown.index("starting the service") < shown.index("upload tiny.onnx") < shown.index("reading the model")
    assert json.loads(shown[shown.index("{\r\n") : shown.rindex("}") + 1])["node_count"] == 3
