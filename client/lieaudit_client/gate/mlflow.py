"""The MLflow model registry: models by version or alias, verdicts as tags and artefacts, an alias moved only on pass.

The order is what makes a crash harmless. First the version's tags say what was decided and that the promotion is
pending; then the evidence is logged; only then does the alias move, and a last tag says so. Whatever is interrupted,
the tags tell how far it came, and the alias never points at a version whose verdict is not written down.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lieaudit_client.exceptions import InvalidInputError, RefusedError, UnreachableError

PREFIX = "mlflow:"
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")
_TAG = "lieaudit."


@dataclass(frozen=True, slots=True)
class Version:
    """One registered version; ``alias`` is the one it was asked for by, or empty."""

    name: str
    version: str
    alias: str = ""

    def __str__(self) -> str:
        return f"models:/{self.name}/{self.version}"


def is_mlflow(source: str) -> bool:
    """Whether a model or baseline is named in the registry."""
    return source.startswith((PREFIX, "models:/"))


class Registry:
    """The registry of the MLflow server that ``MLFLOW_TRACKING_URI`` (or ``MLFLOW_REGISTRY_URI``) names."""

    def __init__(self) -> None:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # the command shows its own progress
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # seconds, not minutes, until it is said
        try:
            import mlflow
        except ModuleNotFoundError as problem:
            raise InvalidInputError(
                f"models of the MLflow registry need the package {problem.name}",
                reason="MLFLOW_NOT_INSTALLED",
                subject="mlflow",
                hint="pip install 'lieaudit-client[mlflow]'",
            ) from problem
        tracking: Any = mlflow.tracking
        if not tracking.is_tracking_uri_set() and not os.environ.get("MLFLOW_REGISTRY_URI"):
            # MLflow would make itself an empty store in this folder, and that would have no such model.
            raise UnreachableError(
                "no address of an MLflow server is given",
                reason="MLFLOW_ADDRESS_MISSING",
                subject="MLFLOW_TRACKING_URI",
                hint="set MLFLOW_TRACKING_URI, e.g. to http://mlflow.example.org:5000",
            )
        self._mlflow: Any = mlflow
        self._client: Any = mlflow.MlflowClient()

    def find(self, source: str) -> Version:
        """Resolve ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``, with or without ``mlflow:`` in front."""
        match = _URI.fullmatch(source.removeprefix(PREFIX))
        if match is None:
            raise InvalidInputError(
                f"{source!r} names no registered model",
                reason="INVALID_MODEL_URI",
                subject=source,
                hint="write mlflow:models:/NAME/VERSION or mlflow:models:/NAME@ALIAS",
            )
        name, version, alias = match["name"], match["version"], match["alias"] or ""
        with _translated(source):
            if alias:
                version = self._client.get_model_version_by_alias(name, alias).version
            else:
                self._client.get_model_version(name, version)
        return Version(name, str(version), alias)

    def download(self, version: Version, folder: Path) -> Path:
        """Fetch a version's files into ``folder`` and give the path of its ONNX file."""
        with _translated(str(version)):
            target = Path(self._mlflow.artifacts.download_artifacts(str(version), dst_path=str(folder)))
        found = [target] if target.is_file() else _onnx_files(target)
        if len(found) != 1:
            raise InvalidInputError(
                f"{version} holds {len(found) or 'no'} ONNX files",
                reason="NO_ONNX_MODEL",
                subject=str(version),
                hint="log it with mlflow.onnx, or with one .onnx file",
            )
        return found[0]

    def tag(self, version: Version, values: Mapping[str, str]) -> None:
        """Write tags ``lieaudit.NAME`` on a version."""
        with _translated(str(version)):
            for name, value in values.items():
                # MLflow allows 5,000 characters, Databricks' registry fewer.
                self._client.set_model_version_tag(version.name, version.version, _TAG + name, value[:1000])

    def log(self, experiment: str, version: Version, verdict: str, artefacts: Mapping[str, str]) -> str:
        """Log texts by file name as artefacts of a new run and give its id."""
        with _translated(experiment), tempfile.TemporaryDirectory() as folder:
            for name, text in artefacts.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            found = self._client.get_experiment_by_name(experiment)
            number = found.experiment_id if found is not None else self._client.create_experiment(experiment)
            tags = {"mlflow.runName": f"gate {version.name} {version.version}", _TAG + "verdict": verdict}
            run = self._client.create_run(number, tags={**tags, _TAG + "model_version": str(version)})
            identity: str = run.info.run_id
            self._client.log_artifacts(identity, folder)
            self._client.set_terminated(identity, "FINISHED")
        return identity

    def move_alias(self, alias: str, to: Version, expected: Version | None) -> None:
        """Point an alias at a version, unless it no longer points at the version that was compared with.

        Raises
        ------
        RefusedError
            ``ALIAS_MOVED``: somebody else promoted another version meanwhile.
        """
        with _translated(str(to)):
            if expected is not None and expected.alias == alias:
                now = str(self._client.get_model_version_by_alias(to.name, alias).version)
                if now != expected.version:
                    raise RefusedError(
                        f"{to.name}@{alias} moved from version {expected.version} to {now} while this ran",
                        reason="ALIAS_MOVED",
                        subject=alias,
                        hint="run the gate again: it compares with the version that is there now",
                    )
            self._client.set_registered_model_alias(to.name, alias, to.version)


def _onnx_files(folder: Path) -> list[Path]:
    """Give the file that the ONNX flavour names, or every ``.onnx`` file there is.

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


@contextlib.contextmanager
def _translated(subject: str) -> Iterator[None]:
    """Turn MLflow's exceptions into the client's, and keep its messages off standard output, which may be JSON."""
    from mlflow.exceptions import MlflowException

    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except MlflowException as problem:
        said = str(problem.message).splitlines()[0][:400]
        if problem.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise InvalidInputError(
                f"MLflow has no {subject}: {said}",
                reason="NOT_IN_REGISTRY",
                subject=subject,
                hint="is MLFLOW_TRACKING_URI right? The first version has no baseline: set the alias by hand once",
            ) from problem
        raise RefusedError(
            f"MLflow refused {subject}: {said}", reason="MLFLOW_ERROR", subject=subject, hint="see MLflow's log"
        ) from problem
