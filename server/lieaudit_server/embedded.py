"""The same server in a child process on a private unix socket, for one command or one test."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from lieaudit_server.errors import ConfigError

_STOP_SECONDS = 30.0


class EmbeddedServer:
    """Context manager that gives the gRPC target of a server of its own.

    Parameters
    ----------
    data_dir
        Where models, data sets and audits are kept; None: a temporary folder, gone at the end.
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
        self._process: subprocess.Popen[str] | None = None
        self.target = ""

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return 0 if self._process is None else self._process.pid

    def __enter__(self) -> str:
        self._folder = tempfile.TemporaryDirectory(prefix="lieaudit-")  # mode 0700, short enough for a socket's name
        folder = Path(self._folder.name)
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
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
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
        """Give what the server has logged so far."""
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
