"""Checks the data folder of a stopped server against what its state promises, and puts it right as asked."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from lieaudit_server.errors import ConfigError, DamagedFolderError
from lieaudit_server.maintenance import tidy
from lieaudit_server.store import adoption, audits, garbage, meta, resources, schema, sidecars
from lieaudit_server.store.audits import Failure, finish
from lieaudit_server.store.database import connect
from lieaudit_server.store.folder import Folder
from lieaudit_server.store.opening import damage_in_a_sentence, prepare
from lieaudit_server.store.reports import describe, digest
from lieaudit_server.store.strays import everything, strays


def examine(root: Path, *, repair: bool) -> list[str]:
    """Check the state, every blob's and report's checksum, sidecar and upload; one line for each finding.

    With ``repair``, damaged blobs are marked (a new upload of the same file replaces them), audits that lost their
    report are failed, missing sidecars are written, and what the state knows to be garbage goes. Files that the state
    does not know stay; see `settle`. Raises `ConfigError` where a server runs on the folder or there is none, and
    `DamagedFolderError` where the state is no good.
    """
    with _opened(root) as folder:
        prepare(folder)
        with damage_in_a_sentence(folder.state):
            return _change(folder, lambda db: _findings(db, folder, repair=repair), keep=repair)


def settle(root: Path, *, keep: bool) -> list[str]:
    """Decide about what the state does not know; one line for each thing done.

    ``keep``: blobs and reports with a sidecar are taken in again, and only the others set aside; else all of them are
    set aside. A state that is missing, damaged or another folder's is set aside too and made anew. Raises
    `ConfigError` where a server runs on the folder or there is none.
    """
    with _opened(root) as folder:
        done = []
        try:
            prepare(folder)
        except DamagedFolderError:
            done += _make_usable(folder)
        decide = adoption.adopt if keep else adoption.discard
        return done + _change(folder, lambda db: decide(db, folder), keep=True)


@contextlib.contextmanager
def _opened(root: Path) -> Iterator[Folder]:
    if not (root / "state.sqlite").exists() and not ((root / "blobs").is_dir() and everything(Folder(root))):
        raise ConfigError(f"data_dir: {root} holds no state")
    folder = Folder(root).open()
    try:
        yield folder
    finally:
        folder.close()


def _change(folder: Folder, work: Callable[[sqlite3.Connection], list[str]], *, keep: bool) -> list[str]:
    with contextlib.closing(connect(folder.state)) as db:
        db.execute("BEGIN IMMEDIATE")
        lines = work(db)
        db.execute("COMMIT" if keep else "ROLLBACK")
        if keep:
            garbage.sweep(db, folder)
    return lines


def _make_usable(folder: Folder) -> list[str]:
    with contextlib.suppress(sqlite3.Error, ConfigError), contextlib.closing(connect(folder.state)) as db:
        schema.migrate(db)
        known = meta.get(db, "identity")
        whole = db.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok"
        if known is not None and whole and adoption.restore_identity(folder, known):
            return ["identity: written again from the state"]
    return [adoption.begin_anew(folder)]


def _findings(db: sqlite3.Connection, folder: Folder, *, repair: bool) -> list[str]:
    findings = [*_state(db), *_blobs(db, folder), *_uploads(db, folder), *_reports(db, folder, repair=repair)]
    findings += _sidecars(db, folder, repair=repair)
    findings += [f"{folder.relative(path)}: not in the state" for path in strays(db, folder)]
    return findings + (tidy(db, folder) if repair else [])


def _state(db: sqlite3.Connection) -> list[str]:
    answers = [row[0] for row in db.execute("PRAGMA integrity_check")]
    broken = [tuple(row) for row in db.execute("PRAGMA foreign_key_check")]
    return [f"state: {answer}" for answer in answers if answer != "ok"] + [f"state: dangling {row}" for row in broken]


def _blobs(db: sqlite3.Connection, folder: Folder) -> list[str]:
    findings = []
    for row in db.execute("SELECT sha256, damaged FROM blobs").fetchall():
        problem = "marked as damaged" if row["damaged"] else _problem(folder.blob(row["sha256"]), row["sha256"])
        if problem:
            findings.append(f"blob {row['sha256']}: {problem}")
            resources.mark_damaged(db, row["sha256"])
    return findings


def _problem(path: Path, sha256: str) -> str:
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        return f"cannot be read: {problem.strerror}"
    return "" if actual == sha256 else "its content has changed"


def _uploads(db: sqlite3.Connection, folder: Folder) -> list[str]:
    findings = []
    for row in db.execute("SELECT file, committed FROM uploads").fetchall():
        path = folder.partial / row["file"]
        size = path.stat().st_size if path.exists() else 0
        if size < row["committed"]:
            findings.append(f"upload {row['file']}: {size} bytes of {row['committed']} committed ones are there")
            resources.drop_upload(db, folder, row["file"])
    return findings


def _reports(db: sqlite3.Connection, folder: Folder, *, repair: bool) -> list[str]:
    findings = []
    for audit in audits.succeeded(db):
        report, problem = audit.report, ""
        try:
            if report != audits.Kept(*digest(folder.report(audit.id))):
                problem = "its content has changed"
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        if problem or report is None:
            findings.append(f"report of audit {audit.id}: {problem}")
            db.execute("UPDATE audits SET state = 'running' WHERE id = ?", (audit.id,))
            finish(db, audit.id, "failed", Failure("REPORT_LOST", "its report was damaged on the server's disk"))
        elif (sidecars.read(sidecars.report_sidecar(folder, audit.id)) or {}).get("sha256") != report.sha256:
            findings.append(f"sidecar of audit {audit.id}: missing or damaged")
            if repair:
                describe(folder, audit, report)
    return findings


def _sidecars(db: sqlite3.Connection, folder: Folder, *, repair: bool) -> list[str]:
    findings = []
    for kind in ("model", "dataset"):
        for resource in resources.page(db, kind, None, 2**62, -1):
            path = sidecars.blob_sidecar(folder, resource.sha256, kind, resource.owner)
            if resource.damaged or (sidecars.read(path) or {}).get("sha256") == resource.sha256:
                continue
            findings.append(f"sidecar of {kind} {resource.sha256} of {resource.owner}: missing or damaged")
            if repair:
                resources.describe(folder, resource)
    return findings
