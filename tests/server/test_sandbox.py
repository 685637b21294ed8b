"""A worker in an attacker's hands: planted exploits try what a hole in a decoder would let them, and each fails."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from lieaudit_api.v1 import audit_pb2
from lieaudit_server.worker import files, landlock, seccomp

EXPLOITS = Path(__file__).parent / "exploits"
LACKS = (
    "needs Linux"
    if sys.platform != "linux"
    else "the kernel has no Landlock"
    if not landlock.version()
    else "no filter is written for this processor"
    if platform.machine() not in {"x86_64", "aarch64"}
    else ""
)
confined = pytest.mark.skipif(bool(LACKS), reason=LACKS or "confined")
ONLY_X86 = {"clone", "bpf", "userfaultfd", "keyrings", "perf", "type into a terminal"}
"""Attempts that go past libc by numbers of this architecture."""


@pytest.fixture
def hostile(start, kit, tmp_path):
    """A server with planted workers and secrets of its own, and what it holds of another tenant."""
    plants = tmp_path / "plants"
    plants.mkdir()
    shutil.copy(EXPLOITS / "sitecustomize.py", plants)
    tokens, key, home = tmp_path / "tokens.json", tmp_path / "key.pem", tmp_path / "home"
    home.mkdir()
    key.write_text("secret")
    data = tmp_path / "data"
    targets = {
        "tokens": str(tokens),
        "key": str(key),
        "home": str(home),
        "data": str(data),
        "state": str(data / "state.sqlite"),
        "file_bytes": 2**34,
    }

    def make(owner_names=("victim", "attacker"), **settings):
        headers = {}
        for name in owner_names:
            run = [sys.executable, "-m", "lieaudit_server", "token", "add", "--tokens-file", str(tokens)]
            secret = subprocess.run([*run, "--owner", name], capture_output=True, text=True, check=True).stdout.strip()
            headers[name] = (("authorization", f"Bearer {secret}"),)
        server = start(environment={"PYTHONPATH": str(plants)}, tokens_file=str(tokens), **settings)

        def upload(owner, model, **names):
            sha256 = server.upload_model(model, metadata=headers[owner], **names).sha256
            targets["other_blob" if owner == "victim" else "own_blob"] = str(data / "blobs" / sha256[:2] / sha256)
            return sha256

        def audit(owner, model):
            images = server.upload_dataset(kit.tiny_dataset(), metadata=headers[owner]).sha256
            request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=images, spec=kit.FAST)
            created = server.audits.CreateAudit(request, metadata=headers[owner])
            watching = audit_pb2.WatchAuditRequest(id=created.id)
            list(server.audits.WatchAudit(watching, metadata=headers[owner], timeout=kit.SECONDS))
            return server.audits.GetAudit(audit_pb2.GetAuditRequest(id=created.id), metadata=headers[owner])

        return server, upload, audit

    def plant(server):
        """Tell the exploits where everything is; the fork server reads it when it starts again."""
        targets["server"] = server.pid
        (plants / "targets.json").write_text(json.dumps(targets))
        first = server.fork_server
        os.kill(first, 9)
        kit.wait_for(lambda: first not in kit.children(server.pid))

    return make, plant, targets


def ends(server):
    (found,) = re.findall(r"EXPLOIT (\{.*?\}) END", server.log().replace('\\"', '"'))
    return json.loads(found)


@confined
def test_a_worker_in_an_attackers_hands_reaches_nothing(hostile, kit):
    make, plant, targets = hostile
    server, upload, audit = make()
    victim = audit("victim", upload("victim", kit.tiny_model()))
    assert victim.state == "succeeded"
    targets["report"] = str(server.data_dir / "audits" / victim.id / "report.pb")
    targets["own_audit"] = str(server.data_dir / "audits" / victim.id)
    own = upload("attacker", kit.tiny_model(1), name="exploit.onnx")
    plant(server)
    assert audit("attacker", own).state == "failed"
    found = ends(server)
    done = {name: end for name, end in found["ends"].items() if end == "done"}
    if platform.machine() != "x86_64":
        done = {name: end for name, end in done.items() if name not in ONLY_X86}
    assert not done
    assert len(found["ends"]) > 50
    assert found["privileges"] == {
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "CapEff": "0000000000000000",
        "CapPrm": "0000000000000000",
    }
    # Nothing of what it tried has changed anything: the victim goes on.
    assert audit("victim", upload("victim", kit.tiny_model(2))).state == "succeeded"


@confined
def test_a_check_of_an_upload_is_confined_alike(hostile, kit):
    make, plant, targets = hostile
    server, upload, audit = make()
    victim = audit("victim", upload("victim", kit.tiny_model()))
    targets["report"] = str(server.data_dir / "audits" / victim.id / "report.pb")
    targets["own_audit"] = str(server.data_dir / "audits" / victim.id)
    targets["own_blob"] = targets["other_blob"]
    plant(server)
    with pytest.raises(grpc.RpcError):
        upload("attacker", kit.tiny_model(1), name="exploit_check.onnx")
    assert not [name for name, end in ends(server)["ends"].items() if end == "done" and name not in ONLY_X86]


@confined
def test_a_worker_that_fills_the_disk_is_stopped_and_leaves_room(hostile, kit):
    make, plant, _ = hostile
    free = shutil.disk_usage("/tmp").free  # noqa: S108
    server, upload, audit = make(min_free_bytes=str(free - 2**31))
    own = upload("attacker", kit.tiny_model(1), name="fill.onnx")
    plant(server)
    ended = audit("attacker", own)
    assert (ended.state, ended.failure.reason) == ("failed", "DISK_FULL")
    kit.wait_for(lambda: not list((server.data_dir / "scratch").glob("*/filler-*")))


@confined
def test_a_sandbox_that_is_required_is_there_or_the_server_does_not_start(start, kit):
    server = start(require_sandbox="true", worker_user="0")
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset()).sha256
    assert server.finish(server.create(model, images, kit.FAST).id).state == "succeeded"
    assert "lacks here" not in server.log()


def test_a_sandbox_that_is_required_and_missing_is_refused_by_name(tmp_path):
    """The kernel's answer to landlock_create_ruleset is planted, as one without Landlock gives it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'lieaudit_server.worker.files':\n"
        "            from lieaudit_server.worker import landlock\n"
        "            landlock.version = lambda: 0\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    command = [sys.executable, "-m", "lieaudit_server", "serve", "--data-dir", str(tmp_path / "data")]
    command += ["--listen", "127.0.0.1:0", "--require-sandbox", "--worker-user", "0"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert found.returncode == 2
    assert "require_sandbox: this machine lacks Landlock" in found.stderr


def test_hidden_paths_are_cut_out_of_what_may_be_read(tmp_path):
    for path in ("app/code/module.py", "app/data/state", "app/tokens", "other/x"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "link").symlink_to(tmp_path / "app")
    hidden = [str(tmp_path / "app" / "data"), str(tmp_path / "app" / "tokens")]
    shown = landlock.without([str(tmp_path), str(tmp_path / "app" / "data" / "state")], hidden)
    assert sorted(shown) == [str(tmp_path / "app" / "code"), str(tmp_path / "other")]
    assert landlock.without([str(tmp_path / "link")], hidden) == [str(tmp_path / "app" / "code")]


def test_the_tables_of_system_calls_are_the_kernels():
    """Against the kernel's own headers, where they are installed."""
    headers = {
        "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        "aarch64": Path("/usr/include/asm-generic/unistd.h"),
    }
    compared = 0
    for machine, path in headers.items():
        if not path.exists():
            continue
        known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text()))
        _, own = seccomp._ARCHITECTURES[machine]
        for name, number in {**own, **seccomp._EVERYWHERE, **seccomp._CONDITIONAL[machine]}.items():
            if name in known:
                assert int(known[name]) == number, (machine, name)
                compared += 1
        assert len(set(own.values())) == len(own)
    if not compared:
        pytest.skip("the kernel's headers are not installed")
    assert compared > 100


def test_the_documented_devices_are_the_allowed_ones(repo_root):
    text = (repo_root / "docs" / "security.md").read_text()
    for path in (*files.GPU_DEVICES, *files.GPU_SYSTEM):
        assert f"`{path}`" in text, path
    documented = set(re.findall(r"`(/(?:dev|proc|sys)/[^`]*)`", text))
    assert documented == {*files.GPU_DEVICES, *files.GPU_SYSTEM}
