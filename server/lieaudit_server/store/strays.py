"""Files of the data folder that the state does not know: said, and left alone until an operator decides."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from lieaudit_server.store import garbage
from lieaudit_server.store.folder import Folder
from lieaudit_server.store.sidecars import blob_sidecar


def strays(db: sqlite3.Connection, folder: Folder) -> list[Path]:
    """Return the blobs, sidecars, uploads and audits that lie in the folder and are not in the state.

    What an upload under way is about to become counts as known: it is linked into place before the commit.
    """
    known = garbage.known(db)
    known.update(folder.relative(folder.partial / row["file"]) for row in db.execute("SELECT file FROM uploads"))
    known.update(folder.relative(folder.audit(row["id"])) for row in db.execute("SELECT id FROM audits"))
    known.update(folder.relative(folder.blob(row["sha256"])) for row in db.execute("SELECT sha256 FROM blobs"))
    for table in ("uploads", "resources"):
        for row in db.execute(f"SELECT owner, kind, sha256 FROM {table}"):  # noqa: S608 - our own names
            known.add(folder.relative(folder.blob(row["sha256"])))
            known.add(folder.relative(blob_sidecar(folder, row["sha256"], row["kind"], row["owner"])))
    return [path for path in everything(folder) if folder.relative(path) not in known]


def everything(folder: Folder) -> list[Path]:
    """Return all blobs and sidecars, uploads and folders of audits, in order."""
    found = [*folder.blobs.glob("*/*"), *folder.partial.iterdir(), *folder.audits.iterdir()]
    return sorted(found)
