"""What is asked before a state is used: is it whole, this folder's own, and does it know what lies there.

A server that starts on a folder whose state is gone would serve nothing and, tidying up, delete everything. It does not
start; `lieaudit-server doctor` puts it right.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from lieaudit_server.errors import DamagedFolderError
from lieaudit_server.store import meta, resources, schema, sidecars
from lieaudit_server.store.audits import Kept, succeeded
from lieaudit_server.store.database import StateLostError, connect, is_damage
from lieaudit_server.store.folder import Folder
from lieaudit_server.store.reports import describe, digest
from lieaudit_server.store.strays import everything, strays

_log = logging.getLogger(__name__)
_HELP = (
    "nothing was deleted. Put the backup of state.sqlite back, or run `lieaudit-server doctor --data-dir {root}` with "
    "--adopt (makes the state again from the files) or --discard (sets the files aside)"
)


@contextlib.contextmanager
def damage_in_a_sentence(path: Path) -> Iterator[None]:
    """Turn what SQLite says of a file that is no whole database into a `DamagedFolderError`."""
    try:
        yield
    except sqlite3.DatabaseError as problem:
        if not is_damage(problem):
            raise  # a full disk, a missing right: the file itself is not to blame
        raise DamagedFolderError(
            f"data_dir: {path} is damaged ({problem}); {_HELP.format(root=path.parent)}"
        ) from problem


def prepare(folder: Folder) -> list[Path]:
    """Check the state of an open folder, make or migrate it, and give the files that it does not know.

    Raises `DamagedFolderError` where the state is damaged, missing though the folder holds files, or another folder's.
    """
    is_new = not folder.state.exists() or folder.state.stat().st_size == 0
    if is_new:
        _refuse_files(folder, everything(folder))
    with damage_in_a_sentence(folder.state), contextlib.closing(connect(folder.state)) as db:
        _check_integrity(db)
        _save_before_migration(folder, db)
        schema.migrate(db)
        _check_identity(folder, db)
        unknown = strays(db, folder)
        if not db.execute("SELECT 1 FROM audits UNION SELECT 1 FROM resources UNION SELECT 1 FROM uploads").fetchone():
            _refuse_files(folder, unknown)
        if meta.get(db, "identity") is None:  # a new folder, or one from before folders had an identity
            meta.put(db, "identity", sidecars.identity(folder) or sidecars.new_identity(folder))
        if meta.get(db, "sidecars") is None:
            db.execute("BEGIN IMMEDIATE")
            describe_all(folder, db)
            meta.put(db, "sidecars", "1")
            db.execute("COMMIT")
        return unknown


def _check_integrity(db: sqlite3.Connection) -> None:
    answer = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if answer != "ok":
        raise StateLostError(str(answer).partition("\n")[0])


def _refuse_files(folder: Folder, unknown: list[Path]) -> None:
    if unknown:
        raise DamagedFolderError(
            f"data_dir: {folder.state} is missing or empty, but the folder holds {len(unknown)} files of models, data "
            f"sets and audits; {_HELP.format(root=folder.root)}"
        )


def _save_before_migration(folder: Folder, db: sqlite3.Connection) -> None:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if 0 < version < len(schema.MIGRATIONS):
        copy = folder.quarantine / f"state-version-{version}.sqlite"
        copy.unlink(missing_ok=True)
        db.execute("VACUUM INTO ?", (str(copy),))
        _log.info("the state before its migration is kept as %s", copy)


def _check_identity(folder: Folder, db: sqlite3.Connection) -> None:
    said, known = sidecars.identity(folder), meta.get(db, "identity")
    if known is not None and said != known:
        whose = f"the folder says {said}" if said else f"{folder.identity} is missing"
        raise DamagedFolderError(
            f"data_dir: the state is another folder's (it says {known}, {whose}); {_HELP.format(root=folder.root)}"
        )


def describe_all(folder: Folder, db: sqlite3.Connection) -> None:
    """Write the sidecars and checksums of a folder from before there were any. Killed half-way, it is done again."""
    for kind in ("model", "dataset"):
        for resource in resources.page(db, kind, None, 2**62, -1):
            if resources.is_there(folder.blob(resource.sha256), resource.size):
                resources.describe(folder, resource)
            else:
                resources.mark_damaged(db, resource.sha256)
    for audit in succeeded(db):
        try:
            kept = Kept(*digest(folder.report(audit.id)))
        except OSError:
            continue  # said where it is asked for, and by the doctor
        db.execute(
            "UPDATE audits SET report_sha256 = ?, report_bytes = ? WHERE id = ?", (kept.sha256, kept.size, audit.id)
        )
        describe(folder, audit, kept)
