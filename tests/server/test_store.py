"""The state and the data folder: grouped commits, migrations, the lock, tidying, retention, the doctor."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time

import grpc
import pytest
from lieaudit_api.v1 import audit_pb2, dataset_pb2, model_pb2, upload_pb2
from lieaudit_server.config import Config
from lieaudit_server.doctor import examine, settle
from lieaudit_server.errors import ConfigError, is_disk_full
from lieaudit_server.maintenance import Maintenance
from lieaudit_server.metrics import Metrics
from lieaudit_server.scheduling.fairness import order
from lieaudit_server.scheduling.journal import Journal
from lieaudit_server.scheduling.slots import Slots
from lieaudit_server.store import meta, schema
from lieaudit_server.store.audits import Audit, finish
from lieaudit_server.store.database import Database, connect
from lieaudit_server.store.folder import Folder


def test_operations_that_wait_together_commit_together_and_fail_alone(tmp_path):
    async def run():
        database = Database(tmp_path / "state.sqlite")
        await database.run(lambda db: db.execute("CREATE TABLE t (i INTEGER PRIMARY KEY)") and None)

        def insert(i):
            def operation(db):
                db.execute("INSERT INTO t VALUES (?)", (i,))
                if i % 10 == 3:
                    raise ValueError(i)
                return i

            return operation

        results = await asyncio.gather(*(database.run(insert(i)) for i in range(100)), return_exceptions=True)
        rows = await database.run(lambda db: [row["i"] for row in db.execute("SELECT i FROM t ORDER BY i")])
        database.close()
        return results, rows

    results, rows = asyncio.run(run())
    assert rows == [i for i in range(100) if i % 10 != 3]
    assert [isinstance(r, ValueError) for r in results] == [i % 10 == 3 for i in range(100)]


def test_a_full_disk_is_an_error_for_the_caller_and_nothing_is_half_written(tmp_path):
    async def run():
        database = Database(tmp_path / "state.sqlite")
        await database.run(lambda db: db.execute("CREATE TABLE t (x TEXT)") and None)
        # SQLite's own limit gives the same error as a disk without space.
        await database.run(lambda db: db.execute("PRAGMA max_page_count = 60").fetchone() and None)
        with pytest.raises(sqlite3.OperationalError) as caught:
            await database.run(lambda db: db.execute("INSERT INTO t VALUES (?)", ("x" * 10**6,)) and None)
        count = await database.run(lambda db: db.execute("SELECT count(*) FROM t").fetchone()[0])
        await database.run(lambda db: db.execute("INSERT INTO t VALUES ('small')") and None)
        database.close()
        return caught.value, count

    problem, count = asyncio.run(run())
    assert is_disk_full(problem)
    assert count == 0


def test_migrations_run_once_each_and_a_newer_state_is_refused(tmp_path):
    path = tmp_path / "state.sqlite"
    db = connect(path)
    assert schema.migrate(db) == 0
    db.execute("INSERT INTO blobs (sha256, size, created) VALUES ('a', 1, 0.0)")
    later = (*schema.MIGRATIONS, "ALTER TABLE blobs ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue';")
    assert schema.migrate(db, later) == len(schema.MIGRATIONS)
    assert schema.migrate(db, later) == len(later)
    assert db.execute("SELECT colour FROM blobs").fetchone()[0] == "blue"
    with pytest.raises(ConfigError, match="upgrade"):
        schema.migrate(db)
    broken = (*later, "CREATE TABLE half (x INTEGER); THIS IS NOT SQL;")
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(db, broken)
    db.rollback()
    assert db.execute("PRAGMA user_version").fetchone()[0] == len(later)
    assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'half'").fetchone()
    db.close()


def test_a_second_server_on_one_folder_is_refused(service):
    command = [sys.executable, "-m", "lieaudit_server", "serve", "--data-dir", str(service.data_dir)]
    second = subprocess.run(
        [*command, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 2
    assert f"process {service.pid}" in second.stderr
    with pytest.raises(ConfigError, match="another server"):
        Folder(service.data_dir).open()


def test_a_second_server_on_one_port_is_refused(service, tmp_path):
    command = [sys.executable, "-m", "lieaudit_server", "serve", "--data-dir", str(tmp_path / "other")]
    second = subprocess.run(
        [*command, "--listen", service.target], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 2
    assert "cannot be used" in second.stderr


def waiting(number, owner, threads=1):
    return Audit(
        number=number,
        id=str(number),
        owner=owner,
        state="queued",
        spec={},
        blobs={},
        threads=threads,
        device=None,
        deadline=1.0,
        attempts=0,
        created=0.0,
        finished=None,
        failure=None,
        sequence=0,
        idempotency_key=None,
        request_sha256="",
    )


def test_a_long_queue_of_one_owner_does_not_keep_others_waiting():
    queue = [waiting(i, "busy") for i in range(5)] + [waiting(10, "rare"), waiting(11, "new")]
    # nobody runs, busy was served last: the others come first, then they take turns
    assert [a.number for a in order(queue, {}, {"busy": 3, "rare": 1})][:4] == [11, 10, 0, 1]
    # busy already runs two
    assert [a.number for a in order(queue, {"busy": 2}, {})][:3] == [10, 11, 0]


def test_slots_give_each_cpu_and_each_gpu_once():
    slots = Slots([0, 1, 2, 3], [0, 1])
    first, second = slots.take(3, None), slots.take(2, None)
    assert (first.cpus, second) == ((0, 1, 2), None)
    third = slots.take(1, None)
    assert third.cpus == (3,)
    gpu = slots.take(1, 1)
    assert (gpu.device, slots.take(1, 1), slots.take(1, 7)) == (1, None, None)
    slots.give_back(first)
    slots.give_back(gpu)
    assert slots.take(99, None) is None  # needs all four, one is still held
    slots.give_back(third)
    assert slots.take(99, None).cpus == (0, 1, 2, 3)
    assert slots.take(1, 1).device == 1


@pytest.fixture
def used(start, kit):
    """The folder of a stopped server with a model, a data set, a finished audit and a half-done upload."""
    server = start()
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset()).sha256
    audit = server.finish(server.create(model, images, kit.FAST).id)
    half = kit.tiny_model(1, pad=2**22)
    with pytest.raises(grpc.RpcError):
        server.models.UploadModel(kit.messages(half, "onnx", end=2**21))
    assert server.stop() == 0
    return server, model, images, audit.id, kit.sha256(half)


def test_the_doctor_finds_and_repairs(used, start, kit):
    server, model, images, audit, _ = used
    root = server.data_dir
    assert examine(root, repair=False) == []
    blob = root / "blobs" / model[:2] / model
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    (root / "audits" / audit / "report.pb").write_bytes(b"\xff\xff\xff")
    (root / "audits" / "stray").mkdir()
    (root / "partial" / "stray").touch()
    os.truncate(next(p for p in (root / "partial").iterdir() if p.name != "stray"), 10)
    findings = examine(root, repair=False)
    assert len(findings) == 5
    assert [any(word in finding for finding in findings) for word in (model, audit, "upload")] == [True] * 3
    assert examine(root, repair=False) == findings  # looking changes nothing
    assert examine(root, repair=True) == findings
    left = [f for f in examine(root, repair=False) if "damaged" not in f]
    assert left == ["audits/stray: not in the state", "partial/stray: not in the state"]  # not without being told
    assert len(settle(root, keep=False)) == 2
    assert len(list((root / "quarantine").iterdir())) == 2
    assert [f for f in examine(root, repair=False) if "damaged" not in f] == []

    again = start()
    with pytest.raises(grpc.RpcError) as caught:
        again.create(model, images, kit.FAST)
    assert (caught.value.code().name, kit.reason_of(caught.value).reason) == ("DATA_LOSS", "BLOB_DAMAGED")
    failed = again.get(audit)
    assert (failed.state, failed.failure.reason) == ("failed", "REPORT_LOST")
    again.upload_model(kit.tiny_model())  # replaces the damaged content
    assert again.finish(again.create(model, images, kit.FAST).id).state == "succeeded"


def test_the_doctor_keeps_away_from_a_running_server(service, tmp_path):
    with pytest.raises(ConfigError, match="another server"):
        examine(service.data_dir, repair=True)
    with pytest.raises(ConfigError, match="holds no state"):
        examine(tmp_path, repair=True)


def test_a_blob_that_rots_fails_its_audit_and_is_replaced_by_the_next_upload(start, kit):
    server = start()
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset()).sha256
    blob = server.data_dir / "blobs" / images[:2] / images
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    failed = server.finish(server.create(model, images, kit.FAST).id)
    assert (failed.state, failed.failure.reason) == ("failed", "BLOB_DAMAGED")
    server.upload_dataset(kit.tiny_dataset())
    assert server.finish(server.create(model, images, kit.FAST).id).state == "succeeded"


def test_a_restarted_server_has_everything(used, start, kit):
    server, model, images, audit, half = used
    before = (server.data_dir / "audits" / audit / "report.pb").read_bytes()
    again = start()
    assert again.models.GetModel(model_pb2.GetModelRequest(sha256=model)).sha256 == model
    assert again.datasets.GetDataset(dataset_pb2.GetDatasetRequest(sha256=images)).image_count == 12
    assert again.report(audit) == before
    assert again.get(audit).state == "succeeded"
    status = again.models.GetUploadStatus(upload_pb2.UploadStatusRequest(sha256=half))
    assert status.committed_bytes == 2**21


def test_retention_deletes_what_is_old_and_nothing_that_is_needed(used):
    server, model, images, audit, _ = used
    folder = Folder(server.data_dir).open()
    blob = folder.blob(images)

    async def run():
        database = Database(folder.state)
        config = Config(data_dir=server.data_dir, retention_days=2, partial_retention_hours=24, quarantine_hours=10)
        maintenance = Maintenance(config, folder, database, Metrics())

        def count(db):
            tables = ("audits", "resources", "blobs", "uploads")
            return [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]  # noqa: S608

        def hold(db):  # as an unfinished audit does
            db.execute("UPDATE audits SET state = 'running', finished = NULL")
            db.execute("INSERT INTO audit_blobs VALUES (?, ?)", (audit, model))

        def release(db):
            finish(db, audit, "cancelled")

        async def pass_by(days, hours):
            """What the clock says, and how long the server has run since."""
            await database.run(lambda db: meta.add_uptime(db, 3600 * hours))
            await maintenance.run_once(time.time() + 86400 * days)
            return [*await database.run(count), blob.exists(), len(list(folder.quarantine.iterdir()))]

        counts = [await database.run(count)]
        for days, hours, prepare in (
            (1.5, 0, None),  # the upload is marked
            (1.5, 9, None),
            (0, 9, None),  # a reading says otherwise: it was never old
            (1.5, 1, None),
            (1.5, 11, None),  # the upload goes
            (3, 0, hold),
            (3, 11, None),  # and the images, into the quarantine
            (3, 0, release),
            (3, 11, None),  # the audit and its model; the quarantine of the images is over
            (3, 11, None),
        ):
            if prepare is not None:
                await database.run(prepare)
            counts.append(await pass_by(days, hours))
        database.close()
        return counts

    counts = asyncio.run(run())
    folder.close()
    assert counts[0] == [1, 2, 2, 1]
    assert counts[1:5] == [[1, 2, 2, 1, True, 0]] * 4
    assert counts[5:7] == [[1, 2, 2, 0, True, 0]] * 2
    assert counts[7] == [1, 1, 1, 0, False, 2]  # the running audit and its model stay; a blob and its sidecar wait
    assert counts[8] == [1, 1, 1, 0, False, 2]
    assert counts[9] == [0, 0, 0, 0, False, 3]
    assert counts[10] == [0, 0, 0, 0, False, 0]
    assert not (server.data_dir / "audits" / audit).exists()
    assert not folder.blob(images).exists()


def test_the_queue_is_bounded_and_says_when_to_come_back(start, kit):
    server = start(max_queued_per_owner="2", threads_per_audit="1", cpu_threads="1")
    blocker = server.create(*kit.slow_pair(server), kit.SLOW)
    next(event for event in server.watch(blocker.id) if event.stage)
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset()).sha256
    accepted = [server.create(model, images, kit.FAST).id for _ in range(2)]
    with pytest.raises(grpc.RpcError) as caught:
        server.create(model, images, kit.FAST)
    assert (caught.value.code().name, kit.reason_of(caught.value).reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    assert kit.retry_seconds(caught.value) > 0
    server.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=blocker.id))
    assert {server.finish(audit_id).state for audit_id in accepted} == {"succeeded"}


def test_a_watcher_that_is_gone_leaves_nothing_in_the_journal():
    async def run():
        journal = Journal()
        mine, others = journal.latch("audit"), journal.latch("audit")
        assert mine is others
        journal.notify("audit")
        assert mine.is_set()
        mine = journal.latch("audit")  # to read the last event, after which nobody notifies
        assert not mine.is_set()
        del mine, others
        return len(journal._latches)

    assert asyncio.run(run()) == 0
