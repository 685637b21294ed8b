"""How audits, watches and processes end: always, in the way that was promised, and no later than that."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import grpc
import pytest
from lieaudit_api.v1 import audit_pb2
from lieaudit_client import AsyncClient, Client

WATCHES = int(os.environ.get("LIEAUDIT_WATCHES", "600"))
WATCHERS = 12


def test_every_watch_ends_with_its_terminal_event(start, kit, say_counts):
    """Watchers come at random moments around the end of audits that are cancelled or run to their end."""
    server = start(threads_per_audit="1", max_queued="100000", max_queued_per_owner="100000")
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset(count=2)).sha256
    rng = random.Random(15)  # noqa: S311
    endings, lock = [], threading.Lock()

    def watch(audit_id, delay):
        time.sleep(delay)
        last = None
        for event in server.watch(audit_id):
            last = event.state
        with lock:
            endings.append(last)

    while len(endings) < WATCHES:
        audit = server.create(model, images, {**kit.FAST, "seed": rng.randrange(10**6)})
        delays = [rng.uniform(0.0, 0.03) for _ in range(WATCHERS)]
        watchers = [threading.Thread(target=watch, args=(audit.id, delay)) for delay in delays]
        for watcher in watchers:
            watcher.start()
        time.sleep(rng.uniform(0.0, 0.03))
        server.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=audit.id))
        for watcher in watchers:
            watcher.join()
    ended = server.finish(server.create(model, images, kit.FAST).id)
    late = [event.state for event in server.watch(ended.id, after=10**6)]  # as after a backup was put back
    assert late == ["succeeded"]
    assert not list(server.watch(ended.id, after=ended.progress.sequence))
    assert {*endings} <= {"cancelled", "succeeded"}, endings
    say_counts(f"{len(endings)} watches ended with the terminal event")


def test_a_deadline_is_for_the_audit_and_not_for_each_of_its_starts(start, kit):
    server = start()
    audit = server.create(*kit.slow_pair(server), kit.SLOW, deadline_seconds=3600)
    path = server.data_dir / "state.sqlite"

    def spent(value=None):
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            if value is not None:
                db.execute("UPDATE audits SET spent = ?", (value,))
            return db.execute("SELECT spent FROM audits").fetchone()[0]

    kit.wait_for(spent)
    server.kill()
    assert 0 < spent() < kit.SECONDS
    spent(3599.9)  # as if it had been killed after an hour
    again = start()
    ended = again.finish(audit.id)
    assert (ended.state, ended.failure.reason) == ("failed", "DEADLINE_EXCEEDED")


def test_a_watch_ends_when_its_token_is_revoked(start, kit, tmp_path):
    tokens = tmp_path / "tokens.json"

    def token(*arguments):
        run = [sys.executable, "-m", "lieaudit_server", "token", *arguments]
        return subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout

    def headers(owner):
        secret = token("add", "--tokens-file", str(tokens), "--owner", owner).strip()
        return (("authorization", f"Bearer {secret}"),)

    mine = headers("a")
    server = start(tokens_file=str(tokens))
    model = server.upload_model(kit.tiny_model(3, size=16), metadata=mine).sha256
    images = server.upload_dataset(kit.tiny_dataset(3, count=20_000, size=16), metadata=mine).sha256
    request = audit_pb2.CreateAuditRequest(model_sha256=model, dataset_sha256=images)
    audit = server.audits.CreateAudit(request, metadata=mine)
    watching = audit_pb2.WatchAuditRequest(id=audit.id)
    watch = server.audits.WatchAudit(watching, timeout=kit.SECONDS, metadata=mine)
    next(watch)
    again = headers("a")
    other = server.audits.WatchAudit(watching, timeout=kit.SECONDS, metadata=again)
    token("revoke", "--tokens-file", str(tokens), token("list", "--tokens-file", str(tokens)).split()[0])
    with pytest.raises(grpc.RpcError) as caught:
        list(watch)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    next(other)
    server.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=audit.id), metadata=again)
    assert [event.state for event in other][-1] == "cancelled"


@pytest.mark.slow
def test_a_fork_server_that_hangs_is_noticed_and_its_audits_go_on(start, kit):
    server = start()
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset(count=2000)).sha256
    created = server.create(model, images, kit.SLOW)
    next(event for event in server.watch(created.id) if event.done)
    first = server.fork_server
    os.kill(first, signal.SIGSTOP)
    assert server.upload_model(kit.tiny_model(1)).sha256  # waits until it has been noticed
    assert server.fork_server != first
    assert server.finish(created.id).state == "succeeded"


def test_a_worker_that_somebody_stops_is_started_again(start, kit):
    server = start()
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset(count=2000)).sha256
    created = server.create(model, images, kit.SLOW)
    next(event for event in server.watch(created.id) if event.done)
    (worker,) = server.workers()
    os.kill(worker, signal.SIGSTOP)
    messages = [event.message for event in server.watch(created.id) if event.state == "queued"]
    assert "SIGKILL" in messages[1]
    assert server.get(created.id).state == "succeeded"


@pytest.mark.slow
def test_a_stopped_server_goes_on_where_it_was(start, kit):
    server = start()
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset(count=2000)).sha256
    created = server.create(model, images, kit.SLOW)
    next(event for event in server.watch(created.id) if event.done)
    first = server.fork_server
    server.signal(signal.SIGSTOP)
    time.sleep(25)  # longer than the fork server may take to answer
    server.signal(signal.SIGCONT)
    states = [event.state for event in server.watch(created.id)]
    assert states[-1] == "succeeded"
    assert states.count("queued") == 1  # its worker was not interrupted
    assert server.fork_server == first


def pair(kit, tmp_path):
    model, data = tmp_path / "m.onnx", tmp_path / "x.npz"
    model.write_bytes(kit.tiny_model(3, size=16))
    data.write_bytes(kit.tiny_dataset(3, count=20_000, size=16))
    return model, data


def only_state(server, kit):
    def ended():
        audits = server.audits.ListAudits(audit_pb2.ListAuditsRequest()).audits
        return audits[0].state if len(audits) == 1 and audits[0].state not in {"queued", "running"} else None

    return kit.wait_for(ended)


def test_an_audit_of_the_library_that_is_cancelled_is_cancelled_on_the_server(start, kit, tmp_path):
    server = start()
    files = pair(kit, tmp_path)

    async def run():
        begun = asyncio.Event()
        async with AsyncClient(server.target) as client:
            task = asyncio.create_task(
                client.audit(*files, kit.SLOW, progress=lambda p: begun.set() if p.audit_id and p.done else None)
            )
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert only_state(server, kit) == "cancelled"


def test_the_same_in_the_synchronous_client(start, kit, tmp_path):
    server = start()

    def interrupted(progress):
        if progress.audit_id and progress.done:
            raise KeyboardInterrupt

    with Client(server.target) as client, pytest.raises(KeyboardInterrupt):
        client.audit(*pair(kit, tmp_path), kit.SLOW, progress=interrupted)
    assert only_state(server, kit) == "cancelled"


def test_an_audit_that_is_cancelled_while_it_is_created_does_not_run_either(start, kit, tmp_path):
    server = start()
    files = pair(kit, tmp_path)

    async def run():
        async with AsyncClient(server.target) as client:
            await client.upload_model(files[0])
            await client.upload_dataset(files[1])
            real = client._stubs["AuditService"].CreateAudit
            reached = asyncio.Event()

            def create(*arguments, **options):
                reached.set()
                return real(*arguments, **options)

            client._stubs["AuditService"].CreateAudit = create
            task = asyncio.create_task(client.audit(*files, kit.SLOW))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert only_state(server, kit) == "cancelled"
