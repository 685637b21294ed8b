"""Deletion by age. No single reading of the clock deletes anything.

What the clock says is old is marked with the folder's uptime (`meta.uptime`). Each later reading that says otherwise
takes the mark away. What has kept its mark for the whole period of grace, of running time and not of the clock, goes to
the quarantine, where it stays for as long again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from lieaudit_server.store import garbage, meta, resources
from lieaudit_server.store.folder import Folder
from lieaudit_server.store.sidecars import blob_sidecar

_AGES = {
    "audits": "finished < :before",
    "resources": "used < :before AND sha256 NOT IN (SELECT sha256 FROM audit_blobs)",
    "uploads": "touched < :before",
}


def mark(db: sqlite3.Connection, table: str, before: float) -> int:
    """Mark the rows of a table that are older than ``before`` and unmark the others; give the number marked now."""
    old = _AGES[table]
    values = {"before": before, "uptime": meta.uptime(db)}
    db.execute(f"UPDATE {table} SET expiring = NULL WHERE expiring IS NOT NULL AND NOT coalesce({old}, 0)", values)  # noqa: S608
    return db.execute(f"UPDATE {table} SET expiring = :uptime WHERE expiring IS NULL AND {old}", values).rowcount  # noqa: S608


def retire(db: sqlite3.Connection, folder: Folder, table: str, grace_seconds: float) -> int:
    """Forget the rows whose mark is older than the period of grace; their files wait for `garbage.sweep`."""
    due = {"due": meta.uptime(db) - grace_seconds}
    rows = db.execute(f"SELECT * FROM {table} WHERE expiring <= :due", due).fetchall()  # noqa: S608
    for row in rows:
        _FORGET[table](db, folder, row)
    return len(rows)


def _audit(db: sqlite3.Connection, folder: Folder, row: sqlite3.Row) -> None:
    db.execute("DELETE FROM audits WHERE id = ?", (row["id"],))
    garbage.add(db, folder, [folder.audit(row["id"])], at_once=False)


def _resource(db: sqlite3.Connection, folder: Folder, row: sqlite3.Row) -> None:
    db.execute("DELETE FROM resources WHERE number = ?", (row["number"],))
    garbage.add(db, folder, [blob_sidecar(folder, row["sha256"], row["kind"], row["owner"])], at_once=False)


def _upload(db: sqlite3.Connection, folder: Folder, row: sqlite3.Row) -> None:
    resources.drop_upload(db, folder, row["file"])


_FORGET: dict[str, Callable[[sqlite3.Connection, Folder, sqlite3.Row], None]] = {
    "audits": _audit,
    "resources": _resource,
    "uploads": _upload,
}
