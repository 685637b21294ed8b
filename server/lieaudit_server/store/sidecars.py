"""What a blob or a report says of itself, in a small JSON file beside it: from these the state can be made again.

::

    blobs/ab/SHA256.KIND.OWNER.json    one for each owner of a blob; OWNER is a digest of the name
    audits/ID/report.json              of a finished audit
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lieaudit_server.store.folder import Folder, write_durably

_BYTES = 2**20


def blob_sidecar(folder: Folder, sha256: str, kind: str, owner: str) -> Path:
    """Return the path of the sidecar of one owner's model or data set."""
    mark = hashlib.sha256(owner.encode()).hexdigest()[:16]
    return folder.blob(sha256).with_name(f"{sha256}.{kind}.{mark}.json")


def report_sidecar(folder: Folder, audit_id: str) -> Path:
    """Return the path of the sidecar of a report."""
    return folder.audit(audit_id) / "report.json"


def write(folder: Folder, path: Path, values: Mapping[str, Any]) -> None:
    """Write a sidecar durably; the folder's identity is added."""
    values = {"identity": identity(folder), **values}
    data = json.dumps(values, indent=1, sort_keys=True).encode()
    aside = folder.scratch / f"sidecar-{secrets.token_hex(8)}"
    write_durably(path, data, aside)


def read(path: Path) -> dict[str, Any] | None:
    """Read a sidecar; None where it is not one."""
    try:
        if path.stat().st_size > _BYTES:
            return None
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def identity(folder: Folder) -> str:
    """Return the id that the folder's files say; empty where they say none."""
    try:
        return folder.identity.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def new_identity(folder: Folder) -> str:
    """Make an id for the folder and write it down."""
    value = secrets.token_hex(16)
    write_identity(folder, value)
    return value


def write_identity(folder: Folder, value: str) -> None:
    """Write the folder's id down."""
    write_durably(folder.identity, value.encode(), folder.scratch / f"identity-{secrets.token_hex(8)}")
