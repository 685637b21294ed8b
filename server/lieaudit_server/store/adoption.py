"""What an operator may decide about files that the state does not know: take them in again, or set them aside."""

from __future__ import annotations

import dataclasses
import secrets
import sqlite3
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lieaudit_server.store import audits, garbage, meta, reports, resources, schema, sidecars
from lieaudit_server.store.audits import Audit, Kept
from lieaudit_server.store.database import connect
from lieaudit_server.store.folder import Folder
from lieaudit_server.store.resources import Resource
from lieaudit_server.store.strays import strays


def begin_anew(folder: Folder) -> str:
    """Set a state that cannot be used aside and make an empty one in its place; say where the old one is."""
    aside = folder.quarantine / f"state-{secrets.token_hex(4)}"
    aside.mkdir(mode=0o700)
    for suffix in ("", "-wal", "-shm"):
        path = folder.state.with_name(folder.state.name + suffix)
        if path.exists():
            path.replace(aside / path.name)
    db = connect(folder.state)
    try:
        schema.migrate(db)
        meta.put(db, "identity", sidecars.identity(folder) or sidecars.new_identity(folder))
        meta.put(db, "sidecars", "1")
    finally:
        db.close()
    return f"state: set aside in {folder.relative(aside)}, a new one was made"


def restore_identity(folder: Folder, identity: str) -> bool:
    """Write the file of the folder's identity again where it is missing and no sidecar speaks against it."""
    if sidecars.identity(folder):
        return False
    paths = [*folder.blobs.glob("*/*.json"), *folder.audits.glob("*/report.json")]
    said = {str(values.get("identity")) for path in paths if (values := sidecars.read(path)) is not None}
    if said - {identity}:
        return False
    sidecars.write_identity(folder, identity)
    return True


def adopt(db: sqlite3.Connection, folder: Folder) -> list[str]:
    """Take blobs and reports that have a sidecar into the state, and set the other files aside; say what was done.

    `garbage.sweep` comes after the commit.
    """
    done, rest = [], []
    unknown = strays(db, folder)
    for path in unknown:
        if path.parent.parent == folder.blobs and path.suffix == ".json":
            resource = _resource(folder, path)
            if resource is None:
                rest.append(path)
            else:
                whole = resources.digest_is(folder.blob(resource.sha256), resource.sha256)
                resources.enter(db, resource)
                if not whole:
                    resources.mark_damaged(db, resource.sha256)
                state = "adopted" if whole else "adopted as damaged: its owner has to upload it again"
                done.append(f"{resource.kind} {resource.sha256} of {resource.owner}: {state}")
        elif path.parent == folder.audits:
            audit = _audit(folder, path)
            if audit is None or audits.find(db, audit.id, None) is not None:
                rest.append(path)
            else:
                audits.adopt(db, _without_taken_key(db, audit))
                done.append(f"audit {audit.id} of {audit.owner}: adopted")
    still = set(strays(db, folder))
    return done + _set_aside(db, folder, [path for path in unknown if path in still or path in rest])


def discard(db: sqlite3.Connection, folder: Folder) -> list[str]:
    """Set all files that the state does not know aside; `garbage.sweep` comes after the commit."""
    return _set_aside(db, folder, strays(db, folder))


def _set_aside(db: sqlite3.Connection, folder: Folder, paths: list[Path]) -> list[str]:
    garbage.add(db, folder, paths, at_once=False)
    return [f"{folder.relative(path)}: set aside in the quarantine" for path in paths]


def _resource(folder: Folder, path: Path) -> Resource | None:
    values = _typed(Resource, {"number": 0, "damaged": False, **(sidecars.read(path) or {})})
    if values is None or values["kind"] not in {"model", "dataset"}:
        return None
    resource = Resource(**values)
    right = sidecars.blob_sidecar(folder, resource.sha256, resource.kind, resource.owner) == path
    return resource if right and folder.blob(resource.sha256).exists() else None


def _audit(folder: Folder, path: Path) -> Audit | None:
    found = sidecars.read(path / "report.json") or {}
    made = {"number": 0, "state": "succeeded", "failure": None, "sequence": 0, "report": None, "memory_kills": 0}
    values = _typed(Audit, {**made, **found})
    if values is None or values["id"] != path.name:
        return None
    try:
        sha256, size = reports.digest(folder.report(path.name))
    except OSError:
        return None
    if sha256 != found.get("sha256"):
        return None
    return Audit(**{**values, "report": Kept(sha256, size)})


def _without_taken_key(db: sqlite3.Connection, audit: Audit) -> Audit:
    key = audit.idempotency_key
    if key is None or audits.find_by_key(db, audit.owner, key) is None:
        return audit
    return dataclasses.replace(audit, idempotency_key=None)


def _typed(kind: type, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the fields of a dataclass from a sidecar; None where one is missing or of another type."""
    found = {}
    for name, hint in typing.get_type_hints(kind).items():
        origins = tuple(typing.get_origin(part) or part for part in (typing.get_args(hint) or (hint,)))
        allowed = (Mapping,) if typing.get_origin(hint) is Mapping else origins
        value = values.get(name)
        value = float(value) if allowed == (float,) and isinstance(value, int) else value
        if not isinstance(value, tuple(allowed)) or (isinstance(value, bool) and bool not in allowed):
            return None
        found[name] = value
    return found
