"""Where the finished pieces of an audit are kept, so that an interrupted one resumes bit-identically.

A store may serve many audits. What is kept in it is therefore found under a digest of all that the numbers depend on
(`audit_digest`): another model, data set, specification, version, provider or number of threads never meets it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from lieaudit.environment import device_kind, environment, version_of
from lieaudit.report import METRIC_VERSION

if TYPE_CHECKING:
    from lieaudit.images import Images

Arrays = Mapping[str, npt.NDArray[Any]]

NOT_IN_THE_KEY = {
    "classes": "labels take no part in any shard",
    "class_offset": "labels take no part in any shard",
    "bootstrap": "the finished shards are resampled, not what is in them",
    "max_images": "the number of images that are audited is in the key",
    "threads": "the number of threads that run is in the key",
    "torch_source": "a path; the fingerprint of the module that was read from it is in the key",
    "torch_weights": "a path; the fingerprint of the module that holds them is in the key",
}
"""Fields of `AuditSpec` that are no part of a shard's key, and why no number in a shard follows them."""

_LIBRARIES = ("onnx_ir", "pillow")
"""What numbers follow beside the libraries that a report names: how graphs are rewritten, how images are decoded."""

_UNREADABLE = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
"""What numpy raises on a shard that was damaged on disk."""


class ShardStore(Protocol):
    """Keeps finished shards by key. ``put`` must be atomic: a shard is there whole or not at all."""

    def get(self, key: str) -> bytes | None:
        """Return the shard of this key, or None."""
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
        """Return the shard of this key, or None."""
        path = self._directory / f"{key}.npz"
        return path.read_bytes() if path.exists() else None

    def put(self, key: str, data: bytes) -> None:
        """Write the shard and rename it into place."""
        # a name of its own: two audits that share the folder may write the same shard
        with tempfile.NamedTemporaryFile(dir=self._directory, suffix=".part", delete=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(self._directory / f"{key}.npz")


@dataclass(frozen=True, slots=True)
class AuditShards:
    """The shards of one audit in a store that may hold those of others: a `ShardStore`."""

    store: ShardStore
    digest: str

    def get(self, key: str) -> bytes | None:
        """Return this audit's shard of this key, or None."""
        return self.store.get(f"{key}-{self.digest}")

    def put(self, key: str, data: bytes) -> None:
        """Keep the shard."""
        self.store.put(f"{key}-{self.digest}", data)


def audit_shards(store: ShardStore | None, model: str, images: Images, *, source: str = "") -> AuditShards | None:
    """Return the part of a store that belongs to one audit (`audit_digest`); None without a store."""
    return None if store is None else AuditShards(store, audit_digest(model, images, source=source))


def audit_digest(model: str, images: Images, *, source: str = "") -> str:
    """Return the sha256, in hex, of all that the numbers in an audit's shards depend on.

    Parameters
    ----------
    model
        The sha256 of the ONNX file with its data, or of a module's weights.
    images
        The images, how they reach the model, and the specification, without the fields of `NOT_IN_THE_KEY`. Labels
        take no part in any number of a shard.
    source
        The fingerprint of the torch module that is differentiated, if one is; then the version of torch counts too.
    """
    spec, target = images.spec, images.target
    around = asdict(environment(spec, {}, torch=bool(source)))
    del around["fallback_ops"]  # an outcome
    around |= {"processor": device_kind(spec.provider)} | {name: version_of(name) for name in _LIBRARIES}
    parts = {
        "metric_version": METRIC_VERSION,
        "model": model,
        "images": images.dataset.sha256,
        "count": images.count,
        "target": [target.channels, target.height, target.width, target.output_size, *astuple(target.head)],
        "spec": {name: value for name, value in spec.to_dict().items() if name not in NOT_IN_THE_KEY},
        "environment": around,
        "source": source,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def compute_once(store: ShardStore | None, key: str, compute: Callable[[], Arrays]) -> tuple[Arrays, bool]:
    """Return the arrays kept under ``key``, or compute and keep them; the flag says whether they were computed now.

    A shard that was damaged where it lay is computed again.
    """
    kept = store.get(key) if store is not None else None
    if kept is not None:
        try:
            with np.load(io.BytesIO(kept), allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}, False
        except _UNREADABLE:
            pass
    arrays = compute()
    if store is not None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        store.put(key, buffer.getvalue())
    return arrays, True
