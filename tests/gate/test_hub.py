"""The Hugging Face Hub end to end: its own client against a local endpoint, the real service, the real command.

The endpoint speaks the Hub's interface as far as `huggingface_hub` calls it here: a model's description, its files
with their headers, and commits. What was committed is read from the endpoint, not through the code under test.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import onnx
import pytest
import yaml
from lieaudit_client import registries
from lieaudit_client.exceptions import InvalidInputError
from lieaudit_client.registries import hub

COMMAND = "import sys; from lieaudit_client.command import run; sys.exit(run(sys.argv[1:]))"
COMMIT = hashlib.sha1(b"first").hexdigest()  # noqa: S324 - the Hub names commits so
LATER = hashlib.sha1(b"later").hexdigest()  # noqa: S324
POLICY = "version: 1\nrules:\n  - {id: no-worse, kind: noninferiority, generators: rotation, margin: 0.1}\n"
CARD = """---
license: apache-2.0
model-index:
- name: digits
  results:
  - task: {type: image-classification}
    dataset: {name: digits, type: digits}
    metrics:
    - {type: accuracy, value: 0.9}
---
# Digits
"""


class Hub:
    """Repositories by name: revision → commit, commit → files; ``commits`` is what clients have committed."""

    def __init__(self) -> None:
        self.revisions: dict[str, dict[str, str]] = {}
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.commits: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.gated: set[str] = set()
        self.address = ""

    def put(self, repo: str, files: dict[str, bytes], commit: str = COMMIT, revision: str = "main") -> None:
        self.revisions.setdefault(repo, {})[revision] = commit
        self.files[repo, commit] = files

    def resolve(self, repo: str, revision: str) -> str | None:
        known = self.revisions.get(repo, {})
        return revision if revision in known.values() else known.get(revision)


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._describe(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+?)/(.+)", path):
            self._file(*match.groups())
        else:
            self._answer(404, b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path)
        if path.path == "/api/validate-yaml":
            self._answer(200, b"{}")
        elif "/preupload/" in path.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._answer(200, json.dumps({"files": files}).encode())
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path.path):
            entries = [json.loads(line) for line in body.splitlines() if line]
            self.hub.commits.append({"repo": match[1], "query": path.query, "entries": entries})
            url = f"{self.hub.address}/{match[1]}"
            done = {"commitUrl": f"{url}/commit/{LATER}", "commitOid": LATER, "pullRequestUrl": f"{url}/discussions/1"}
            self._answer(200, json.dumps(done).encode())
        else:
            self._answer(404, b"")

    def _describe(self, repo: str, revision: str) -> None:
        if repo in self.hub.gated:
            return self._answer(403, b'{"error": "gated"}', **{"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        if repo not in self.hub.revisions:
            return self._answer(404, b'{"error": "none"}', **{"X-Error-Code": "RepoNotFound"})
        commit = self.hub.resolve(repo, revision)
        if commit is None:
            return self._answer(404, b'{"error": "none"}', **{"X-Error-Code": "RevisionNotFound"})
        names = [{"rfilename": name} for name in self.hub.files[repo, commit]]
        found = {"id": repo, "sha": commit, "siblings": names, "pipeline_tag": "image-classification", "tags": []}
        return self._answer(200, json.dumps(found).encode())

    def _file(self, repo: str, revision: str, path: str) -> None:
        commit = self.hub.resolve(repo, revision)
        data = self.hub.files.get((repo, commit or ""), {}).get(path)
        if data is None:
            return self._answer(404, b"", **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit or ""})
        digest = hashlib.sha256(data).hexdigest()
        return self._answer(200, data, **{"ETag": f'"{digest}"', "X-Repo-Commit": commit or ""})

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub_server() -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": found}))
    found.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def digits(hub_server: Hub, repo_root: Path) -> str:
    """Return a repository with the plain digits model as its tag `v1`, and on main the augmented one; with a card."""
    folder = repo_root / "examples" / "digits"
    plain, augmented = ((folder / name).read_bytes() for name in ("plain.onnx", "augmented.onnx"))
    hub_server.put("acme/digits", {"README.md": CARD.encode(), "onnx/model.onnx": plain}, COMMIT, "v1")
    hub_server.put("acme/digits", {"README.md": CARD.encode(), "onnx/model.onnx": augmented}, LATER, "main")
    return "acme/digits"


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def lieaudit(hub_server: Hub, tmp_path: Path, service: str, repo_root: Path) -> Run:
    """Return a function that runs the command in a process of its own, on the digits."""
    (tmp_path / "policy.yaml").write_text(POLICY)

    def run(verb: str, model: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        data = repo_root / "examples" / "digits" / "digits.npz"
        command = [sys.executable, "-c", COMMAND, verb, model, "--server", service, "--data", str(data)]
        command += ["--preprocess", "mean=0.15,std=0.3", "--max-images", "200", "--relative-images", "16"]
        command += ["--policy", str(tmp_path / "policy.yaml")] if verb == "gate" else ["--generators", "rotation"]
        own = {"HF_ENDPOINT": hub_server.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment = os.environ | own | {"HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}
        command += ["--method", "finite_difference", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    return run


@pytest.mark.slow
def test_two_revisions_are_gated_and_the_card_holds_the_numbers(
    lieaudit: Run, hub_server: Hub, digits: str, repo_root: Path
) -> None:
    del hub_server.commits[:]
    done = lieaudit("gate", f"hf:{digits}", "--baseline", f"hf:{digits}@v1", "--json", "-", "--card", "pr")
    assert done.returncode == 0, done.stderr + done.stdout
    decision = json.loads(done.stdout)
    compared = decision["compared"]
    for role, file, commit in (("candidate", "augmented.onnx", LATER), ("baseline", "plain.onnx", COMMIT)):
        content = (repo_root / "examples" / "digits" / file).read_bytes()
        assert compared[role]["model_sha256"] == hashlib.sha256(content).hexdigest()
        assert compared[role]["model"] == f"acme/digits@{commit[:12]}"

    assert len(hub_server.commits) == 1
    commit = hub_server.commits[0]
    assert "create_pr=1" in commit["query"]
    assert "metrics written into the model card" in done.stderr
    values = {entry["key"]: entry["value"] for entry in commit["entries"]}
    assert values["header"]["summary"].startswith("Equivariance measured by lieaudit: PASS")
    card = base64.b64decode(values["file"]["content"]).decode()
    assert card.rstrip().endswith("# Digits"), "the card's text is kept"
    results = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"]
    found = {(m["type"], m.get("name")): m["value"] for entry in results for m in entry["metrics"]}
    assert found["accuracy", None] == 0.9, "and so is what others measured"
    rule = decision["rules"][0]
    assert found["lee", "lee rotation"] == rule["candidate_value"]
    assert {name for _, name in found} == {None, "lee rotation", "lee_per_px2 rotation", "relative rotation", "top1"}
    measured = next(entry for entry in results if entry["metrics"][0]["type"] == "lee")
    assert measured["dataset"]["name"] == "digits.npz"
    assert measured["dataset"]["revision"] == compared["candidate"]["data_sha256"]
    assert measured["source"]["name"] == "lieaudit"


@pytest.mark.slow
def test_a_model_is_audited_with_its_weights_beside_it(
    lieaudit: Run, hub_server: Hub, repo_root: Path, tmp_path: Path
) -> None:
    model = onnx.load(repo_root / "examples" / "digits" / "plain.onnx")
    saved = tmp_path / "saved"
    saved.mkdir()
    onnx.save(model, saved / "m.onnx", save_as_external_data=True, location="m.onnx_data", size_threshold=0)
    files = {f"a b/{path.name}": path.read_bytes() for path in saved.iterdir()} | {"big.bin": b"0"}
    hub_server.put("acme/outside", files)
    del hub_server.asked[:]
    done = lieaudit("audit", "hf://acme/outside@main/a b", "--json", "-")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"]["name"] == f"acme/outside@{COMMIT[:12]}"
    assert np.isfinite(report["results"]["rotation"]["lee"])
    assert "/acme/outside/resolve/" + COMMIT + "/big.bin" not in hub_server.asked, "only what the model needs"


@pytest.mark.parametrize(
    ("source", "reason", "says"),
    [
        ("hf:acme", "INVALID_MODEL_URI", "hf:OWNER/REPO@REVISION"),
        ("hf:acme/nothing", "NOT_IN_REGISTRY", "the Hub has no hf:acme/nothing"),
        ("hf:acme/digits@v9", "NOT_IN_REGISTRY", "the Hub has no hf:acme/digits@v9"),
        ("hf:acme/digits@v1/other.onnx", "NO_ONNX_MODEL", "has no file 'other.onnx'"),
        ("hf:acme/two", "NO_ONNX_MODEL", "a.onnx, b.onnx"),
        ("hf:acme/none", "NO_ONNX_MODEL", "holds no ONNX file"),
        ("hf:acme/gated", "HUB_REFUSED", "accept the repository's terms"),
    ],
)
def test_what_the_hub_does_not_give_is_said(
    hub_server: Hub, digits: str, monkeypatch: pytest.MonkeyPatch, source: str, reason: str, says: str
) -> None:
    import huggingface_hub

    hub_server.put("acme/two", {"a.onnx": b"", "b.onnx": b""})
    hub_server.put("acme/none", {"README.md": b""})
    hub_server.gated.add("acme/gated")
    api = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api(endpoint=hub_server.address, token="hf_test"))
    with pytest.raises((InvalidInputError, hub.RefusedError)) as caught:
        hub.find(source)
    assert caught.value.reason == reason
    assert says in str(caught.value)


def test_a_hub_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    api = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api(endpoint="http://127.0.0.1:9", token="hf_test"))
    with pytest.raises(hub.UnreachableError) as caught:
        hub.find("hf:acme/digits")
    assert caught.value.reason == "HUB_UNREACHABLE"


def test_a_revision_with_a_slash_is_written_as_in_the_hubs_own_names(
    hub_server: Hub, digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    files = hub_server.files["acme/digits", COMMIT]
    hub_server.put("acme/digits", files, COMMIT, "refs/pr/1")
    api = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api(endpoint=hub_server.address, token="hf_test"))
    found = hub.find("hf:acme/digits@refs%2Fpr%2F1/onnx/model.onnx")
    assert (found.commit, found.path) == (COMMIT, "onnx/model.onnx")


def test_a_card_needs_a_model_of_the_hub(lieaudit: Run, repo_root: Path) -> None:
    done = lieaudit("gate", str(repo_root / "examples" / "digits" / "plain.onnx"), "--card", "pr")
    assert done.returncode == 2
    assert "give MODEL as hf:OWNER/REPO@REVISION" in done.stderr


def test_what_names_a_registry_and_what_is_a_file() -> None:
    named = ("hf:a/b", "mlflow:models:/a/1", "models:/a@b", "models:/m-1", "runs:/a/b")
    assert [source for source in named if not registries.is_named(source)] == []
    assert [
        source for source in ("model.onnx", "models/a.onnx", "runs/a.onnx", "./hf:a") if registries.is_named(source)
    ] == []
