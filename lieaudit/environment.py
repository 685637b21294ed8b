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
        lieaudit=version_of("lieaudit"),
        onnxruntime=version_of("onnxruntime") or version_of("onnxruntime-gpu"),
        provider=provider.execution_provider,
        device=_processor() if provider.device == "cpu" else f"cuda:{provider.device_id}",
        onnx=version_of("onnx"),
        numpy=version_of("numpy"),
        python=platform.python_version(),
        threads=spec.threads or usable_cores(),
        fallback_ops=dict(fallback_ops),
        torch=version_of("torch") if torch else "",
    )


def version_of(distribution: str) -> str:
    """Return the installed version of a distribution; empty where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def device_kind(provider: str) -> str:
    """Return what kind of processor a provider runs on: the name of the CPU, or of the machine's GPUs."""
    if find_provider(provider).device == "cpu":
        return _processor()
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = (line for card in cards for line in card.read_text(errors="replace").splitlines())
    return ", ".join(line.split(":", 1)[1].strip() for line in lines if line.startswith("Model"))


def _processor() -> str:
    """Return the processor's model name, which decides which kernels run."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
