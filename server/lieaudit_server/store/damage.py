"""A blob that a worker calls damaged is looked at by the server itself before it is marked: a worker may lie."""

from __future__ import annotations

import asyncio
import logging

from lieaudit_server.store import resources
from lieaudit_server.store.database import Database
from lieaudit_server.store.folder import Folder

_log = logging.getLogger(__name__)


async def verify(database: Database, folder: Folder, sha256: str) -> bool:
    """Compare a blob with its checksum and mark it where they differ; give whether it is whole."""
    whole = await asyncio.to_thread(resources.digest_is, folder.blob(sha256), sha256)
    if not whole:
        _log.error("blob %s is damaged", sha256)
        await database.run(lambda db: resources.mark_damaged(db, sha256))
    return whole
