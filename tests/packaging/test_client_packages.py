"""lieaudit-api and lieaudit-client as a CI job installs them: light, complete, on the oldest and newest protobuf."""

import re
import subprocess
import sys
import tomllib
import venv
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

HEAVY = ("numpy", "onnx", "onnxruntime", "torch", "lieaudit", "lieaudit_server", "PIL")
LOADED = f"""
import sys
sys.argv = ["lieaudit", *sys.argv[1:]]
import lieaudit_client, lieaudit_client.command, lieaudit_client.client, lieaudit_client.aio
assert lieaudit_client.command.run(["--help"]) == 0
for name in lieaudit_client.command.COMMANDS:
    if name != "serve":  # the server's own help
        assert lieaudit_client.command.run([name, "--help"]) == 0, name
print("LOADED", *sorted(set({HEAVY!r}) & set(sys.modules)))
"""


def _run(*command, **options):
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory, repo_root):
    folder = tmp_path_factory.mktemp("wheels")
    _run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *("--wheel-dir", folder, *(repo_root / part for part in ("policy", "proto", "client"))),
    )
    return sorted(folder.glob("*.whl"))


def _requirements(repo_root, part):
    return {
        requirement.name: requirement
        for requirement in map(
            Requirement, tomllib.loads((repo_root / part / "pyproject.toml").read_text())["project"]["dependencies"]
        )
    }


def _floor(requirement):
    return next(Version(s.version) for s in requirement.specifier if s.operator == ">=")


@pytest.fixture(scope="module", params=["oldest", "newest"])
def clean_python(request, tmp_path_factory, repo_root, wheels):
    """The interpreter of an empty virtual environment into which the two wheels were installed."""
    if request.param == "oldest":
        api = _requirements(repo_root, "proto")
        pins = [f"{name}=={_floor(api[name])}" for name in ("protobuf", "grpcio", "googleapis-common-protos")]
    else:
        pins = ["protobuf>=7"]
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    _run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"),
        *wheels,
        *pins,
    )
    return request.param, python


@pytest.mark.slow
def test_a_clean_installation_is_light_and_works(clean_python, tmp_path):
    which, python = clean_python
    installed = _run(sys.executable, "-m", "pip", "--python", python, "list", "--format", "freeze")
    names = {line.partition("==")[0].lower() for line in installed.splitlines()}
    assert not names & {name.lower() for name in HEAVY}
    version = re.search(r"^protobuf==(\d+)", installed, re.MULTILINE)[1]
    assert version == {"oldest": "6", "newest": "7"}[which]
    # warnings are errors here too: protobuf warns where generated code is older than it likes
    assert _run(python, "-W", "error", "-c", LOADED, cwd=tmp_path).splitlines()[-1] == "LOADED"


@pytest.mark.slow
def test_messages_and_reports_work_there(clean_python, tmp_path):
    """Every generated module loads, and a report goes through the wire and JSON on this protobuf."""
    _, python = clean_python
    code = """
import importlib, pkgutil, lieaudit_api.v1
names = [m.name for m in pkgutil.iter_modules(lieaudit_api.v1.__path__)]
assert len(names) >= 12, names
for name in names: importlib.import_module(f"lieaudit_api.v1.{name}")
from lieaudit_api.v1 import report_pb2
from lieaudit_client import report_to_json
report = report_pb2.Report(schema="lieaudit.report/1")
report.spec.generators.append("rotation")
report.results["rotation"].lee = 0.1
report.results["rotation"].relative = 0.0
report.pictures.add(png=b"\\xff", image=2**31 - 1)
plain = report_to_json(report_pb2.Report.FromString(report.SerializeToString()))
assert plain["results"]["rotation"]["lee"] == 0.1
assert plain["results"]["rotation"]["relative"] == 0.0
assert "step" not in plain["results"]["rotation"]
assert plain["pictures"][0]["image"] == 2**31 - 1
"""
    _run(python, "-W", "error", "-c", code, cwd=tmp_path)


@pytest.mark.slow
def test_without_the_server_the_command_says_what_to_install(clean_python, tmp_path):
    _, python = clean_python
    (tmp_path / "m.onnx").write_bytes(b"x")
    (tmp_path / "d.npz").write_bytes(b"x")
    for arguments in (["audit", "m.onnx", "--data", "d.npz"], ["serve"]):
        done = subprocess.run(
            [python.parent / "lieaudit", *arguments], check=False, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 4
        assert "pip install 'lieaudit-server[cpu]'" in done.stderr
        assert done.stdout == ""


def test_nothing_heavy_is_loaded_even_where_it_is_installed(tmp_path):
    """In this environment numpy and the rest are there to be imported by mistake."""
    assert _run(sys.executable, "-c", LOADED, cwd=tmp_path).splitlines()[-1] == "LOADED"


def test_wheels_hold_what_they_need(wheels, repo_root):
    names = {wheel.name.split("-")[0]: set(zipfile.ZipFile(wheel).namelist()) for wheel in wheels}
    for package, root in (("lieaudit_client", "client"), ("lieaudit_api", "proto")):
        there = {
            str(path.relative_to(repo_root / root))
            for path in (repo_root / root / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert there <= names[package]
        assert f"{package}/py.typed" in names[package]
    assert "lieaudit_client/report.schema.json" in names["lieaudit_client"]


def test_floors_are_what_the_generated_code_demands(repo_root):
    generated = repo_root / "proto" / "lieaudit_api" / "v1"
    protobuf = {
        re.search(r"Protobuf Python Version: (\S+)", path.read_text())[1] for path in generated.glob("*_pb2.py")
    }
    grpc = {
        re.search(r"GRPC_GENERATED_VERSION = '(\S+)'", path.read_text())[1] for path in generated.glob("*_pb2_grpc.py")
    }
    assert len(protobuf) == len(grpc) == 1
    api = _requirements(repo_root, "proto")
    assert str(_floor(api["protobuf"])) == protobuf.pop()
    demanded = Version(grpc.pop())
    # protobuf promises to load code generated by the major before it: 6 and 7, not 8
    assert api["protobuf"].specifier.contains("7.99")
    assert not api["protobuf"].specifier.contains("8.0")
    for part in ("proto", "client", "server"):
        assert _floor(_requirements(repo_root, part)["grpcio"]) == demanded, part
