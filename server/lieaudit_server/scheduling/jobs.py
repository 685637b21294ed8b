"""Job descriptions: what a worker is told, and nothing more."""

from __future__ import annotations

import os
from typing import Any

from lieaudit_server.config import Config, factories
from lieaudit_server.store.audits import Audit
from lieaudit_server.store.folder import Folder
from lieaudit_server.store.resources import Resource

_CHECK_NICENESS, _AUDIT_NICENESS = 5, 10  # somebody waits for a check


def blob(folder: Folder, resource: Resource) -> dict[str, str]:
    """Describe a stored blob to a worker."""
    return {"path": str(folder.blob(resource.sha256)), **reference(resource)}


def reference(resource: Resource) -> dict[str, str]:
    """Describe a blob as an audit remembers it."""
    return {"sha256": resource.sha256, "name": resource.name, "format": resource.format}


def check(config: Config, task: str) -> dict[str, Any]:
    """Describe a check or an inspection; what it is about is added by `Probes`."""
    return {
        "task": task,
        "niceness": _CHECK_NICENESS,
        "threads": 1,
        "cpus": sorted(os.sched_getaffinity(0)),
        "memory_mib": config.probe_memory_mib,
        "limits": limits(config),
    }


def audit(config: Config, folder: Folder, record: Audit, cpus: tuple[int, ...]) -> dict[str, Any]:
    """Describe an audit that runs on these CPUs."""
    blobs = {role: {"path": str(folder.blob(b["sha256"])), **b} for role, b in record.blobs.items()}
    return {
        "task": "audit",
        "niceness": _AUDIT_NICENESS,
        "threads": record.threads,
        "cpus": list(cpus),
        "memory_mib": config.memory_mib if record.device is None else config.gpu_memory_mib,
        "limits": limits(config),
        "device": record.device,
        "shards": str(folder.audit(record.id) / "shards"),
        "scratch": str(folder.scratch / record.id),
        "spec": {**record.spec, "threads": record.threads},
        "torch_factories": factories(config.torch_factories),
        "max_report_bytes": config.max_report_bytes,
        **blobs,
    }


def limits(config: Config) -> dict[str, int]:
    """Return the limits a worker checks files against."""
    return {
        "unpacked_bytes": config.max_unpacked_bytes,
        "archive_members": config.max_archive_members,
        "nodes": config.max_graph_nodes,
        "initializer_bytes": config.max_initializer_bytes,
        "nesting": config.max_graph_nesting,
        "images": config.max_images,
        "image_pixels": config.max_image_pixels,
    }
