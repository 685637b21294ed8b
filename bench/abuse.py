"""One tenant attacks with everything at once, another one works: the latencies of the latter, quiet and attacked.

``LIEAUDIT_ABUSE_SECONDS`` (default 120) is how long the attack lasts. Everything is on loopback: to the server all are
one address, as behind a proxy. The attack (`bench._attack`) has a process of its own, at the lowest priority on the
last CPU, so that what it costs its client is not part of the latencies.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from lieaudit_api.v1 import audit_pb2, model_pb2

from bench.load import FAST, Load, images, quantile, resident_mib, tiny_model

SECONDS = float(os.environ.get("LIEAUDIT_ABUSE_SECONDS", "120"))
_STOP_SECONDS = 60.0  # 20 s of draining, and what a busy machine adds
Headers = tuple[tuple[str, str], ...]


class Tenant(Load):
    """A client with a token; `Load` times its calls."""

    def __init__(self, channel: grpc.aio.Channel, headers: Headers) -> None:
        super().__init__(channel)
        for name in ("models", "datasets", "audits"):
            setattr(self, name, _Signed(getattr(self, name), headers))

    async def work(self, end: float) -> int:
        """Upload, audit, watch, list and delete until then; give the number of audits that succeeded."""
        dataset = await self.upload("Dataset", images(12))
        done = 0
        while time.monotonic() < end:
            model = await self.upload("Model", tiny_model(done))
            request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=dataset, spec=FAST)
            audit = await self.call("CreateAudit", self.audits, request)
            started = time.perf_counter()
            states = [e.state async for e in self.audits.WatchAudit(audit_pb2.WatchAuditRequest(id=audit.id))]
            self.seconds["an audit to its end"].append(time.perf_counter() - started)
            assert states[-1] == "succeeded", states
            for _ in range(5):
                await self.call("GetAudit", self.audits, audit_pb2.GetAuditRequest(id=audit.id))
                await self.call("ListAudits", self.audits, audit_pb2.ListAuditsRequest(page_size=20))
            await self.call("DeleteModel", self.models, model_pb2.DeleteModelRequest(sha256=model))
            done += 1
        return done


class _Signed:
    def __init__(self, stub: Any, headers: Headers) -> None:
        self._stub, self._headers = stub, headers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._stub, name)
        return lambda request, **options: method(request, metadata=self._headers, **options)


def highest_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def token(path: Path, owner: str) -> Headers:
    command = [sys.executable, "-m", "lieaudit_server", "token", "add", "--tokens-file", str(path), "--owner", owner]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    return (("authorization", f"Bearer {made.stdout.strip()}"),)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def drive(target: str, pid: int, abusive: Headers, other: Headers) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        quiet, attacked = Tenant(channel, other), Tenant(channel, other)
        await quiet.work(time.monotonic() + min(SECONDS, 20))
        command = [sys.executable, "-m", "bench._attack", target]
        attack = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert attack.stdin is not None
        attack.stdin.write(f"{abusive[0][1]}\n".encode())
        await asyncio.sleep(5)
        started, cpu = time.monotonic(), cpu_seconds(pid)
        done = await attacked.work(time.monotonic() + SECONDS)
        share = (cpu_seconds(pid) - cpu) / (time.monotonic() - started)
        attack.send_signal(signal.SIGTERM)
        said = json.loads((await attack.communicate())[0])
    print(f"{SECONDS:g} s of attack: {done} audits of the other tenant succeeded; milliseconds at the client")
    print(f"{'call':24}{'n':>6}{'quiet p50':>12}{'attacked p50':>14}{'p99':>10}")
    for name in sorted(attacked.seconds):
        before, after = quiet.seconds[name], attacked.seconds[name]
        middle = quantile(before, 0.5) if before else "-"
        print(f"{name:24}{len(after):6}{middle:>12}{quantile(after, 0.5):>14}{quantile(after, 0.99):>10}")
    refused, errors = dict(attacked.refusals) or "none", dict(attacked.errors) or "none"
    print(f"refused of the other tenant: {refused}; errors: {errors}")
    print(f"server: {resident_mib(pid):.0f} MiB, at most {highest_mib(pid):.0f}; {share:.2f} CPUs without its workers")
    print(f"the attacker's calls: {said['ends']}; {said['cpu_seconds']:.0f} CPU seconds")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        abusive, other = token(folder / "tokens", "abusive"), token(folder / "tokens", "other")
        server, target = serve(folder)
        try:
            asyncio.run(drive(target, server.pid, abusive, other))
        finally:
            end(server, folder / "log")


def serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a server for the tokens in a folder; give it and its target."""
    command = [sys.executable, "-X", "faulthandler", "-m", "lieaudit_server", "serve"]
    command += ["--data-dir", f"{folder}/data", "--listen", "127.0.0.1:0", "--tokens-file", f"{folder}/tokens"]
    command += ["--threads-per-audit", "1", "--min-free-bytes", "0"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().removeprefix("ready ").strip()


def end(server: subprocess.Popen[str], log: Path) -> None:
    """Stop the server; where it does not end, print where its threads are and kill it."""
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGABRT)
        server.wait()
        print(f"the server had not ended {_STOP_SECONDS:g} s after SIGTERM:\n{log.read_text()[-8000:]}")
