"""A data folder on a file system that is really full, and a server that may write no larger file."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from lieaudit_api.v1 import audit_pb2, upload_pb2

MIB = 2**20
DISK_MIB = 24


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB in a mount namespace of its own: the namespace's process, and the mount point."""
    if sys.platform != "linux" or not (shutil.which("unshare") and shutil.which("nsenter")):
        pytest.skip("needs unshare and nsenter")
    point = tmp_path / "disk"
    point.mkdir()
    script = 'mount -t tmpfs -o size="$1m" tmpfs "$2" && echo mounted && exec cat'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(DISK_MIB), str(point)]
    keeper = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        if keeper.stdout.readline().strip() != "mounted":
            pytest.skip("this system lets nobody mount a file system in a namespace of their own")
        yield keeper, point
    finally:
        keeper.stdin.close()
        keeper.stdout.close()
        keeper.wait()


@pytest.fixture
def start_inside(small_disk, service_class, tmp_path):
    """Start servers whose data folder lies on the small disk."""
    keeper, point = small_disk
    started = []

    def make():
        server = service_class(point / "data")
        server.prefix = ["nsenter", "--target", str(keeper.pid), "--user", "--mount", "--preserve-credentials"]
        server._log = tmp_path / "log"
        started.append(server.start())
        return server

    yield make
    for server in started:
        if server._process.poll() is None:
            server.kill()
        if server.channel is not None:
            server.channel.close()


def reason(kit, call, *arguments, **fields):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **fields)
    info = kit.reason_of(caught.value)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, caught.value.details()
    assert kit.retry_seconds(caught.value) > 0
    return info.reason


class Filler:
    """A file that takes what is left of a disk, down to the last page."""

    def __init__(self, path):
        self.path = path

    def fill(self):
        with self.path.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                return

    def free(self):
        self.path.unlink()


def test_a_disk_that_runs_full_refuses_clearly_and_keeps_what_was_accepted(start_inside, small_disk, kit):
    keeper, point = small_disk
    server = start_inside()
    disk = Filler(Path(f"/proc/{keeper.pid}/root{point}/filler"))
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset()).sha256
    first = server.finish(server.create(model, images, kit.FAST).id)
    assert first.state == "succeeded"
    report = server.report(first.id)

    # It fits when it is announced; the disk runs full while it arrives.
    large = kit.tiny_model(1, pad=10 * MIB)

    def running_full():
        for number, message in enumerate(kit.messages(large, "onnx")):
            if number == 4:
                disk.fill()
            yield message

    assert reason(kit, server.models.UploadModel, running_full(), timeout=kit.SECONDS) == "DISK_FULL"
    assert reason(kit, server.upload_model, kit.tiny_model(2)) == "DISK_FULL"
    assert reason(kit, server.create, model, images, kit.FAST) == "DISK_FULL"
    assert server.get(first.id).state == "succeeded"
    assert server.report(first.id) == report
    server.kill()
    disk.free()
    disk.fill()  # whatever the dead server gave back

    # A server that starts on the full disk either says so, or serves what there is; it loses nothing.
    server = start_inside()
    assert server.report(first.id) == report
    disk.fill()  # what the start gave back: the log of the state is written into it
    assert reason(kit, server.create, model, images, kit.FAST) == "DISK_FULL"
    disk.free()
    known = server.models.GetUploadStatus(upload_pb2.UploadStatusRequest(sha256=kit.sha256(large)))
    assert not known.complete
    assert server.upload_model(large, offset=known.committed_bytes).size_bytes == len(large)
    assert server.finish(server.create(model, images, {**kit.FAST, "seed": 1}).id).state == "succeeded"
    assert server.report(first.id) == report
    listed = server.audits.ListAudits(audit_pb2.ListAuditsRequest(page_size=10)).audits
    assert len(listed) == 2
    server.stop()
    doctor = [*server.prefix, sys.executable, "-m", "lieaudit_server", "doctor", "--data-dir", str(point / "data")]
    checked = subprocess.run(doctor, capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_an_audit_that_meets_a_full_disk_fails_with_that_reason_and_others_go_on(start_inside, small_disk, kit):
    keeper, point = small_disk
    server = start_inside()
    disk = Filler(Path(f"/proc/{keeper.pid}/root{point}/filler"))
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset(count=3000)).sha256
    created = server.create(model, images, kit.SLOW)
    next(event for event in server.watch(created.id) if event.done)
    disk.fill()
    kit.wait_for(lambda: not server.workers())  # its next shard finds no room
    disk.free()
    ended = server.finish(created.id)
    assert (ended.state, ended.failure.reason) == ("failed", "DISK_FULL")
    assert server.finish(server.create(model, images, {**kit.FAST, "max_images": 8}).id).state == "succeeded"


def test_a_file_beyond_the_limit_of_the_process_is_refused_as_a_full_disk(start, kit):
    server = start()
    model = server.upload_model(kit.tiny_model()).sha256
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4 * MIB, 4 * MIB))
    assert reason(kit, server.upload_model, kit.tiny_model(1, pad=6 * MIB)) == "DISK_FULL"
    assert server.upload_model(kit.tiny_model(2)).size_bytes
    assert server.models.GetUploadStatus(upload_pb2.UploadStatusRequest(sha256=model)).complete
    assert (server.data_dir / "state.sqlite").stat().st_size < 4 * MIB
