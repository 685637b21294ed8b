"""The five distributions as an index would hold them: checked by its own tools, and used outside the checkout."""

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

PARTS = {
    "lieaudit_policy": "policy",
    "lieaudit_api": "proto",
    "lieaudit": ".",
    "lieaudit_server": "server",
    "lieaudit_client": "client",
}


def _run(*command, **options):
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, **options)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def _metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def built(tmp_path_factory, repo_root):
    """The folder of the wheels and the source archives."""
    folder = tmp_path_factory.mktemp("built")
    for part in PARTS.values():
        _run(sys.executable, "-m", "build", "--outdir", folder, repo_root / part)
    return folder


def _wheels(folder):
    return {wheel.name.split("-")[0]: wheel for wheel in folder.glob("*.whl")}


@pytest.mark.slow
def test_the_index_would_take_them(built):
    assert set(_wheels(built)) == set(PARTS)
    assert len(list(built.glob("*.tar.gz"))) == len(PARTS)
    _run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS.values())
def test_their_descriptions_lack_nothing(part, repo_root):
    done = subprocess.run(
        [sys.executable, "-m", "pyroma", "--min=10", repo_root / part], check=False, capture_output=True, text=True
    )
    assert "Final rating: 10/10" in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.slow
def test_every_distribution_carries_the_licence(built, repo_root):
    licence = (repo_root / "LICENSE").read_bytes()
    for name, wheel in _wheels(built).items():
        with zipfile.ZipFile(wheel) as archive:
            (path,) = (n for n in archive.namelist() if n.endswith(".dist-info/licenses/LICENSE"))
            assert archive.read(path) == licence, name
    for archive in built.glob("*.tar.gz"):
        with tarfile.open(archive) as source:
            assert source.extractfile(f"{archive.name.removesuffix('.tar.gz')}/LICENSE").read() == licence, archive.name


@pytest.mark.slow
def test_their_links_and_versions_agree(built):
    found = {name: _metadata(wheel) for name, wheel in _wheels(built).items()}
    assert len({data["Version"] for data in found.values()}) == 1
    assert len({tuple(sorted(data.get_all("Project-URL"))) for data in found.values()}) == 1
    (version,) = {data["Version"] for data in found.values()}
    for data in found.values():
        for requirement in data.get_all("Requires-Dist"):
            own = re.match(r"(lieaudit[a-z-]*)(\[[a-z]+\])?(.*)", requirement)
            if own and "extra" not in own[3]:
                assert own[3] == f"=={version}", requirement


@pytest.mark.slow
def test_each_module_of_the_source_is_in_its_wheel(built, repo_root):
    for name, wheel in _wheels(built).items():
        root = repo_root / PARTS[name]
        there = {
            str(path.relative_to(root))
            for path in (root / name).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        held = set(zipfile.ZipFile(wheel).namelist())
        assert there <= held, sorted(there - held)
        assert not [n for n in held if "test" in n or n.endswith(".pyc")]


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The ``bin`` folder of an environment made by the README's lines, from the wheels."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet")
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    lines = re.findall(r"^\$ pip install --find-links dist '?(lieaudit[^\s']*)'?", readme, re.MULTILINE)
    assert lines == ["lieaudit-client", "lieaudit-server[cpu]", "lieaudit[cpu]"]
    for wanted in lines:
        _run(*pip, "--disable-pip-version-check", "--find-links", built, wanted)
    return folder / "bin"


@pytest.mark.slow
def test_the_readme_installs_a_command_that_audits(installed, repo_root, tmp_path):
    digits = repo_root / "examples" / "digits"
    for name in ("plain.onnx", "digits.npz"):
        (tmp_path / name).write_bytes((digits / name).read_bytes())
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    audit = ("audit", "plain.onnx", "--data", "digits.npz", "--preprocess", "mean=0.15,std=0.3", "--max-images", "16")
    done = _run(
        *(installed / "lieaudit", *audit, "--generators", "rotation", "--json", "r.json"),
        cwd=tmp_path,
        env=environment,
    )
    assert "rotation" in done
    assert (tmp_path / "r.json").stat().st_size > 1000
    code = "import lieaudit, lieaudit_server; print(lieaudit.__file__)"
    assert str(installed.parent) in _run(installed / "python", "-W", "error", "-c", code, cwd=tmp_path, env=environment)


@pytest.mark.slow
def test_the_readme_installs_from_the_checkout_in_its_order(tmp_path, repo_root):
    """Each line resolves with what the lines before it installed; torch's own build is left to its index."""
    venv.create(tmp_path / "v", with_pip=False)
    python = tmp_path / "v" / "bin" / "python"
    lines = re.findall(r"^\$ pip install ((?:'?\.[^\s#]*\s*)+)", (repo_root / "README.md").read_text(), re.MULTILINE)
    parts = [[word.strip("'") for word in line.split()] for line in lines]
    assert parts == [["./policy", "./proto", "./client"], [".[cpu]", "./server[cpu]"], [".[cpu,torch]"]]
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check")
    for line in parts[:2]:
        _run(*pip, *line, cwd=repo_root)
    assert "audit" in _run(python.parent / "lieaudit", "--help", cwd=tmp_path)
    assert "serve" in _run(python.parent / "lieaudit-server", "--help", cwd=tmp_path)


def test_the_parts_ask_for_the_same_python(repo_root):
    asked = {
        tomllib.loads((repo_root / part / "pyproject.toml").read_text())["project"]["requires-python"]
        for part in PARTS.values()
    }
    assert asked == {">=3.11"}
