"""Models, data sets and uploads in the state. All functions run inside `Database.run`."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lieaudit_server.errors import ServiceError
from lieaudit_server.store.folder import Folder, sync_directory


@dataclass(frozen=True, slots=True)
class Resource:
    """A model or data set of one owner; ``details`` are what checking it found."""

    number: int
    owner: str
    kind: str
    sha256: str
    name: str
    format: str
    created: float
    size: int
    damaged: bool
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Upload:
    """A half-done upload: ``committed`` bytes of ``file`` (in the folder ``partial``) are durable."""

    owner: str
    kind: str
    sha256: str
    size: int
    committed: int
    file: str


_SELECT = (
    "SELECT r.number, r.owner, r.kind, r.sha256, r.name, r.format, r.created, b.size, b.damaged, r.details "
    "FROM resources r JOIN blobs b USING (sha256) "
)


def _resource(row: sqlite3.Row) -> Resource:
    values = dict(row)
    return Resource(**{**values, "damaged": bool(values["damaged"]), "details": json.loads(values["details"])})


def find(db: sqlite3.Connection, kind: str, sha256: str, owner: str | None) -> Resource | None:
    """Find a resource of the owner (None: of anybody)."""
    row = db.execute(
        _SELECT + "WHERE r.kind = ? AND r.sha256 = ? AND (? IS NULL OR r.owner = ?) ORDER BY r.number LIMIT 1",
        (kind, sha256, owner, owner),
    ).fetchone()
    return None if row is None else _resource(row)


def page(db: sqlite3.Connection, kind: str, owner: str | None, before: int, size: int) -> list[Resource]:
    """Give up to ``size`` resources, newest first, with numbers below ``before``."""
    rows = db.execute(
        _SELECT + "WHERE r.kind = ? AND (? IS NULL OR r.owner = ?) AND r.number < ? ORDER BY r.number DESC LIMIT ?",
        (kind, owner, owner, before, size),
    )
    return [_resource(row) for row in rows]


def used_bytes(db: sqlite3.Connection, owner: str) -> int:
    """Give the bytes of an owner's models, data sets and (in full) uploads under way."""
    row = db.execute(
        "SELECT (SELECT coalesce(sum(size), 0) FROM blobs WHERE sha256 IN"
        " (SELECT sha256 FROM resources WHERE owner = :o))"
        " + (SELECT coalesce(sum(size), 0) FROM uploads WHERE owner = :o)",
        {"o": owner},
    ).fetchone()
    return int(row[0])


def find_upload(db: sqlite3.Connection, owner: str, kind: str, sha256: str) -> Upload | None:
    """Find a half-done upload."""
    row = db.execute(
        "SELECT owner, kind, sha256, size, committed, file FROM uploads WHERE owner = ? AND kind = ? AND sha256 = ?",
        (owner, kind, sha256),
    ).fetchone()
    return None if row is None else Upload(**dict(row))


def begin_upload(db: sqlite3.Connection, upload: Upload) -> None:
    """Remember a new upload."""
    db.execute(
        "INSERT INTO uploads (owner, kind, sha256, size, committed, file, touched) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (upload.owner, upload.kind, upload.sha256, upload.size, upload.committed, upload.file, time.time()),
    )


def commit_upload(db: sqlite3.Connection, file: str, committed: int) -> None:
    """Remember that the first ``committed`` bytes are durable."""
    db.execute("UPDATE uploads SET committed = ?, touched = ? WHERE file = ?", (committed, time.time(), file))


def drop_upload(db: sqlite3.Connection, file: str) -> None:
    """Forget an upload; the caller deletes the file afterwards."""
    db.execute("DELETE FROM uploads WHERE file = ?", (file,))


def stale_uploads(db: sqlite3.Connection, before: float) -> list[Upload]:
    """Give the uploads not touched since ``before``."""
    rows = db.execute(
        "SELECT owner, kind, sha256, size, committed, file FROM uploads WHERE touched < ?", (before,)
    ).fetchall()
    return [Upload(**dict(row)) for row in rows]


