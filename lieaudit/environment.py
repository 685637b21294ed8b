"""What computed the numbers: versions, provider, device."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path

from lieaudit.report import Environment
from lieaudit.runtime.providers import find_provider, usable_cores
from lieaudit.spec import AuditSpec


def environment(spec: AuditSpec, fallback_ops: Mapping[str, int], *, torch: bool = False) -> Environment:
    """Describe this machine as the report does; ``torch`` where the torch path was taken."""
    provider = find_provider(spec.provider)
    return Environment(
        lieaudit=_version("lieaudit"),
        onnxruntime=_version("onnxruntime") or _version("onnxruntime-gpu"),
        provider=provider.execution_provider,
        device=_processor() if provider.device == "cpu" else f"cuda:{provider.device_id}",
        onnx=_version("onnx"),
        numpy=_version("numpy"),
        python=platform.python_version(),
        threads=spec.threads or usable_cores(),
        fallback_ops=dict(fallback_ops),
        torch=_version("torch") if torch else "",
    )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """Give the processor's model name, which decides which kernels run."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
