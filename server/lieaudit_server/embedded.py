"""The same server in a child process on a private unix socket, for one command or one test."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from lieaudit_server.errors import ConfigError

_STOP_SECONDS = 30.0
_PREFIX, _LOCK = "lieaudit-", "in-use"


class EmbeddedServer:
    """Context manager that gives the gRPC target of a server of its own.

    Parameters
    ----------
    data_dir
        Where models, data sets and audits are kept; None: a temporary folder, gone at the end. Where this process is
        killed before that, the next embedded server of the user deletes it.
    settings
        Further settings by their names in `lieaudit_server.config.Config`.

    Raises
    ------
    ConfigError
        The server did not start; its log is in the message.
    """

    def __init__(self, data_dir: Path | None = None, **settings: str) -> None:
        self._data_dir = data_dir
        self._settings = settings
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._lock: int | None = None
        self._process: subprocess.Popen[str] | None = None
        self.target = ""

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return 0 if self._process is None else self._process.pid

    def __enter__(self) -> str:
        sweep(Path(tempfile.gettempdir()))
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX)  # mode 0700, short enough for a socket's name
        folder = Path(self._folder.name)
        self._lock = _locked(folder)
        flags = {
            "data_dir": str(self._data_dir or folder / "data"),
            "listen": f"unix:{folder / 'socket'}",
            "exit_with_parent": "true",
            "drain_seconds": "0",
            "min_free_bytes": "0",
            "threads_per_audit": "1024",
            **self._settings,
        }
        command = [sys.executable, "-m", "lieaudit_server", "serve"]
        for name, value in flags.items():
            flag = "--" + name.replace("_", "-")
            command += [flag] if value == "true" else [flag, value]
        with (folder / "log").open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                pass_fds=[self._lock],  # held as long as either of the two lives
            )
        assert self._process.stdout is not None  # noqa: S101 - made with PIPE
        line = self._process.stdout.readline().strip()
        if not line.startswith("ready "):
            reason = (folder / "log").read_text(encoding="utf-8", errors="replace")[-2000:].strip()
            self._close()
            raise ConfigError(f"the embedded server did not start: {reason}")
        self.target = line.removeprefix("ready ")
        return self.target

    def __exit__(
        self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._close()

    def log(self) -> str:
        """Return what the server has logged so far."""
        assert self._folder is not None  # noqa: S101 - used inside the context
        return (Path(self._folder.name) / "log").read_text(encoding="utf-8", errors="replace")

    def _close(self) -> None:
        process = self._process
        if process is not None:
            assert process.stdin is not None  # noqa: S101 - made with PIPE
            assert process.stdout is not None  # noqa: S101 - made with PIPE
            process.stdin.close()
            try:
                process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        if self._folder is not None:
            self._folder.cleanup()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep(parent: Path) -> None:
    """Delete what killed embedded servers left below ``parent``: folders of this user whose lock nobody holds."""
    for lock in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError):  # somebody else's, still in use, or swept by another at this moment
            held = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(held).st_uid == lock.parent.lstat().st_uid == os.getuid():
                    shutil.rmtree(lock.parent)
            finally:
                os.close(held)


def _locked(folder: Path) -> int:
    """Mark a folder as in use; give the descriptor that keeps it so. The lock is there before its name is."""
    new = folder / f"{_LOCK}.new"
    held = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    new.rename(folder / _LOCK)
    return held
