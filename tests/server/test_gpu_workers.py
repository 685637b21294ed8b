"""What a worker on a GPU may use besides, in a /dev of its own with stand-ins for a GPU's devices; and its share."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import pytest
from lieaudit_server.scheduling.fairness import within_share
from lieaudit_server.store.audits import Audit
from lieaudit_server.worker import landlock
from lieaudit_server.worker.files import GPU_DEVICES, GPU_SYSTEM

DEVICES = (
    "nvidiactl",
    "nvidia0",
    "nvidia1",
    "nvidia-uvm",
    "nvidia-uvm-tools",
    "nvidia-modeset",
    "nvidia-caps/nvidia-cap1",
)
OTHERS = ("nvme0", "mem", "kvm", "nvidia-else")
CONFINED = """
import json, os, sys
from lieaudit_server.worker.sandbox import enter
job = json.loads(sys.argv[1])
missing = enter(os.getppid(), job)
found = {}
for name in sys.argv[2:]:
    try:
        os.close(os.open(f"/dev/{name}", os.O_RDWR))
        found[name] = True
    except PermissionError:
        found[name] = False
print(json.dumps([missing, found]))
"""


def opened(tmp_path, *, gpu):
    """Which devices a confined worker can open, in a mount namespace whose /dev holds null devices of these names."""
    scratch = tmp_path / f"scratch-{gpu}"
    scratch.mkdir()
    scratch.chmod(0o700)
    job = {
        "gpu": gpu,
        "cpus": [min(os.sched_getaffinity(0))],
        "niceness": 0,
        "scratch": str(scratch),
        "threads": 1,
        "memory_mib": 1024,
        "file_bytes": 2**20,
        "user": None,
        "readable": [],
        "writable": [str(scratch)],
        "hidden": [],
    }
    script = ["mount -t tmpfs none /dev", "mkdir /dev/nvidia-caps"]
    script += [f"mknod -m 666 /dev/{name} c 1 3" for name in ("null", *DEVICES, *OTHERS)]
    script += [f"mknod -m 666 /dev/{name} c 1 9" for name in ("random", "urandom")]
    command = ["unshare", "--mount", "sh", "-c", " && ".join([*script, '"$@"']), "sh"]
    python = [sys.executable, "-c", CONFINED, json.dumps(job), *DEVICES, *OTHERS]
    done = subprocess.run([*command, *python], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    missing, found = json.loads(done.stdout)
    assert missing == []
    return found


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare for a /dev")
@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_a_worker_uses_the_devices_of_a_gpu_where_its_provider_needs_them_and_no_others(tmp_path):
    on_gpu, on_cpu = opened(tmp_path, gpu=True), opened(tmp_path, gpu=False)
    assert on_gpu == {**dict.fromkeys(DEVICES, True), **dict.fromkeys(OTHERS, False)}
    assert not any(on_cpu.values())


def test_the_devices_of_a_gpu_are_the_ones_that_the_security_page_lists(repo_root):
    text = (repo_root / "docs" / "security.md").read_text()
    for path in (*GPU_DEVICES, *GPU_SYSTEM):
        assert f"`{path}`" in text, path


AUDIT = Audit(1, "a", "mine", "queued", {}, {}, 1, None, 1.0, 0, 0.0, None, None, 0, None, "")


def test_the_share_of_an_owner_is_of_cpus_and_of_gpus():
    on_gpu = dataclasses.replace(AUDIT, device=0)

    def fits(audit, cpus, gpus, share=0.75):
        return within_share(audit, held=(cpus, gpus), total=(8, 4), share=share)

    assert [fits(AUDIT, held, 0) for held in (0, 5, 6, 7)] == [True, True, False, False]
    assert [fits(on_gpu, 0, held) for held in (0, 2, 3)] == [True, True, False]
    assert fits(AUDIT, 0, 4)  # GPUs held say nothing of CPUs
    assert fits(on_gpu, 8, 0)
    assert fits(dataclasses.replace(AUDIT, threads=8), 0, 0)  # the first may always run: some need all there is
    assert within_share(on_gpu, held=(0, 0), total=(8, 1), share=0.1)
