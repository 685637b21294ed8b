"""A seccomp filter of our own: system calls that measuring a model never needs fail with EPERM from here on.

It is a list of what is forbidden, for what onnxruntime, torch and CUDA need changes with each version. Forbidden are:
every network and local socket, other processes (starting, tracing, signalling them, changing their limits),
execve, mounts and namespaces, kernel interfaces with a history of holes (bpf, io_uring, userfaultfd, keyrings), shared
memory that no limit counts, and changes of owner and mode, which Landlock leaves open.

A filter is a program of the kernel's classic BPF over ``struct seccomp_data``: number (offset 0), architecture (4),
arguments (from 16, the low half of each first).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_EVERYWHERE = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447,
    "process_mrelease": 448, "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "open_tree_attr": 467,
}  # fmt: skip
_X86_64 = {
    "shmget": 29, "shmat": 30, "shmctl": 31, "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50,
    "socketpair": 53, "fork": 57, "vfork": 58, "execve": 59, "semget": 64, "semop": 65, "semctl": 66, "msgget": 68,
    "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94,
    "ptrace": 101, "syslog": 103, "setuid": 105, "setgid": 106, "setpgid": 109, "setsid": 112, "setreuid": 113,
    "setregid": 114, "setgroups": 116, "setresuid": 117, "setresgid": 119, "setfsuid": 122, "setfsgid": 123,
    "capset": 126, "rt_sigqueueinfo": 129, "utime": 132, "mknod": 133, "uselib": 134, "personality": 135,
    "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144, "vhangup": 153, "modify_ldt": 154,
    "pivot_root": 155, "adjtimex": 159, "chroot": 161, "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166,
    "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
    "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "tkill": 200, "sched_setaffinity": 203,
    "lookup_dcookie": 212, "semtimedop": 220, "clock_settime": 227, "utimes": 235, "mq_open": 240, "mq_unlink": 241,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "ioprio_set": 251, "migrate_pages": 256,
    "mknodat": 259, "fchownat": 260, "futimesat": 261, "fchmodat": 268, "unshare": 272, "move_pages": 279,
    "utimensat": 280, "accept4": 288, "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "fanotify_init": 300,
    "fanotify_mark": 301, "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "sched_setattr": 314,
    "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "execveat": 322, "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
    "lookup_dcookie": 18, "ioprio_set": 30, "mknodat": 33, "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51,
    "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55, "vhangup": 58, "quotactl": 60, "utimensat": 88,
    "acct": 89, "capset": 91, "personality": 92, "unshare": 97, "kexec_load": 104, "init_module": 105,
    "delete_module": 106, "clock_settime": 112, "syslog": 116, "ptrace": 117, "sched_setparam": 118,
    "sched_setscheduler": 119, "sched_setaffinity": 122, "tkill": 130, "rt_sigqueueinfo": 138, "setpriority": 140,
    "reboot": 142, "setregid": 143, "setgid": 144, "setreuid": 145, "setuid": 146, "setresuid": 147, "setresgid": 149,
    "setfsuid": 151, "setfsgid": 152, "setpgid": 154, "setsid": 157, "setgroups": 159, "sethostname": 161,
    "setdomainname": 162, "settimeofday": 170, "adjtimex": 171, "mq_open": 180, "mq_unlink": 181, "msgget": 186,
    "msgctl": 187, "msgrcv": 188, "msgsnd": 189, "semget": 190, "semctl": 191, "semtimedop": 192, "semop": 193,
    "shmget": 194, "shmctl": 195, "shmat": 196, "socket": 198, "socketpair": 199, "bind": 200, "listen": 201,
    "accept": 202, "connect": 203, "add_key": 217, "request_key": 218, "keyctl": 219, "execve": 221, "swapon": 224,
    "swapoff": 225, "migrate_pages": 238, "move_pages": 239, "rt_tgsigqueueinfo": 240, "perf_event_open": 241,
    "accept4": 242, "fanotify_init": 262, "fanotify_mark": 263, "name_to_handle_at": 264, "open_by_handle_at": 265,
    "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272,
    "finit_module": 273, "sched_setattr": 274, "memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282,
    "kexec_file_load": 294,
}  # fmt: skip
# Allowed with some arguments only.
_CONDITIONAL = {
    "x86_64": {"ioctl": 16, "clone": 56, "kill": 62, "tgkill": 234, "prlimit64": 302, "clone3": 435},
    "aarch64": {"ioctl": 29, "clone": 220, "kill": 129, "tgkill": 131, "prlimit64": 261, "clone3": 435},
}
_ARCHITECTURES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
ONLY_WITHOUT_GPU = frozenset({"memfd_create"})
"""What CUDA needs and an audit on the CPU does not."""

_LOAD, _EQUAL, _SET, _ABOVE, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, JSET, JGE, BPF_RET|K
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_X32 = 0x40000000  # numbers of the x32 ABI: other numbers for the same calls
_CLONE_THREAD = 0x00010000
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_PR_SET_SECCOMP, _FILTER = 22, 2


def forbidden(*, gpu: bool) -> dict[str, int]:
    """Return the system calls that fail whatever their arguments, by name. Raises `OSError` on other architectures."""
    _, own = _architecture()
    calls = {**own, **_EVERYWHERE}
    return {name: number for name, number in calls.items() if not (gpu and name in ONLY_WITHOUT_GPU)}


def program(pid: int, *, gpu: bool) -> bytes:
    """Make the filter for the process of this id."""
    audit_arch, _ = _architecture()
    some = _CONDITIONAL[platform.machine()]
    refuse = 0x00050000 | errno.EPERM
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit_arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    code += [(_ABOVE, 0, 1, _X32), (_RETURN, 0, 0, refuse)]
    for number in sorted(forbidden(gpu=gpu).values()):
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, refuse)]
    # Its flags are behind a pointer, which a filter cannot follow; without it libc takes clone.
    code += [(_EQUAL, 0, 1, some["clone3"]), (_RETURN, 0, 0, 0x00050000 | errno.ENOSYS)]
    code += _when(some["clone"], [(_LOAD, 0, 0, 16), (_SET, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW)], refuse)
    for name in ("kill", "tgkill"):
        code += _when(some[name], [(_LOAD, 0, 0, 16), (_EQUAL, 0, 1, pid), (_RETURN, 0, 0, _ALLOW)], refuse)
    own = [(_EQUAL, 0, 1, 0), (_RETURN, 0, 0, _ALLOW), (_EQUAL, 0, 1, pid), (_RETURN, 0, 0, _ALLOW)]
    code += _when(some["prlimit64"], [(_LOAD, 0, 0, 16), *own], refuse)
    typing = [part for request in _TERMINAL_INPUT for part in ((_EQUAL, 0, 1, request), (_RETURN, 0, 0, refuse))]
    code += _when(some["ioctl"], [(_LOAD, 0, 0, 24), *typing], _ALLOW)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def install(*, gpu: bool) -> None:
    """Filter the system calls of this process, for good. Raises `OSError` where that cannot be done.

    ``PR_SET_NO_NEW_PRIVS`` must be on, and the process have one thread.
    """
    code = program(os.getpid(), gpu=gpu)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_FILTER), header, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _architecture() -> tuple[int, dict[str, int]]:
    try:
        return _ARCHITECTURES[platform.machine()]
    except KeyError:
        raise OSError(errno.ENOSYS, f"no filter is written for {platform.machine()}") from None


def _when(number: int, tests: list[tuple[int, int, int, int]], otherwise: int) -> list[tuple[int, int, int, int]]:
    """Return the instructions for one call: its tests, which return or fall through to ``otherwise``."""
    return [(_EQUAL, 0, len(tests) + 1, number), *tests, (_RETURN, 0, 0, otherwise)]
