"""What a worker gives up before it touches anything a client sent.

In this order: its place in the queue for the CPUs, memory and files beyond limits, the server's user where that is
root, every privilege, all files but its own, and the system calls that measuring a model never needs. What this kernel
cannot do is in what `enter` gives; the server says it at its start or, with ``--require-sandbox``, does not start.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lieaudit_server.worker import landlock, seccomp
from lieaudit_server.worker.files import access

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_MORE_TASKS = 1024
_ADDRESSES = 4 * 2**30
_CAPABILITY_VERSION_3 = 0x20080522


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process of this id, dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above could say that we go with it
        os._exit(1)


def enter(parent: int, job: Mapping[str, Any]) -> list[str]:
    """Confine this process to its job; give what could not be had, one line each.

    It dies with ``parent``, the fork server, has its CPUs and no core dumps, and yields to the server.
    `lieaudit_server.scheduling.confinement` writes what the job description holds for it.
    """
    die_with(parent)
    gpu = bool(job["gpu"])
    if sys.platform == "linux":
        os.sched_setaffinity(0, job["cpus"])
        Path("/proc/self/oom_score_adj").write_text(
            "1000", encoding="ascii"
        )  # before the server, where memory runs out
    os.umask(0o077)
    os.nice(job["niceness"])
    os.chdir(job["scratch"])
    os.environ.update({"HOME": job["scratch"], "TMPDIR": job["scratch"]})
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(job["threads"])))
    _limit(job, gpu=gpu)
    if sys.platform != "linux":
        return ["Landlock, seccomp: only Linux has them"]
    missing = []
    allowed = access(job)  # looked up while everything can still be seen
    if job["user"] is not None:
        os.setgroups([])
        os.setresgid(*[job["user"]] * 3)
        os.setresuid(*[job["user"]] * 3)
        die_with(parent)  # forgotten with the old user
    for name, step in (
        ("no_new_privs", _gain_nothing),
        ("capabilities", _drop_capabilities),
        ("Landlock", lambda: landlock.restrict(allowed)),
        ("seccomp", lambda: seccomp.install(gpu=gpu)),
    ):
        try:
            step()
        except OSError as problem:
            missing.append(f"{name}: {problem.strerror}")
    return missing


def _limit(job: Mapping[str, Any], *, gpu: bool) -> None:
    """Set the limits, none of which can be raised again.

    RLIMIT_DATA counts private writable memory: what a model needs. RLIMIT_AS counts everything mapped, files and shared
    memory too; CUDA reserves more of it than any machine has, so that a GPU's worker goes without.
    """
    memory = job["memory_mib"] * 2**20
    limits = {resource.RLIMIT_DATA: memory, resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: job["file_bytes"]}
    if sys.platform == "linux":
        # Of the user's processes and threads; those of the whole machine are at least as many.
        tasks = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[2])
        limits[resource.RLIMIT_NPROC] = tasks + _MORE_TASKS
        if not gpu:
            mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
            limits[resource.RLIMIT_AS] = mapped + 2 * memory + _ADDRESSES
    for name, value in limits.items():
        _, hard = resource.getrlimit(name)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (most, most))


def _gain_nothing() -> None:
    _checked(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _checked(ctypes.CDLL(None, use_errno=True).capset(header, none))


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
