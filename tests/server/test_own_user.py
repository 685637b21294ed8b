"""A server that is root runs its workers as another user, who has nothing else on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from lieaudit_api.v1 import audit_pb2

USER = 65534
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root may become another user"
)


def closed_folder():
    """The folder above the interpreter or the packages that others may not pass; None where they may."""
    needed = [Path(path) for path in {sys.prefix, sys.base_prefix, *sys.path} if path.startswith("/")]
    above = {folder for path in needed for folder in path.parents if folder.exists()}
    closed = sorted(folder for folder in above if not folder.stat().st_mode & stat.S_IXOTH)
    return closed[0] if closed else None


def opening(closed):
    """A command whose mount namespace has an open folder in place of a closed one, with what is needed of it."""
    if closed is None:
        return []
    needed = {path for path in (Path(sys.base_prefix), Path(sys.prefix)) if closed in path.parents}
    script = []
    for number, path in enumerate(sorted(needed)):
        script += [f"mkdir -p $0/{number}", f"mount --bind {shlex.quote(str(path))} $0/{number}"]
    script.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(str(closed))}")
    for number, path in enumerate(sorted(needed)):
        quoted = shlex.quote(str(path))
        script += [f"mkdir -p {quoted}", f"mount --bind $0/{number} {quoted}"]
    return ["unshare", "--mount", "sh", "-c", " && ".join([*script, 'exec "$@"']), tempfile.mkdtemp()]


@pytest.fixture
def server(service_class):
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to other users
    folder.chmod(0o755)
    server = service_class(folder / "data", worker_user=str(USER), require_sandbox="true", threads_per_audit="1")
    server.prefix = opening(closed_folder())
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


def test_workers_have_a_user_of_their_own_and_audits_succeed(server, kit):
    assert "own user" not in server.log()
    fast = server.create(
        server.upload_model(kit.tiny_model()).sha256, server.upload_dataset(kit.tiny_dataset()).sha256, kit.FAST
    )
    assert server.finish(fast.id).state == "succeeded"
    slow = server.create(*kit.slow_pair(server), kit.SLOW)
    next(event for event in server.watch(slow.id) if event.done)
    (worker,) = server.workers()
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == status["Gid"].split() == [str(USER)] * 4
    assert not status["Groups"].split()
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    server.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=slow.id), timeout=kit.SECONDS)


def test_that_user_may_read_its_blobs_and_nothing_else_of_the_server(server, kit):
    model = server.upload_model(kit.tiny_model()).sha256
    created = server.create(model, server.upload_dataset(kit.tiny_dataset()).sha256, kit.FAST)
    assert server.finish(created.id).state == "succeeded"
    root = server.data_dir
    kit.wait_for(lambda: not (root / "audits" / created.id / "shards").exists())  # the worker's own, while it ran
    blob = (root / "blobs" / model[:2] / model).stat()
    assert (blob.st_uid, blob.st_gid, stat.S_IMODE(blob.st_mode)) == (0, USER, 0o440)
    for path in root.rglob("*"):
        status = path.stat()
        mode = stat.S_IMODE(status.st_mode)
        assert not mode & 0o007, path
        assert status.st_uid == 0, path
        if status.st_gid == USER:
            assert mode == (0o710 if path.is_dir() else 0o440), path
    report = (root / "audits" / created.id / "report.pb").stat()
    assert report.st_gid != USER
