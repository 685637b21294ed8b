"""A real server in a real process, a proxy that breaks connections, tiny models and images."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from lieaudit_client import Client, Retry

SECONDS = 60.0
"""Longest wait for anything; never what a test measures."""


class Server:
    """One server process on one data folder and one port; it can be killed and started again."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.settings = {"data_dir": str(data_dir), "listen": "127.0.0.1:0", "min_free_bytes": "0"} | settings
        self._log = data_dir.with_suffix(".log")
        self.process: subprocess.Popen[str] | None = None
        self.target = ""

    def start(self) -> Server:
        command = [sys.executable, "-m", "lieaudit_server", "serve"]
        for name, value in self.settings.items():
            flag = "--" + name.replace("_", "-")
            command += [flag] if value == "true" else [flag, value]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LIEAUDIT_")} | {"OMP_NUM_THREADS": "1"}
        with self._log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        line = self.process.stdout.readline()
        assert line.startswith("ready "), self._log.read_text()[-4000:]
        self.target = line.removeprefix("ready ").strip()
        self.settings["listen"] = self.target  # a restarted server is found where it was
        return self

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(timeout=SECONDS)
        self.process.stdout.close()


class Proxy:
    """Passes TCP connections on to a server, until it is told to break them."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = 0  # bytes from clients that were passed on
        self.connections = 0
        self.breaks = 0
        self.cut_after: int | None = None  # break the connection once so many more bytes were passed on
        self.silent = False  # take everything, pass nothing on
        self.pause = 0.0  # seconds between pieces of 64 KiB: a line that is slower than the server
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def break_connections(self) -> None:
        self.breaks += 1
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_connections()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            for source, target, counted in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass, args=(source, target, counted), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(65536):
                if self.silent:
                    continue
                if counted and self.cut_after is not None:
                    data = data[: self.cut_after]
                    self.cut_after -= len(data)
                target.sendall(data)
                time.sleep(self.pause if counted else 0)
                self.sent += len(data) if counted else 0
                if counted and self.cut_after == 0:
                    self.cut_after = None
                    self.break_connections()
        except OSError:
            pass
        finally:
            for one in (source, target):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
                with self._lock:
                    self._open.discard(one)


def wait_for(condition):
    """Poll until a condition holds and give its value."""
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
    return value


@pytest.fixture(name="wait_for")
def wait_for_fixture():
    """Poll until a condition holds and give its value."""
    return wait_for


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """What the developer's environment says about a service is not for the tests."""
    for name in [name for name in os.environ if name.startswith("LIEAUDIT_") and name != "LIEAUDIT_REAL"]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def new_server():
    """Make a server of one's own, for longer than a test."""
    return Server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with the default settings, shared by the tests of a module."""
    running = Server(tmp_path_factory.mktemp("service") / "data").start()
    yield running
    running.stop()


@pytest.fixture
def start(tmp_path):
    """Start servers of one's own; they are killed at the end."""
    started = []

    def make(**settings):
        started.append(Server(tmp_path / f"data{len(started)}", **settings).start())
        return started[-1]

    yield make
    for one in started:
        one.kill()


@pytest.fixture
def proxy():
    """Put a proxy before a server."""
    made = []

    def make(target):
        made.append(Proxy(target))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def client(server):
    """A client of the shared server."""
    with Client(server.target) as connected:
        yield connected


@pytest.fixture
def quick():
    """Retries without long waits."""
    return Retry(first=0.05, longest=0.2)


def _model(seed=0, *, size=8, channels=1, classes=3, pad=0, repeat=0):
    """One smooth layer, float32 (N, channels, size, size) to logits (N, classes); `repeat` makes it slow."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(channels * size * size, classes)).astype(np.float32) / size
    nodes = [onnx.helper.make_node("Flatten", ["x"], ["h0"])]
    initializers = [onnx.numpy_helper.from_array(weights, "w")]
    if repeat:
        square = (rng.normal(size=(channels * size * size,) * 2) / size).astype(np.float32)
        initializers.append(onnx.numpy_helper.from_array(square, "s"))
    for i in range(repeat):
        nodes.append(onnx.helper.make_node("MatMul", [f"h{i}", "s"], [f"m{i}"]))
        nodes.append(onnx.helper.make_node("Tanh", [f"m{i}"], [f"h{i + 1}"]))
    nodes.append(onnx.helper.make_node("MatMul", [f"h{repeat}", "w"], ["product"]))
    nodes.append(onnx.helper.make_node("Tanh", ["product"], ["logits"]))
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", channels, size, size])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", classes])],
        initializers,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    model.doc_string = rng.bytes(pad // 2).hex()
    return model.SerializeToString()


def _images(seed=0, *, count=12, size=8, channels=1, pad=0):
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    x = rng.normal(size=(count, channels, size, size)).astype(np.float32)
    more = {"padding": rng.integers(0, 256, pad, dtype=np.uint8)} if pad else {}
    np.savez(buffer, x=x, y=rng.integers(0, 3, count), **more)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_model():
    """Make the bytes of a tiny ONNX model."""
    return _model


@pytest.fixture(scope="session")
def make_images():
    """Make the bytes of an npz of random images with labels."""
    return _images


@pytest.fixture
def files(tmp_path):
    """Paths of a tiny model and of images for it."""
    model, images = tmp_path / "tiny.onnx", tmp_path / "noise.npz"
    model.write_bytes(_model())
    images.write_bytes(_images())
    return model, images
