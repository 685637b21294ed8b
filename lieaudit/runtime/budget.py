"""The memory budget that an audit takes where none was stated: a share of what is free on the device that computes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_MIB = 1 << 20

_HOST_SHARE, _GPU_SHARE = 4, 2
"""One part of so many: the host is shared with other work, weights and images; a GPU with its weights alone."""

_LARGEST = 8192
"""MiB on a CPU: the activations of the largest images fit, and throughput has long stopped growing."""

_LEAST = 256
UNKNOWN = 2048
"""MiB where nothing says what is free."""


def automatic_budget(provider: str, *, limit: int | None = None) -> int:
    """Return a budget in MiB: a share of the free memory of the provider's device, rounded down to a power of two.

    Powers of two, so that what other processes hold at the moment hardly ever changes how an audit is cut into runs,
    and with it the last bits of its numbers. Never beyond ``limit``.
    """
    on_cpu = provider == "cpu"
    free = _free_on_host() if on_cpu else _free_on_gpu(provider)
    found = UNKNOWN
    if free is not None:
        share = max(_LEAST, free // (_HOST_SHARE if on_cpu else _GPU_SHARE))
        found = 1 << (share.bit_length() - 1)
    if on_cpu:
        found = min(found, _LARGEST)
    return found if limit is None else max(1, min(found, limit))


def _free_on_host() -> int | None:
    """Return MiB that processes may still take: of the machine, and of the control group that this one is in."""
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    try:
        most, used = ((_CGROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return available if most == "max" else min(available, max(0, int(most) - int(used)) // _MIB)
    except (OSError, ValueError):
        return available


def _free_on_gpu(provider: str) -> int | None:
    """Return MiB free on a GPU as its driver's tool says; None without the tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    index = provider.partition(":")[2] or "0"
    command = [tool, "--query-gpu=memory.free", "--format=csv,noheader,nounits", f"--id={index}"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        return int(said.split()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
