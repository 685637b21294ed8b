"""Landlock: from here on this process opens nothing but the files it was told, read-only or to write.

The kernel's interface (``landlock(7)``) has no wrapper in libc: three system calls and two structures, by ctypes. What
a kernel's version of it (its ABI) does not know is left out.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same numbers on all architectures
_PATH_BENEATH, _VERSION = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_DIR, _MAKE_REG, _TRUNCATE, _IOCTL_DEV = 1 << 7, 1 << 8, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_BITS_BY_ABI = (0, 13, 14, 15, 15, 16)  # kinds of access that each ABI knows; later ones know no more
_TCP, _SCOPES = 0b11, 0b11  # bind and connect (ABI 4); abstract sockets and signals (ABI 6)

READ = _EXECUTE | _READ_FILE | _READ_DIR
"""Read and map files, list folders."""
WRITE = READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
"""All of that, and make, write and remove plain files and folders."""
DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
"""Use a device."""

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """Return the kernel's Landlock ABI; 0 where it has none, or it is turned off."""
    return max(int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), _VERSION)), 0)


def restrict(access: Mapping[int, Iterable[str]]) -> None:
    """Restrict this thread, and what it starts, to the files and folders below these paths; other access is EACCES.

    Parameters
    ----------
    access
        Paths under `READ`, `WRITE` and `DEVICE`; those that are not there are left out.

    ``PR_SET_NO_NEW_PRIVS`` must be on. Raises `OSError` where the kernel refuses.
    """
    abi = version()
    if not abi:
        raise OSError(errno.ENOSYS, "no Landlock")
    handled = (1 << _BITS_BY_ABI[min(abi, len(_BITS_BY_ABI) - 1)]) - 1
    attributes = [handled, *([_TCP] if abi >= 4 else []), *([_SCOPES] if abi >= 6 else [])]
    ruleset = _call(_CREATE, struct.pack(f"{len(attributes)}Q", *attributes), 8 * len(attributes), 0)
    try:
        for rights, paths in access.items():
            for path in paths:
                _allow(ruleset, path, rights & handled)
        _call(_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)


def without(roots: Iterable[str], hidden: Iterable[str]) -> list[str]:
    """Return the roots, each that holds a hidden path replaced by what lies in it and is not, nor holds, one."""
    secret = [Path(path) for path in hidden]
    found, pending = [], [Path(os.path.realpath(root)) for root in roots]
    while pending:
        root = pending.pop()
        if any(root == path or path in root.parents for path in secret):
            continue
        if any(root in path.parents for path in secret):
            pending.extend(Path(entry.path) for entry in os.scandir(root) if not entry.is_symlink())
        else:
            found.append(str(root))
    return found


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: bytes | int) -> int:
    wide = [a if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
