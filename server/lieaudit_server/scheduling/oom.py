"""Whether the kernel has killed somebody for want of memory: its counters, before and after.

A process that is killed for want of memory looks like one that somebody killed; what is started again then is killed
again. The counter of our own control group knows of its own kills alone. Where the whole group is killed
(``memory.oom.group``, as Kubernetes does) its counter goes with it; what is left is the machine's, since it was booted.
"""

from __future__ import annotations

from pathlib import Path

_MACHINE = Path("/proc/vmstat")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def kills() -> int:
    """Count the kills in this process's control group (version 2 or 1), or of the machine where it has no counter."""
    for path in _counters():
        count = _count(path)
        if count is not None:
            return count
    return _count(_MACHINE) or 0


def mark() -> str:
    """Return the machine's count together with which boot it belongs to; empty where the kernel does not say."""
    count = _count(_MACHINE)
    try:
        return "" if count is None else f"{_BOOT.read_text(encoding='ascii').strip()}:{count}"
    except OSError:
        return ""


def rose(before: str, now: str) -> bool:
    """Whether the machine has killed for want of memory between two marks; those of different boots do not say."""
    (boot, _, count), (same_boot, _, new_count) = before.rpartition(":"), now.rpartition(":")
    return bool(boot) and boot == same_boot and int(new_count) > int(count)


def _counters() -> list[Path]:
    found = []
    try:
        lines = _GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if not controllers:
            found.append(_MOUNT / name.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            found.append(_MOUNT / "memory" / name.lstrip("/") / "memory.oom_control")
    return found


def _count(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdigit():
            return int(value)
    return None
