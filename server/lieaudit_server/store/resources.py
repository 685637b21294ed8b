"""Models, data sets and uploads in the state. All functions run inside `Database.run`."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lieaudit_server.errors import ServiceError
from lieaudit_server.store import garbage, sidecars
from lieaudit_server.store.folder import Folder, sync_directory
from lieaudit_server.store.sidecars import blob_sidecar


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
    """Return up to ``size`` resources, newest first, with numbers below ``before``."""
    rows = db.execute(
        _SELECT + "WHERE r.kind = ? AND (? IS NULL OR r.owner = ?) AND r.number < ? ORDER BY r.number DESC LIMIT ?",
        (kind, owner, owner, before, size),
    )
    return [_resource(row) for row in rows]


def used_bytes(db: sqlite3.Connection, owner: str) -> int:
    """Return the bytes of an owner's models, data sets, reports and (in full) uploads under way."""
    row = db.execute(
        "SELECT (SELECT coalesce(sum(size), 0) FROM blobs WHERE sha256 IN"
        " (SELECT sha256 FROM resources WHERE owner = :o))"
        " + (SELECT coalesce(sum(size), 0) FROM uploads WHERE owner = :o)"
        " + (SELECT coalesce(sum(report_bytes), 0) FROM audits WHERE owner = :o)",
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


def count_uploads(db: sqlite3.Connection, owner: str) -> int:
    """Count an owner's half-done uploads."""
    return int(db.execute("SELECT count(*) FROM uploads WHERE owner = ?", (owner,)).fetchone()[0])


def begin_upload(db: sqlite3.Connection, upload: Upload) -> None:
    """Remember a new upload."""
    db.execute(
        "INSERT INTO uploads (owner, kind, sha256, size, committed, file, touched) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (upload.owner, upload.kind, upload.sha256, upload.size, upload.committed, upload.file, time.time()),
    )


def commit_upload(db: sqlite3.Connection, file: str, committed: int) -> None:
    """Remember that the first ``committed`` bytes are durable."""
    db.execute("UPDATE uploads SET committed = ?, touched = ? WHERE file = ?", (committed, time.time(), file))


def drop_upload(db: sqlite3.Connection, folder: Folder, file: str) -> None:
    """Forget an upload. Its file goes at once, and what was linked into place for it and never committed goes too."""
    row = db.execute("DELETE FROM uploads WHERE file = ? RETURNING owner, kind, sha256", (file,)).fetchone()
    if row is None:
        return
    gone = [folder.partial / file]
    if not db.execute("SELECT 1 FROM resources WHERE (owner, kind, sha256) = (?, ?, ?)", tuple(row)).fetchone():
        gone.append(blob_sidecar(folder, row["sha256"], row["kind"], row["owner"]))
    if not db.execute(
        "SELECT 1 FROM blobs WHERE sha256 = :s UNION SELECT 1 FROM uploads WHERE sha256 = :s", {"s": row["sha256"]}
    ).fetchone():
        gone.append(folder.blob(row["sha256"]))
    garbage.add(db, folder, gone, at_once=True)


def finish_upload(
    db: sqlite3.Connection, folder: Folder, upload: Upload, *, name: str, format_: str, details: Mapping[str, Any]
) -> Resource:
    """Turn a whole, checked upload into a blob and a resource of its owner.

    The blob is a hard link to the partial file, and the latter goes only after the commit: killed in between, the
    server finds the upload as it had promised it, and a blob that is known to be on its way.
    """
    target = folder.blob(upload.sha256)
    sidecar = blob_sidecar(folder, upload.sha256, upload.kind, upload.owner)
    known = db.execute("SELECT damaged FROM blobs WHERE sha256 = ?", (upload.sha256,)).fetchone()
    now = time.time()
    target.parent.mkdir(mode=0o700, exist_ok=True)
    if known is None or known["damaged"] or not is_there(target, upload.size):
        aside = folder.scratch / f"blob-{secrets.token_hex(8)}"
        os.link(folder.partial / upload.file, aside)
        aside.replace(target)
    resource = Resource(
        0, upload.owner, upload.kind, upload.sha256, name, format_, now, upload.size, damaged=False, details=details
    )
    describe(folder, resource)
    sync_directory(folder.blobs)
    enter(db, resource)
    garbage.take_back(db, folder, (target, sidecar))
    drop_upload(db, folder, upload.file)
    stored = find(db, upload.kind, upload.sha256, upload.owner)
    if stored is None:
        raise ServiceError("INTERNAL", "the upload vanished while it was stored", reason="INTERNAL")
    return stored


def enter(db: sqlite3.Connection, resource: Resource) -> None:
    """Take a resource and its blob into the state; the blob is whole from now on."""
    db.execute(
        "INSERT INTO blobs (sha256, size, created) VALUES (?, ?, ?) ON CONFLICT (sha256) DO UPDATE SET damaged = 0",
        (resource.sha256, resource.size, resource.created),
    )
    db.execute(
        "INSERT INTO resources (owner, kind, sha256, name, format, created, used, details)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (owner, kind, sha256) DO NOTHING",
        (
            resource.owner,
            resource.kind,
            resource.sha256,
            resource.name,
            resource.format,
            resource.created,
            time.time(),
            json.dumps(resource.details),
        ),
    )


def describe(folder: Folder, resource: Resource) -> None:
    """Write the sidecar of a resource; the folder of its blob is synced."""
    values = {name: value for name, value in asdict(resource).items() if name not in {"number", "damaged"}}
    sidecars.write(folder, blob_sidecar(folder, resource.sha256, resource.kind, resource.owner), values)


def is_there(path: Path, size: int) -> bool:
    """Whether a file of this size is there: what can be asked before each use at no cost."""
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def digest_is(path: Path, sha256: str) -> bool:
    """Whether a file has this checksum."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def delete(db: sqlite3.Connection, folder: Folder, resource: Resource) -> None:
    """Delete a resource as its owner asks; `garbage.sweep` deletes the files after the commit.

    A blob stays while another owner or an unfinished audit needs it.
    """
    db.execute(
        "DELETE FROM resources WHERE owner = ? AND kind = ? AND sha256 = ?",
        (resource.owner, resource.kind, resource.sha256),
    )
    sidecar = blob_sidecar(folder, resource.sha256, resource.kind, resource.owner)
    garbage.add(db, folder, [sidecar], at_once=True)
    collect(db, folder, at_once=True)


def touch(db: sqlite3.Connection, sha256s: tuple[str, ...]) -> None:
    """Remember that these resources were used now."""
    for sha256 in sha256s:
        db.execute("UPDATE resources SET used = ? WHERE sha256 = ?", (time.time(), sha256))


def mark_damaged(db: sqlite3.Connection, sha256: str) -> None:
    """Remember that a blob's content is not what its name says; a new upload replaces it."""
    db.execute("UPDATE blobs SET damaged = 1 WHERE sha256 = ?", (sha256,))


def collect(db: sqlite3.Connection, folder: Folder, *, at_once: bool) -> int:
    """Forget the blobs that no resource and no unfinished audit refers to; give their number."""
    rows = db.execute(
        "SELECT sha256 FROM blobs WHERE sha256 NOT IN (SELECT sha256 FROM resources) AND sha256 NOT IN "
        "(SELECT sha256 FROM audit_blobs)"
    ).fetchall()
    for row in rows:
        db.execute("DELETE FROM blobs WHERE sha256 = ?", (row["sha256"],))
    garbage.add(db, folder, [folder.blob(row["sha256"]) for row in rows], at_once=at_once)
    return len(rows)
