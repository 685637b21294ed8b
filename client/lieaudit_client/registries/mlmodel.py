"""Which file of a model that MLflow logged is the ONNX file."""

from __future__ import annotations

from pathlib import Path

import yaml

from lieaudit_client.exceptions import InvalidInputError


def onnx_files(folder: Path) -> list[Path]:
    """Return the file that the ONNX flavour names, or every ``.onnx`` file there is.

    Raises `InvalidInputError` where the description is not MLflow's, or names a file outside the model's folder: a
    model from elsewhere must not make the client send other files.
    """
    described = folder / "MLmodel"
    path = folder
    if described.is_file():
        try:
            flavours = yaml.safe_load(described.read_text(encoding="utf-8")).get("flavors", {})
            path = folder / str(flavours.get("onnx", {}).get("data", ""))
        except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as problem:
            raise InvalidInputError(
                f"the model's MLmodel file is not one of MLflow: {type(problem).__name__}",
                reason="INVALID_MLMODEL",
                subject="MLmodel",
                hint="log the model again",
            ) from problem
    found = [path] if path.is_file() else sorted(path.rglob("*.onnx"))
    for file in found:
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InvalidInputError(
                f"the model's file {file.name} lies outside the model's folder",
                reason="MODEL_FILE_OUTSIDE",
                subject=file.name,
                hint="log the model again",
            )
    return found
