"""Where model versions live: MLflow's registry and runs, the Hugging Face Hub.

`is_named` says whether a MODEL is one of theirs, `fetch` downloads it. What else a registry can do (tags, metrics, an
alias) is in its module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lieaudit_client.registries import hub, mlflow


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model's file here, and what to call it in the report."""

    path: Path
    label: str


def is_named(source: str) -> bool:
    """Whether a model is named in a registry, and no file."""
    return mlflow.is_mlflow(source) or hub.is_hub(source)


def fetch(source: str, folder: Path) -> Fetched:
    """Download the ONNX file of a named model (``folder`` takes what the registry's own cache does not).

    Raises
    ------
    InvalidInputError
        The registry has no such model, or no single ONNX file of it.
    RefusedError, UnreachableError
        The registry refused, or nothing answers at its address.
    """
    if hub.is_hub(source):
        found = hub.find(source)
        return Fetched(hub.download(found), found.label)
    registry = mlflow.Registry()
    version = registry.find(source)
    return Fetched(registry.download(version, folder), version.label)
