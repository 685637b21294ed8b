"""Checks the data folder of a stopped server against what its state promises, and repairs it."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from lieaudit_server.conversions import parse_report
from lieaudit_server.errors import ConfigError
from lieaudit_server.maintenance import discard_orphans, tidy
from lieaudit_server.store import resources, schema
from lieaudit_server.store.audits import Failure, finish
from lieaudit_server.store.database import connect
from lieaudit_server.store.folder import Folder


def examine(root: Path, *, repair: bool) -> list[str]:
    """Check the state, every blob's checksum, every upload and every report; one line for each finding.

    With ``repair``, damaged blobs are marked (a new upload of the same file replaces them), audits that lost their
    report or their input are failed, and what belongs to nothing is removed. Raises `ConfigError` where a server runs
    on the folder or there is none.
    """
    if not (root / "state.sqlite").exists():
        raise ConfigError(f"data_dir: {root} holds no state")
    folder = Folder(root).open()
    try:
        db = connect(folder.state)
        try:
            schema.migrate(db)
            db.execute("BEGIN IMMEDIATE")
            findings = [*_state(db), *_blobs(db, folder), *_uploads(db, folder), *_reports(db, folder)]
            if repair:
                findings += tidy(db, folder)
                db.execute("COMMIT")
                findings += discard_orphans(db, folder)
            else:
                db.execute("ROLLBACK")
        finally:
            db.close()
    finally:
        folder.close()
    return findings


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
            resources.drop_upload(db, row["file"])
    return findings


def _reports(db: sqlite3.Connection, folder: Folder) -> list[str]:
    findings = []
    for row in db.execute("SELECT id FROM audits WHERE state = 'succeeded'").fetchall():
        try:
            parse_report(folder.report(row["id"]).read_bytes())
        except Exception as problem:  # noqa: BLE001 - whatever a damaged file makes of itself
            findings.append(f"report of audit {row['id']}: {type(problem).__name__}")
            db.execute("UPDATE audits SET state = 'running' WHERE id = ?", (row["id"],))
            finish(db, row["id"], "failed", Failure("REPORT_LOST", "its report was damaged on the server's disk"))
    return findings