def finish_upload(
    db: sqlite3.Connection, folder: Folder, upload: Upload, *, name: str, format_: str, details: Mapping[str, Any]
) -> Resource:
    """Turn a whole, checked upload into a blob and a resource of its owner.

    The blob is a hard link to the partial file, and the caller deletes the latter only after the commit: killed in
    between, the server finds the upload as it had promised it, and at worst a blob that nobody owns yet.
    """
    target = folder.blob(upload.sha256)
    known = db.execute("SELECT damaged FROM blobs WHERE sha256 = ?", (upload.sha256,)).fetchone()
    if known is None or known["damaged"] or not target.exists():
        target.parent.mkdir(mode=0o700, exist_ok=True)
        aside = target.with_name(target.name + ".part")
        aside.unlink(missing_ok=True)
        os.link(folder.partial / upload.file, aside)
        aside.replace(target)
        sync_directory(target.parent)
        sync_directory(folder.blobs)
    now = time.time()
    db.execute(
        "INSERT INTO blobs (sha256, size, created) VALUES (?, ?, ?) ON CONFLICT (sha256) DO UPDATE SET damaged = 0",
        (upload.sha256, upload.size, now),
    )
    db.execute(
        "INSERT INTO resources (owner, kind, sha256, name, format, created, used, details)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, kind, sha256) DO NOTHING",
        (upload.owner, upload.kind, upload.sha256, name, format_, now, now, json.dumps(details)),
    )
    drop_upload(db, upload.file)
    resource = find(db, upload.kind, upload.sha256, upload.owner)
    if resource is None:
        raise ServiceError("INTERNAL", "the upload vanished while it was stored", reason="INTERNAL")
    return resource


def delete(db: sqlite3.Connection, resource: Resource) -> list[str]:
    """Delete a resource; give the blobs to `discard` after the commit.

    A blob stays while another owner or an unfinished audit needs it.
    """
    db.execute(
        "DELETE FROM resources WHERE owner = ? AND kind = ? AND sha256 = ?",
        (resource.owner, resource.kind, resource.sha256),
    )
    return collect(db)


def touch(db: sqlite3.Connection, sha256s: tuple[str, ...]) -> None:
    """Remember that these resources were used now."""
    for sha256 in sha256s:
        db.execute("UPDATE resources SET used = ? WHERE sha256 = ?", (time.time(), sha256))


def mark_damaged(db: sqlite3.Connection, sha256: str) -> None:
    """Remember that a blob's content is not what its name says; a new upload replaces it."""
    db.execute("UPDATE blobs SET damaged = 1 WHERE sha256 = ?", (sha256,))


def collect(db: sqlite3.Connection) -> list[str]:
    """Forget the blobs that no resource and no unfinished audit refers to; give them, for `discard`."""
    rows = db.execute(
        "SELECT sha256 FROM blobs WHERE sha256 NOT IN (SELECT sha256 FROM resources) AND sha256 NOT IN "
        "(SELECT sha256 FROM audit_blobs)"
    ).fetchall()
    for row in rows:
        db.execute("DELETE FROM blobs WHERE sha256 = ?", (row["sha256"],))
    return [row["sha256"] for row in rows]


def discard(db: sqlite3.Connection, folder: Folder, sha256s: Iterable[str]) -> list[str]:
    """Delete the files of blobs that the committed state no longer holds; give those deleted.

    An operation of its own, after the commit that forgot them: what a kill undoes must still have its file. It runs
    in the database's thread, so that no upload takes up a blob meanwhile. Killed before it, the next start does it.
    """
    known = {row["sha256"] for row in db.execute("SELECT sha256 FROM blobs")}
    gone = [sha256 for sha256 in sha256s if sha256 not in known]
    for sha256 in gone:
        folder.blob(sha256).unlink(missing_ok=True)
    return gone
