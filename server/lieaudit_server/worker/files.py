"""Which files a worker may open: libraries and devices, what its job reads, its own folders to write."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lieaudit_server.worker import landlock

SYSTEM = (
    "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/timezone", "/etc/passwd", "/etc/group",
    "/etc/nsswitch.conf", "/etc/os-release", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat",
    "/proc/version", "/proc/filesystems", "/proc/sys/vm", "/proc/sys/kernel", "/sys/devices/system", "/sys/fs/cgroup",
    "/sys/kernel/mm", "/dev/zero", "/dev/random", "/dev/urandom",
)  # fmt: skip
"""What every worker may read."""
GPU_SYSTEM = ("/proc/driver/nvidia", "/proc/devices", "/proc/modules", "/sys/bus/pci", "/sys/devices", "/sys/module")
"""What a GPU's worker may read besides; docs/security.md has the same list."""
GPU_DEVICES = (
    "/dev/nvidiactl", "/dev/nvidia[0-9]*", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset",
    "/dev/nvidia-caps/*",
)  # fmt: skip
"""Devices that a GPU's worker may use; docs/security.md has the same list."""


def access(job: Mapping[str, Any]) -> dict[int, list[str]]:
    """Return the paths for `landlock.restrict`: none of them is or holds one that the job says is hidden."""
    code = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, *site.getsitepackages()}
    code |= set(os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    readable = [*SYSTEM, *(path for path in code if path.startswith("/") and path != "/")]
    devices = ["/dev/null"]
    if job["gpu"]:
        readable += GPU_SYSTEM
        devices += [str(path) for pattern in GPU_DEVICES for path in Path("/").glob(pattern.removeprefix("/"))]
    shown = landlock.without([path for path in readable if Path(path).exists()], job["hidden"])
    return {
        landlock.READ: [*shown, *job["readable"]],
        landlock.WRITE: list(job["writable"]),
        landlock.DEVICE: devices,
    }
