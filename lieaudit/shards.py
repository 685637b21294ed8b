"""Where the finished pieces of an audit are kept, so that an interrupted one resumes bit-identically."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]


class ShardStore(Protocol):
    """Keeps finished shards by key. ``put`` must be atomic: a shard is there whole or not at all."""

    def get(self, key: str) -> bytes | None:
        """Give the shard of this key, or None."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Keep the shard."""
        ...


class DirectoryShards:
    """Shards as files of one directory, written aside and renamed into place."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> bytes | None:
        """Give the shard of this key, or None."""
        path = self._directory / f"{key}.npz"
        return path.read_bytes() if path.exists() else None

    def put(self, key: str, data: bytes) -> None:
        """Write the shard and rename it into place."""
        aside = self._directory / f"{key}.part"
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._directory / f"{key}.npz")


def compute_once(store: ShardStore | None, key: str, compute: Callable[[], Arrays]) -> tuple[Arrays, bool]:
    """Give the arrays kept under ``key``, or compute and keep them; the flag says whether they were computed now."""
    kept = store.get(key) if store is not None else None
    if kept is not None:
        with np.load(io.BytesIO(kept), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}, False
    arrays = compute()
    if store is not None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        store.put(key, buffer.getvalue())
    return arrays, True
