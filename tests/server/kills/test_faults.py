"""Everything that can go wrong with a machine, one after the other on one folder, each with SIGKILL in or after it.

The server, the fork server and workers are stopped (SIGSTOP), the disk is full (ENOSPC), descriptors run out (EMFILE),
and while the server is down files of each kind are deleted, truncated or have a bit flipped. ``LIEAUDIT_FAULTS`` sets
how many (default 20).
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from lieaudit_api.v1 import audit_pb2
from lieaudit_server.doctor import examine

FAULTS = int(os.environ.get("LIEAUDIT_FAULTS", "20"))
VOLUME_BYTES = 400 * 2**20


@pytest.fixture
def volume(tmp_path):
    """A small file system, where one can be mounted; gives its folder and whether it is one."""
    point = tmp_path / "volume"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={VOLUME_BYTES}", "none", str(point)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield point, mounted
    if mounted:
        subprocess.run(["umount", str(point)], check=True)


@contextlib.contextmanager
def stopped(pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def limited(pid, kind, value):
    """Lower a limit of a process for a while."""
    soft, hard = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (value, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile
            resource.prlimit(pid, kind, (soft, hard))


@contextlib.contextmanager
def filled(folder):
    """Leave less than 64 KiB free in a file system for a while."""
    ballast = folder / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**16))
        yield
    finally:
        ballast.unlink()


def faults(nursery, kit, volume):
    """What can happen while the server runs."""
    point, mounted = volume
    fork_servers = kit.children(nursery.pid)
    workers = [pid for fork_server in fork_servers for pid in kit.children(fork_server)]
    descriptors = len(list(Path(f"/proc/{nursery.pid}/fd").iterdir()))
    full = filled(point) if mounted else limited(nursery.pid, resource.RLIMIT_FSIZE, 2**16)
    return {
        "server stopped": stopped([nursery.pid]),
        "fork server stopped": stopped(fork_servers),
        "workers stopped": stopped(workers),
        "disk full": full,
        "no descriptors": limited(nursery.pid, resource.RLIMIT_NOFILE, descriptors),
    }


def harm(path, rng):
    """Delete a file, cut it in half or flip one of its bits; say which."""
    kind = rng.choice(("deleted", "truncated", "flipped"))
    if kind == "deleted":
        path.unlink()
    elif kind == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.chmod(0o600)
        path.write_bytes(bytes(data))
    return kind


def damage(root, at, damaged, rng):
    """Harm a model, a report or a half-done upload while the server is down, and take back what was promised of it."""
    book = at.book
    what = rng.choice(("model", "report", "upload"))
    if what == "model":
        choices = [p for p in root.glob("blobs/??/*") if p.suffix != ".json" and p.name not in at.base]
        if choices:
            path = rng.choice(sorted(choices))
            book.there.pop(path.name, None)
            damaged.add(path.name)
            return f"{what} {harm(path, rng)}"
    elif what == "report":
        choices = [p for p in root.glob("audits/*/report.pb") if p.parent.name not in book.spoilt]
        if choices:
            path = rng.choice(sorted(choices))
            book.spoilt.add(path.parent.name)
            return f"{what} {harm(path, rng)}"
    else:
        with contextlib.closing(sqlite3.connect(root / "state.sqlite")) as db:
            rows = db.execute("SELECT sha256, file FROM uploads WHERE committed > 0 ORDER BY sha256").fetchall()
        if rows:
            sha256, name = rng.choice(rows)
            book.committed[sha256] = 0
            damaged.add(name)
            return f"{what} {harm(root / 'partial' / name, rng)}"
    return "nothing to damage"


def alive(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_every_promise_holds_through_faults_of_every_kind(work, promises, kit, volume, say_counts):
    rng = random.Random(20261125)  # noqa: S311
    root, damaged, met = volume[0] / "data", set(), Counter()
    with work(root) as at:
        book, server = at.book, at.server
        for cycle in range(FAULTS):
            with promises.Clients(server, book, kit, at.nursery, at.base, cycle):
                promises.let_it_work(rng, book)
                name, fault = list(faults(at.nursery, kit, volume).items())[cycle % 5]
                met[name] += 1
                processes, survives = at.nursery.workers(), rng.random() < 0.5
                with fault:
                    time.sleep(rng.uniform(0.05, 0.4))
                    if not survives:
                        at.nursery.kill()
                if survives:
                    book.check("the server lives through it", alive(at.nursery.pid), name)
                    info = server.audits.GetServerInfo(audit_pb2.GetServerInfoRequest(), timeout=kit.SECONDS)
                    book.check("it goes on", info.api_version == "lieaudit.v1", name)
                    promises.let_it_work(rng, book)
                    processes = at.nursery.workers()
                    at.nursery.kill()
            kit.wait_for(lambda pids=processes: not any(map(alive, pids)))  # nothing is left, stopped or not
            server.channel.close()
            met[damage(root, at, damaged, rng)] += 1
            server = at.nursery.start()
            promises.sweep(server, book, rng)
        promises.final_check(server, book, kit, excused={"DISK_FULL"})
        server.channel.close()
        at.nursery.kill()
        assert not book.broken, book.broken
        for finding in examine(root, repair=False):
            assert any(name in finding for name in damaged | book.spoilt), finding
        examine(root, repair=True)
        assert all(finding.endswith(": marked as damaged") for finding in examine(root, repair=False))
        promises.check_bits(book, kit, at.images)
    assert not book.broken, book.broken
    total = sum(book.checked.values())
    say_counts(f"{FAULTS} faults survived, {total} promises checked: {dict(book.checked)}; {dict(met)}")
