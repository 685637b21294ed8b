"""The limits a worker puts on itself before it touches anything a client sent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_NICENESS = 10


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process of this id, dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above could say that we go with it
        os._exit(1)


def enter(parent: int, memory_mib: int, cpus: list[int], threads: int, scratch: str) -> None:
    """Limit this process: it dies with its parent, has its CPUs and memory and no core dumps, and yields to the server.

    RLIMIT_DATA counts private writable memory, so that the address space reserved by onnxruntime, torch and CUDA does
    not, as it would under RLIMIT_AS.

    Parameters
    ----------
    parent
        Process id of the fork server.
    memory_mib
        Memory limit in MiB.
    cpus
        CPUs to run on.
    threads
        Threads of the libraries that are loaded from now on (torch).
    scratch
        The job's own folder: working directory, home and place of temporary files.
    """
    die_with(parent)
    if sys.platform == "linux":
        os.sched_setaffinity(0, cpus)
    memory = memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    os.nice(_NICENESS)
    os.chdir(scratch)
    os.environ.update({"HOME": scratch, "TMPDIR": scratch})
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)))
