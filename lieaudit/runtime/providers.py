"""Execution providers: what was asked for is what runs, or an error says why not."""

from __future__ import annotations

import importlib.metadata
import os
import re
from dataclasses import dataclass, field
from typing import Any

from lieaudit.errors import MissingPackageError, ProviderError

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


@dataclass(frozen=True, slots=True)
class Provider:
    """One execution provider on one device, with the options that keep its arithmetic at full float32.

    ``device`` is ``cpu`` or ``cuda``, ``device_id`` the GPU's index (0 on CPU).
    """

    name: str
    execution_provider: str
    device: str
    device_id: int
    options: dict[str, Any] = field(default_factory=dict)

    def chain(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the provider list for a session. CPU stands behind a GPU; the session checks what landed there."""
        chain: list[tuple[str, dict[str, Any]]] = [(self.execution_provider, self.options)]
        if self.execution_provider == _PROVIDERS["tensorrt"]:
            chain.append((_PROVIDERS["cuda"], _cuda_options(self.device_id)))
        if self.device != "cpu":
            chain.append((_PROVIDERS["cpu"], {}))
        return chain


def find_provider(name: str) -> Provider:
    """Resolve ``cpu``, ``cuda``, ``cuda:1``, ``tensorrt:0`` and the like.

    Raises
    ------
    ProviderError
        The name is unknown (UNKNOWN_PROVIDER), this onnxruntime does not have it (PROVIDER_MISSING), or both
        onnxruntime wheels are installed over each other (PROVIDER_CONFLICT).
    MissingPackageError
        onnxruntime is not installed.
    """
    match = re.fullmatch(r"(cpu|cuda|tensorrt)(?::(\d+))?", name)
    if match is None or (match[1] == "cpu" and match[2]):
        raise ProviderError(
            f"unknown provider {name!r}",
            reason="UNKNOWN_PROVIDER",
            subject="provider",
            hint="use cpu, cuda, cuda:ID, tensorrt or tensorrt:ID",
        )
    kind, device_id = match[1], int(match[2] or 0)
    available = available_providers()
    execution_provider = _PROVIDERS[kind]
    if execution_provider not in available:
        raise ProviderError(
            f"provider {name!r} was asked for, but this onnxruntime has only {', '.join(available)}",
            reason="PROVIDER_MISSING",
            subject="provider",
            hint="install lieaudit[gpu] instead of lieaudit[cpu], or ask for cpu",
        )
    if kind == "cpu":
        return Provider(name, execution_provider, "cpu", 0)
    if kind == "cuda":
        return Provider(name, execution_provider, "cuda", device_id, _cuda_options(device_id))
    options = {"device_id": device_id, "trt_fp16_enable": False, "trt_int8_enable": False}
    return Provider(name, execution_provider, "cuda", device_id, options)


def available_providers() -> list[str]:
    """Return the execution providers of the installed onnxruntime."""
    try:
        import onnxruntime
    except ImportError as problem:
        raise MissingPackageError(
            "onnxruntime is not installed",
            reason="ONNXRUNTIME_MISSING",
            subject="onnxruntime",
            hint="pip install 'lieaudit[cpu]' or 'lieaudit[gpu]'",
        ) from problem
    _refuse_both_wheels()
    return list(onnxruntime.get_available_providers())


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(os.sched_getaffinity(0))


def _cuda_options(device_id: int) -> dict[str, Any]:
    # TF32 keeps 10 bits of mantissa; exhaustive search picks another algorithm, and other digits, from run to run.
    return {"device_id": device_id, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}


def _refuse_both_wheels() -> None:
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        raise ProviderError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
            reason="PROVIDER_CONFLICT",
            subject="onnxruntime",
            hint="pip uninstall both, then install lieaudit[cpu] or lieaudit[gpu]",
        )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
