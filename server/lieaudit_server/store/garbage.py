"""Files that nobody needs any more: the state names each before it is touched, and most wait in quarantine first.

A file goes in two steps, so that a kill between them loses and forgets nothing: the transaction that forgets what it
held enters its path here; `sweep`, after the commit, deletes it or moves it to the quarantine. A file that is neither
in use nor entered here is not ours to delete. All functions run inside `Database.run`.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from lieaudit_server.store import meta
from lieaudit_server.store.folder import Folder


def add(db: sqlite3.Connection, folder: Folder, paths: Iterable[Path], *, at_once: bool) -> None:
    """Enter files or folders that are needed no more.

    ``at_once``: deleted by whom they belonged to, or worth nothing; else they wait in quarantine.
    """
    for path in paths:
        db.execute(
            "INSERT INTO garbage (path, at_once) VALUES (?, ?) ON CONFLICT (path) WHERE quarantined IS NULL DO NOTHING",
            (folder.relative(path), at_once),
        )


def take_back(db: sqlite3.Connection, folder: Folder, paths: Iterable[Path]) -> None:
    """Say that these are in use again."""
    for path in paths:
        db.execute("DELETE FROM garbage WHERE path = ? AND quarantined IS NULL", (folder.relative(path),))


def known(db: sqlite3.Connection) -> set[str]:
    """Return the paths that are entered and not yet swept."""
    return {row["path"] for row in db.execute("SELECT path FROM garbage WHERE quarantined IS NULL")}


def sweep(db: sqlite3.Connection, folder: Folder) -> None:
    """Delete what goes at once, and move the rest to the quarantine."""
    for row in db.execute("SELECT number, path, at_once FROM garbage WHERE quarantined IS NULL").fetchall():
        path, aside = folder.root / row["path"], quarantined(folder, row["number"], row["path"])
        if row["at_once"]:
            _remove(path)
        elif path.exists():
            path.replace(aside)
        if aside.exists():
            db.execute("UPDATE garbage SET quarantined = ? WHERE number = ?", (meta.uptime(db), row["number"]))
        else:
            db.execute("DELETE FROM garbage WHERE number = ?", (row["number"],))


def over(db: sqlite3.Connection, grace_seconds: float) -> list[tuple[int, str]]:
    """Return the numbers and paths of what has been in quarantine for long enough, for `purge`."""
    rows = db.execute(
        "SELECT number, path FROM garbage WHERE quarantined <= ?", (meta.uptime(db) - grace_seconds,)
    ).fetchall()
    return [(row["number"], row["path"]) for row in rows]


def purge(folder: Folder, entries: Iterable[tuple[int, str]]) -> None:
    """Delete entries of the quarantine for good; needs no database, so that a large file keeps nobody waiting."""
    for number, path in entries:
        _remove(quarantined(folder, number, path))


def forget(db: sqlite3.Connection, entries: Iterable[tuple[int, str]]) -> None:
    """Strike out what `purge` deleted."""
    for number, _ in entries:
        db.execute("DELETE FROM garbage WHERE number = ?", (number,))


def quarantined(folder: Folder, number: int, path: str) -> Path:
    """Return the place of an entry in the quarantine."""
    return folder.quarantine / f"{number}-{Path(path).name}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
