"""A data folder on a bad day: files deleted, truncated and flipped, a wrong clock. Nothing is forgotten or served."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from lieaudit_api.v1 import audit_pb2, dataset_pb2, gate_pb2, model_pb2, upload_pb2
from lieaudit_server.store import schema

POLICY = "version: 1\nrules:\n  - generator: rotation\n    limit: 1.0\n"
CLOCK = """
import time
_real = time.time
time.time = lambda: _real() + {days} * 86400
"""


@pytest.fixture
def used(start, kit):
    """A stopped server's folder with two models, a data set, and two reports."""
    server = start()
    model = server.upload_model(kit.tiny_model(), name="net.onnx").sha256
    other = server.upload_model(kit.tiny_model(1)).sha256
    images = server.upload_dataset(kit.tiny_dataset()).sha256
    audits = [server.finish(server.create(m, images, kit.FAST, idempotency_key=m[:8]).id) for m in (model, other)]
    reports = {audit.id: server.report(audit.id) for audit in audits}
    assert server.stop() == 0
    return server.data_dir, (model, other, images), reports


def files(root):
    """Return the files of blobs and audits with their content."""
    paths = [path for folder in ("blobs", "audits") for path in (root / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def command(*arguments, environment=None):
    run = [sys.executable, "-m", "lieaudit_server", *map(str, arguments)]
    env = {**os.environ, **(environment or {})}
    return subprocess.run(run, capture_output=True, text=True, timeout=60, check=False, env=env)


def refused_start(root):
    found = command("serve", "--data-dir", root, "--listen", "127.0.0.1:0")
    assert found.returncode == 2, found.stdout + found.stderr
    assert "Traceback" not in found.stderr
    return found.stderr


def flip(path, at=-20):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o600)
    path.write_bytes(bytes(data))


def remove_state(root):
    for path in root.glob("state.sqlite*"):
        path.unlink()


def empty_state(root):
    remove_state(root)
    (root / "state.sqlite").touch()


def state_without_tables(root):
    remove_state(root)
    sqlite3.connect(root / "state.sqlite").execute("VACUUM").connection.close()


def state_without_rows(root):
    remove_state(root)
    with contextlib.closing(sqlite3.connect(root / "state.sqlite", isolation_level=None)) as db:
        db.executescript("".join(schema.MIGRATIONS) + f"PRAGMA user_version = {len(schema.MIGRATIONS)};")


def state_of_noise(root):
    (root / "state.sqlite").write_bytes(os.urandom(20_000))


def truncated_state(root):
    path = root / "state.sqlite"
    os.truncate(path, path.stat().st_size // 2)


def flipped_page(root):
    """The root page of a table is overwritten, so that nothing notices before the table is read."""
    with contextlib.closing(sqlite3.connect(root / "state.sqlite")) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'audits'").fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    with (root / "state.sqlite").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 64)


LOST = [remove_state, empty_state, state_without_tables, state_without_rows]
DAMAGED = [state_of_noise, truncated_state, flipped_page]


@pytest.mark.parametrize("harm", [*LOST, *DAMAGED])
def test_a_state_that_is_lost_or_damaged_costs_nothing_and_is_made_again(used, start, kit, harm):
    root, (model, other, images), reports = used
    before = files(root)
    harm(root)
    assert "nothing was deleted" in refused_start(root)
    looked = command("doctor", "--data-dir", root)
    assert looked.returncode == 1
    assert "--adopt" in looked.stdout
    assert "Traceback" not in looked.stderr
    assert command("doctor", "--data-dir", root, "--repair").returncode == 1
    assert files(root) == before

    adopted = command("doctor", "--data-dir", root, "--adopt")
    assert adopted.returncode == 0, adopted.stdout + adopted.stderr
    assert files(root) == before
    again = start()
    assert again.models.GetModel(model_pb2.GetModelRequest(sha256=model)).name == "net.onnx"
    assert again.datasets.GetDataset(dataset_pb2.GetDatasetRequest(sha256=images)).image_count == 12
    assert {audit_id: again.report(audit_id) for audit_id in reports} == reports
    assert [event.state for event in again.watch(next(iter(reports)))][-1] == "succeeded"
    known = again.create(other, images, kit.FAST, idempotency_key=other[:8])
    assert known.id in reports  # the same key and request give the same audit, still
    again.audits.ListAudits(audit_pb2.ListAuditsRequest())
    assert again.finish(again.create(model, images, {**kit.FAST, "seed": 1}).id).state == "succeeded"


def test_an_operator_may_begin_anew_and_the_files_wait_in_quarantine(used, start, kit):
    root, _, _ = used
    count = len(list((root / "blobs").glob("*/*"))) + 2
    remove_state(root)
    discarded = command("doctor", "--data-dir", root, "--discard")
    assert discarded.returncode == 0, discarded.stdout
    assert discarded.stdout.count("set aside") == count + 1  # and what was left of the state
    again = start()
    assert not again.models.ListModels(model_pb2.ListModelsRequest()).models
    again.stop()
    assert len(list((root / "quarantine").iterdir())) == count + 1


def test_what_has_no_sidecar_is_set_aside_and_what_has_a_damaged_blob_says_so(used, start, kit):
    root, (model, other, images), reports = used
    remove_state(root)
    for path in (root / "blobs" / other[:2]).glob(f"{other}.*.json"):
        path.unlink()
    flip(root / "blobs" / model[:2] / model)
    first, second = reports
    (root / "audits" / first / "report.json").write_text("{}")
    flip(root / "audits" / second / "report.pb")
    adopted = command("doctor", "--data-dir", root, "--adopt")
    assert adopted.returncode == 1, adopted.stdout
    assert f"{model} of local: adopted as damaged" in adopted.stdout
    assert adopted.stdout.count("in the quarantine") == 3
    again = start()
    for missing in reports:
        with pytest.raises(grpc.RpcError) as caught:
            again.get(missing)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        again.create(model, images, kit.FAST)
    assert kit.reason_of(caught.value).reason == "BLOB_DAMAGED"
    assert again.upload_model(kit.tiny_model()).sha256 == model
    assert again.finish(again.create(model, images, kit.FAST).id).state == "succeeded"


def test_another_folders_state_is_refused_and_a_lost_identity_is_written_again(used, start, tmp_path):
    root, _, reports = used
    identity = (root / "identity").read_text()
    (root / "identity").unlink()
    assert "identity is missing" in refused_start(root)
    adopted = command("doctor", "--data-dir", root, "--adopt")
    assert adopted.returncode == 0, adopted.stdout
    assert (root / "identity").read_text() == identity
    other = start("other")
    other.stop()
    kept = tmp_path / "kept"
    (root / "state.sqlite").rename(kept)
    shutil.copy(other.data_dir / "state.sqlite", root / "state.sqlite")
    assert "another folder's" in refused_start(root)
    assert command("doctor", "--data-dir", root, "--adopt").returncode == 0
    again = start()
    assert {audit_id: again.report(audit_id) for audit_id in reports} == reports


def test_files_that_the_state_does_not_know_stay_until_an_operator_decides(used, start, kit):
    root, _, _ = used
    for path in (root / "blobs" / "ab" / ("ab" * 32), root / "partial" / "unknown", root / "audits" / "unknown" / "x"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"somebody's")
    before = files(root)
    again = start()
    assert again.log().count("is not in the state") == 3
    again.stop()
    assert files(root) == before
    assert (root / "partial" / "unknown").exists()
    assert command("doctor", "--data-dir", root).stdout.count("not in the state") == 3
    assert command("doctor", "--data-dir", root, "--adopt").returncode == 0
    assert len(list((root / "quarantine").iterdir())) == 3


def test_a_wrong_clock_deletes_nothing(used, start, tmp_path):
    root, (model, _, _), reports = used
    before = files(root)
    plants = tmp_path / "plants"
    plants.mkdir()
    (plants / "sitecustomize.py").write_text(CLOCK.format(days=4000))
    settings = {"retention_days": "30", "partial_retention_hours": "1"}
    wrong = start(environment={"PYTHONPATH": str(plants)}, **settings)
    assert "old by the clock" in wrong.log()
    assert wrong.report(next(iter(reports)))
    wrong.stop()
    assert files(root) == before
    again = start(**settings)
    assert again.models.GetModel(model_pb2.GetModelRequest(sha256=model)).sha256 == model
    again.stop()
    with contextlib.closing(sqlite3.connect(root / "state.sqlite")) as db:
        for table in ("audits", "resources"):  # a right reading takes the marks away
            assert not db.execute(f"SELECT * FROM {table} WHERE expiring IS NOT NULL").fetchall()  # noqa: S608


def as_version_1(root):
    """Turn a folder into one that a server of the first version wrote."""
    path = root / "state.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        tables = {
            table: [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            for table in ("blobs", "resources", "uploads", "audits", "audit_blobs", "events")
        }
        rows = {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}  # noqa: S608
    remove_state(root)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(schema.MIGRATIONS[0] + "PRAGMA user_version = 1;")
        for table, names in tables.items():
            old = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            for row in rows[table]:
                values = dict(zip(names, row, strict=True))
                marks = ", ".join("?" * len(old))
                db.execute(f"INSERT INTO {table} VALUES ({marks})", [values[name] for name in old])  # noqa: S608
    shutil.rmtree(root / "quarantine")
    (root / "identity").unlink()
    for path in [*root.glob("blobs/*/*.json"), *root.glob("audits/*/report.json")]:
        path.unlink()


def test_a_folder_of_the_first_version_is_taken_over_with_everything(used, start, kit):
    root, (model, other, images), reports = used
    before = files(root)
    as_version_1(root)
    (root / "blobs" / other[:2] / other).unlink()
    again = start()
    assert {audit_id: again.report(audit_id) for audit_id in reports} == reports
    with pytest.raises(grpc.RpcError) as caught:
        again.create(other, images, kit.FAST)
    assert kit.reason_of(caught.value).reason == "BLOB_DAMAGED"
    again.upload_model(kit.tiny_model(1))
    again.stop()
    assert files(root).keys() == before.keys()
    assert command("doctor", "--data-dir", root).returncode == 0
    kept = root / "quarantine" / "state-version-1.sqlite"
    with contextlib.closing(sqlite3.connect(kept)) as db:
        assert db.execute("SELECT count(*) FROM audits").fetchone()[0] == 2
    remove_state(root)  # and its new sidecars hold
    assert command("doctor", "--data-dir", root, "--adopt").returncode == 0
    third = start()
    assert {audit_id: third.report(audit_id) for audit_id in reports} == reports
    assert third.models.GetModel(model_pb2.GetModelRequest(sha256=model)).name == "net.onnx"


def test_an_old_state_without_rows_is_not_taken_for_a_new_folder(used):
    root, _, _ = used
    remove_state(root)
    before = files(root)
    with contextlib.closing(sqlite3.connect(root / "state.sqlite", isolation_level=None)) as db:
        db.executescript(schema.MIGRATIONS[0] + "PRAGMA user_version = 1;")
    assert "missing or empty" in refused_start(root)
    assert files(root) == before


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: os.truncate(path, 10)], ids=["deleted", "truncated"])
def test_a_lost_blob_is_noticed_before_it_is_used_and_the_owner_repairs_it(start, kit, harm):
    server = start()
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset()).sha256
    blob = server.data_dir / "blobs" / model[:2] / model
    harm(blob)
    calls = (
        lambda: server.create(model, images, kit.FAST),
        lambda: server.models.InspectModel(model_pb2.InspectModelRequest(sha256=model)),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert (caught.value.code().name, kit.reason_of(caught.value).reason) == ("DATA_LOSS", "BLOB_DAMAGED")
    assert not server.models.GetUploadStatus(upload_pb2.UploadStatusRequest(sha256=model)).complete
    server.upload_model(kit.tiny_model())
    assert kit.sha256(blob.read_bytes()) == model
    assert server.finish(server.create(model, images, kit.FAST).id).state == "succeeded"


def test_a_blob_lost_while_its_audit_waits_fails_that_audit_by_name(start, kit):
    server = start(threads_per_audit="1", cpu_threads="1")
    blocker = server.create(*kit.slow_pair(server), kit.SLOW)
    next(event for event in server.watch(blocker.id) if event.stage)
    model = server.upload_model(kit.tiny_model()).sha256
    images = server.upload_dataset(kit.tiny_dataset()).sha256
    waiting = server.create(model, images, kit.FAST)
    (server.data_dir / "blobs" / images[:2] / images).unlink()
    server.audits.CancelAudit(audit_pb2.CancelAuditRequest(id=blocker.id))
    ended = server.finish(waiting.id)
    assert (ended.state, ended.failure.reason) == ("failed", "BLOB_DAMAGED")
    server.upload_dataset(kit.tiny_dataset())
    assert server.finish(server.create(model, images, kit.FAST).id).state == "succeeded"


def test_a_flipped_bit_that_only_an_inspection_meets_is_marked_too(start, kit):
    server = start()
    model = server.upload_model(kit.tiny_model()).sha256
    flip(server.data_dir / "blobs" / model[:2] / model)
    with pytest.raises(grpc.RpcError) as caught:
        server.models.InspectModel(model_pb2.InspectModelRequest(sha256=model))
    assert kit.reason_of(caught.value).reason == "BLOB_DAMAGED"
    assert not server.models.GetUploadStatus(upload_pb2.UploadStatusRequest(sha256=model)).complete


@pytest.mark.parametrize("harm", [flip, Path.unlink, lambda p: os.truncate(p, 100)], ids=["flipped", "gone", "cut"])
def test_a_damaged_report_is_never_served(used, start, kit, harm):
    root, _, reports = used
    first, second = reports
    again = start()
    harm(root / "audits" / first / "report.pb")
    with pytest.raises(grpc.RpcError) as caught:
        again.report(first)
    assert caught.value.code() == grpc.StatusCode.DATA_LOSS
    assert kit.reason_of(caught.value).reason in {"REPORT_DAMAGED", "REPORT_LOST"}
    source = gate_pb2.ReportSource(audit_id=first)
    with pytest.raises(grpc.RpcError) as caught:
        again.audits.Evaluate(gate_pb2.EvaluateRequest(candidate=source, policy_yaml=POLICY))
    assert caught.value.code() == grpc.StatusCode.DATA_LOSS
    assert again.report(second) == reports[second]
    again.stop()
    looked = command("doctor", "--data-dir", root)
    assert looked.returncode == 1
    assert f"report of audit {first}" in looked.stdout


def test_a_half_done_upload_whose_file_is_lost_begins_again(start, kit):
    server = start()
    data = kit.tiny_model(1, pad=2**22)
    for harm in (Path.unlink, lambda path: os.truncate(path, 10)):
        with pytest.raises(grpc.RpcError):
            server.models.UploadModel(kit.messages(data, "onnx", end=2**21))
        (partial,) = (server.data_dir / "partial").iterdir()
        harm(partial)
        request = upload_pb2.UploadStatusRequest(sha256=kit.sha256(data))
        assert server.models.GetUploadStatus(request).committed_bytes == 0
    assert server.upload_model(data).sha256 == kit.sha256(data)


def test_a_state_deleted_while_the_server_runs_ends_it_in_a_sentence(start, kit):
    server = start()
    server.upload_model(kit.tiny_model())
    remove_state(server.data_dir)
    with pytest.raises(grpc.RpcError):
        server.upload_model(kit.tiny_model(1))  # not promised: nobody would find it again
    assert server.wait_exit() == 2
    assert "the state is damaged" in server.log()
    assert command("doctor", "--data-dir", server.data_dir, "--adopt").returncode == 0
    again = start()
    assert len(again.models.ListModels(model_pb2.ListModelsRequest()).models) == 1


def test_deleting_by_the_owner_leaves_nothing_behind(start, kit):
    server = start()
    model = server.upload_model(kit.tiny_model()).sha256
    server.models.DeleteModel(model_pb2.DeleteModelRequest(sha256=model))
    assert not list((server.data_dir / "blobs").glob("*/*"))
    assert not list((server.data_dir / "quarantine").iterdir())
    assert server.upload_model(kit.tiny_model()).sha256 == model
