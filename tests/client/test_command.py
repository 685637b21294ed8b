"""The `lieaudit` command: exit codes, what goes to which stream, tables and progress."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import jsonschema
import onnx
import pytest
from lieaudit_api.v1 import report_pb2
from lieaudit_client import Client, exceptions, read_report, report_from_json, report_to_json
from lieaudit_client.command import COMMANDS, run
from lieaudit_client.command.exits import exit_code
from lieaudit_client.report_json import SCHEMA_FILE

LEAN = ["--generators", "rotation,scale", "--method", "finite_difference", "--bootstrap", "100", "--threads", "1"]
LIEAUDIT = [sys.executable, "-c", "from lieaudit_client.command import main; main()"]
# A test run that a shell put in the background ignores SIGINT, and what it starts inherits that.
AS_IN_A_TERMINAL = [
    sys.executable,
    "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
]


@pytest.fixture(autouse=True)
def as_in_ci(monkeypatch):
    monkeypatch.setenv("CI", "1")


@pytest.fixture
def call(server, capfd):
    """Run the command against the shared server; gives exit code, standard output, standard error."""

    def run_it(name, *arguments, at_server=True):
        more = ["--server", server.target] if at_server else []
        code = run([name, *map(str, arguments), *more])
        return code, *capfd.readouterr()

    return run_it


def test_an_audit_prints_a_table_and_writes_the_report(call, files, tmp_path):
    target = tmp_path / "report.json"
    page = tmp_path / "report.html"
    code, out, err = call("audit", files[0], "--data", files[1], *LEAN, "--json", target, "--html", page)
    report = read_report(target)
    assert code == (0 if report.status == "ok" else 3)
    jsonschema.validate(json.loads(target.read_text()), json.loads(SCHEMA_FILE.read_text()))
    for name in ("generator", "LEE", "95 % interval", "median", "relative", "error bar", "method", "status"):
        assert name in out
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith((" rotation", " scale"))}
    for name, result in report.results.items():
        assert f"{result.lee:.2e}" in rows[name] or f"{result.lee:.3g}" in rows[name]
        assert "finite difference" in rows[name]
        assert rows[name].rstrip().endswith(result.status) or "inconclusive" in rows[name]
    # plain lines in CI: no control characters, every line finished
    assert "\x1b" not in out + err
    assert "auditing: 12/12 images" in err
    assert page.read_text().lstrip().lower().startswith("<!doctype html")
    # the file shows the same again
    assert call("report", target, at_server=False) == (code, out, "")
    assert call("report", target, "--html", tmp_path / "again.html", at_server=False)[1] == ""
    assert (tmp_path / "again.html").read_text() == page.read_text()


def test_json_to_standard_output_and_nothing_else_there(call, files):
    code, out, err = call("audit", files[0], "--data", files[1], *LEAN, "--json", "-")
    report = report_from_json(out)
    assert set(report.results) == {"rotation", "scale"}
    assert code in {0, 3}
    assert "generator" in err  # the table is still there to be read
    code, out, _ = call("status")
    assert code == 0
    assert re.search(r"lieaudit \S+ at 127", out)
    assert "succeeded" in out


def test_inspecting(call, files):
    code, out, _ = call("inspect", files[0], "--data", files[1], "--layers")
    assert code == 0
    for said in (
        "input",
        "NCHW",
        "head",
        "softmax",
        "float32",
        "parameters",
        "top-1",
        "of 12 images",
        "MatMul",
        "modules",
    ):
        assert said in out
    code, out, err = call("inspect", files[0], "--json", "-")
    found = json.loads(out)
    assert (found["head"], found["node_count"], found["parameter_count"]) == ("softmax", 3, 192)
    assert "top1" not in found
    assert "top-1" not in err


def test_health(call):
    assert call("health") == (0, "serving\n", "")
    assert call("health", "--service", "no.Such")[0] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["audit"], 2, "Missing argument 'MODEL'"),
        (["audit", "none.onnx", "--data", "x"], 2, "does not exist"),
        (["spin"], 2, "No such command"),
        (["audit", "MODEL", "--data", "DATA", "--generators", "spin"], 2, "'spin' is not one of"),
        (["audit", "MODEL", "--data", "DATA", "--preprocess", "imagnet"], 2, "INVALID_PREPROCESSING"),
        (["audit", "MODEL", "--data", "DATA", "--json", "no/folder/r.json"], 2, "there is no folder"),
        (["audit", "MODEL", "--data", "EMPTY"], 2, "NO_IMAGES"),
        (["audit", "MODEL", "--data", "MODEL"], 2, "UNKNOWN_FORMAT"),
        (["audit", "DATA", "--data", "DATA"], 2, "NOT_ONNX"),
        (["audit", "MODEL", "--data", "MODEL2"], 2, "lieaudit: "),
        (["audit", "MODEL", "--data", "DATA", "--provider", "cuda"], 4, "PROVIDER"),
        (["audit", "MODEL", "--data", "DATA", "--output", "none"], 2, "none"),
        (["audit", "MODEL", "--data", "DATA", "--insecure", "--ca-file", "MODEL"], 2, "CONTRADICTORY_TLS"),
        (["report", "MODEL"], 2, "NOT_A_REPORT"),
    ],
)
def test_exit_codes(call, files, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.npz").write_bytes(files[1].read_bytes()[:300])
    places = {"MODEL": files[0], "DATA": files[1], "EMPTY": tmp_path / "empty", "MODEL2": tmp_path / "half.npz"}
    name, *rest = [places.get(item, item) for item in arguments]
    found, out, err = call(name, *rest, at_server=name == "audit")
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


def test_an_unreachable_service_is_exit_4(call, files):
    for arguments in (["health"], ["audit", files[0], "--data", files[1]]):
        code, out, err = call(*arguments, "--server", "127.0.0.1:1", at_server=False)
        assert (code, out) == (4, "")
        assert "cannot be reached" in err


def test_credentials_need_a_server(call, files):
    code, _, err = call("audit", files[0], "--data", files[1], "--ca-file", files[0], at_server=False)
    assert code == 2
    assert "--ca-file needs --server" in err


def test_help_lists_every_command(call, capfd):
    assert run(["--help"]) == 0
    out = capfd.readouterr().out
    for name in COMMANDS:
        assert name in out
        assert run([name, "--help"]) == 0, name
    assert "Exit codes" in out


def test_without_a_server_the_service_is_embedded(files, tmp_path):
    """The whole of `lieaudit audit MODEL --data DATA --json -`, as a user types it, in a pipe."""
    done = subprocess.run(
        [*LIEAUDIT, "audit", *map(str, files[:1]), "--data", str(files[1]), *LEAN, "--json", "-"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode in {0, 3}, done.stderr
    assert set(report_from_json(done.stdout).results) == {"rotation", "scale"}
    left = {path.name for path in tmp_path.iterdir()} - {path.name for path in files}
    assert left == set()  # no state, no socket, no log


@pytest.fixture
def slow(tmp_path, make_model, make_images):
    model, images = tmp_path / "slow.onnx", tmp_path / "many.npz"
    model.write_bytes(make_model(2, size=32, repeat=40))
    images.write_bytes(make_images(2, size=32, count=300))
    return ["audit", str(model), "--data", str(images), "--method", "finite_difference", "--threads", "1"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_cancels_the_audit(server, slow, number, code, wait_for):
    command = subprocess.Popen(
        [*AS_IN_A_TERMINAL, *LIEAUDIT, *slow, "--server", server.target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with Client(server.target) as client:
        running = wait_for(
            lambda: [audit for audit in client.audits("running") if audit.progress.stage in {"calibrate", "audit"}]
        )
        command.send_signal(number)
        out, err = command.communicate(timeout=30)
        assert command.returncode == code
        assert out == ""
        assert f"audit {running[0].id} is cancelled" in err
        assert client.get_audit(running[0].id).state == "cancelled"


def test_a_terminal_gets_bars(server, files):
    """On a real pseudo-terminal: bars, colours, the table no wider than the terminal."""
    main_end, other_end = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "CI"} | {"TERM": "xterm-256color", "COLUMNS": "100"}
    command = subprocess.Popen(
        [*LIEAUDIT, "audit", str(files[0]), "--data", str(files[1]), *LEAN, "--server", server.target, "--again"],
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        env=environment,
    )
    os.close(other_end)
    shown = b""
    end = time.monotonic() + 60
    while time.monotonic() < end and select.select([main_end], [], [], 1)[0] is not None:
        try:
            piece = os.read(main_end, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    assert command.wait(timeout=30) in {0, 3}
    os.close(main_end)
    text = shown.decode()
    assert "\x1b[" in text
    assert "auditing" in text
    assert "12/12 images" in text
    assert "━" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    table = plain[plain.rindex("generator") :]
    assert all(len(line) <= 100 for line in table.splitlines())


def test_serve_is_the_server_s_own(tmp_path):
    command = subprocess.Popen(
        [*LIEAUDIT, "serve", "--data-dir", str(tmp_path / "d"), "--listen", "127.0.0.1:0", "--min-free-bytes", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        target = command.stdout.readline().removeprefix("ready ").strip()
        with Client(target) as client:
            assert client.healthy()
    finally:
        command.send_signal(signal.SIGTERM)
        assert command.wait(timeout=30) == 0
        command.stdout.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exceptions.InvalidInputError("", reason="X"), 2),
        (exceptions.NotFoundError("", reason="X"), 2),
        (exceptions.ReportError("", reason="X"), 2),
        (exceptions.AuditFailedError("", reason="WRONG_SIZE"), 2),
        (exceptions.AuditFailedError("", reason="WORKER_CRASHED"), 3),
        (exceptions.AuditFailedError("", reason="DEADLINE_EXCEEDED"), 3),
        (exceptions.AuditCancelledError("", reason="CANCELLED"), 3),
        (exceptions.AuditFailedError("", reason="PROVIDER_MISSING"), 4),
        (exceptions.UnreachableError("", reason="X"), 4),
        (exceptions.CallTimeoutError("", reason="X"), 4),
        (exceptions.UnauthenticatedError("", reason="X"), 4),
        (exceptions.BusyError("", reason="X"), 4),
        (exceptions.ServerError("", reason="X"), 4),
    ],
)
def test_every_error_has_its_exit_code(error, code):
    assert exit_code(error) == code


@pytest.mark.real
def test_a_real_model_and_real_images(call, real_dir, tmp_path):
    """A CIFAR-10 ResNet-20: the accuracy it is known for, and a report that survives the file."""
    model, data = real_dir / "models" / "resnet20_cifar10.onnx", real_dir / "images" / "cifar10_test_1017.npz"
    code, out, _ = call("inspect", model, "--data", data, "--preprocess", "imagenet", "--json", "-")
    assert code == 0
    assert json.loads(out)["top1"] == pytest.approx(0.916, abs=0.0005)  # measured, see the material's README
    target = tmp_path / "r.json"
    code, out, _ = call(
        "audit", model, "--data", data, "--preprocess", "imagenet", "--max-images", 4, *LEAN, "--json", target
    )
    assert code in {0, 3}
    report = read_report(target)
    assert isinstance(report, report_pb2.Report)
    assert report_to_json(report) == json.loads(target.read_text())
    assert report.data.count == 4


def test_a_model_with_external_data_is_audited(call, files, tmp_path):
    folder = tmp_path / "apart"
    folder.mkdir()
    onnx.save(onnx.load(files[0]), folder / "tiny.onnx", save_as_external_data=True, location="w", size_threshold=0)
    reports = []
    for number, model in enumerate((files[0], folder / "tiny.onnx")):
        assert call("audit", model, "--data", files[1], *LEAN, "--json", tmp_path / f"{number}.json")[0] in {0, 3}
        reports.append(read_report(tmp_path / f"{number}.json"))
    assert reports[0].results == reports[1].results
