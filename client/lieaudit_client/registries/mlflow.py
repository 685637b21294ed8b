"""The MLflow server: models by version, alias, run or id; verdicts as runs and tags; an alias moved only on pass.

The order is what makes a crash harmless. First the model's tags say what was decided and that the promotion is
pending; then the evidence is logged; only then does the alias move, and a last tag says so. Whatever is interrupted,
the tags tell how far it came, and the alias never points at a version whose verdict is not written down.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lieaudit_client.exceptions import InvalidInputError, RefusedError, UnreachableError
from lieaudit_client.registries.mlmodel import onnx_files
from lieaudit_client.suggestions import meant

PREFIX = "mlflow:"
_FORMS = "mlflow:models:/NAME/VERSION, mlflow:models:/NAME@ALIAS, mlflow:models:/m-ID or mlflow:runs:/RUN/PATH"
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")
_LOGGED = re.compile(r"models:/(?P<id>m-[0-9A-Za-z]+)")
_OF_RUN = re.compile(r"runs:/(?P<run>[^/]+)/(?P<path>.+)")
_TAG = "lieaudit."
_REPORT = "report.json"
_DIGEST = 32
"""Characters of a dataset's digest that MLflow keeps (it takes 36)."""


@dataclass(frozen=True, slots=True)
class Version:
    """One model of an MLflow server.

    Attributes
    ----------
    uri
        What MLflow calls it: ``models:/NAME/VERSION``, ``models:/m-ID`` or ``runs:/RUN/PATH``.
    name, version
        Of a registered version; else empty.
    alias
        The one it was asked for by, or empty.
    run_id, model_id
        The run that logged it and MLflow's id of the logged model, where MLflow knows them.
    """

    uri: str
    name: str = ""
    version: str = ""
    alias: str = ""
    run_id: str = ""
    model_id: str = ""

    def __str__(self) -> str:
        return self.uri

    @property
    def label(self) -> str:
        """What the report calls it."""
        return f"{self.name} version {self.version}" if self.name else self.uri


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a gate writes into its MLflow run; ``data`` is (name, sha256) of the images."""

    version: Version
    baseline: Version | None
    data: tuple[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    artefacts: Mapping[str, str] = field(repr=False)


class NoChampionError(InvalidInputError):
    """The registered model is there, and no version has the alias: the first has nothing to be compared with.

    ``doubt`` says why it may be no first version: the alias is spelt like another, or was set before. Empty: none.
    """

    def __init__(self, name: str, alias: str, doubt: str) -> None:
        super().__init__(
            f"{name} has no version with the alias {alias!r}{doubt}",
            reason="NO_CHAMPION",
            subject=alias,
            hint="spell it right; where this is the first version, say so: --first-version limits, or pass",
        )
        self.name = name
        self.doubt = doubt


def is_mlflow(source: str) -> bool:
    """Whether a model or baseline is named on an MLflow server."""
    return source.startswith((PREFIX, "models:/", "runs:/"))


def is_registered(source: str) -> bool:
    """Whether it is a registered version, which an alias can point at."""
    return _REGISTERED.fullmatch(source.removeprefix(PREFIX)) is not None


class Registry:
    """The MLflow server that ``MLFLOW_TRACKING_URI`` (or ``MLFLOW_REGISTRY_URI``) names."""

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
        """Resolve a name, with or without ``mlflow:`` in front.

        Raises
        ------
        NoChampionError
            The registered model has never had this alias.
        InvalidInputError
            There is no such version, model or run.
        """
        text = source.removeprefix(PREFIX)
        if match := _REGISTERED.fullmatch(text):
            return self._registered(match["name"], match["version"] or "", match["alias"] or "")
        if match := _LOGGED.fullmatch(text):
            with _translated(source):
                found = self._client.get_logged_model(match["id"])
            return Version(text, run_id=found.source_run_id or "", model_id=found.model_id)
        if match := _OF_RUN.fullmatch(text):
            with _translated(source):
                run = self._client.get_run(match["run"])
                return Version(text, run_id=match["run"], model_id=self._logged_by(run, match["path"]))
        raise InvalidInputError(
            f"{source!r} names no model of MLflow",
            reason="INVALID_MODEL_URI",
            subject=source,
            hint=f"write {_FORMS}",
        )

    def _registered(self, name: str, version: str, alias: str) -> Version:
        with _translated(f"models:/{name}" + (f"@{alias}" if alias else f"/{version}")):
            if alias:
                version = self._aliased(name, alias)
            found = self._client.get_model_version(name, version)
        logged = _LOGGED.fullmatch(found.source or "")  # where MLflow 3 keeps what a version was registered from
        number, model = str(found.version), logged["id"] if logged else ""
        return Version(f"models:/{name}/{number}", name, number, alias, found.run_id or "", model)

    def _aliased(self, name: str, alias: str) -> str:
        aliases = dict(self._client.get_registered_model(name).aliases)
        if alias in aliases:
            return str(aliases[alias])
        versions = self._client.search_model_versions(f"name = '{name}'")
        was = sorted(str(v.version) for v in versions if v.tags.get(f"{_TAG}promotion") == f"done: {alias}")
        before = f"; the gate has set it before, on version {', '.join(was)}" if was else ""
        raise NoChampionError(name, alias, meant(alias, aliases) + before)

    def _logged_by(self, run: Any, path: str) -> str:
        """Return the id of the logged model that ``runs:/RUN/PATH`` is, where it is one (MLflow 3)."""
        outputs = getattr(run, "outputs", None)
        for output in outputs.model_outputs if outputs is not None else ():
            if self._client.get_logged_model(output.model_id).name == path.strip("/"):
                return str(output.model_id)
        return ""

    def download(self, version: Version, folder: Path) -> Path:
        """Fetch a model's files into ``folder`` and give the path of its ONNX file."""
        with _translated(str(version)):
            target = Path(self._mlflow.artifacts.download_artifacts(str(version), dst_path=str(folder)))
        found = [target] if target.is_file() else onnx_files(target)
        if len(found) != 1:
            raise InvalidInputError(
                f"{version} holds {len(found) or 'no'} ONNX files",
                reason="NO_ONNX_MODEL",
                subject=str(version),
                hint="log it with mlflow.onnx, or with one .onnx file",
            )
        return found[0]

    def tag(self, version: Version, values: Mapping[str, str]) -> None:
        """Write tags ``lieaudit.NAME`` on a version, a logged model or, of a plain file, its run."""
        # MLflow allows 5,000 characters, Databricks' registry fewer.
        tags = {_TAG + name: value[:1000] for name, value in values.items()}
        with _translated(str(version)):
            if version.name:
                for name, value in tags.items():
                    self._client.set_model_version_tag(version.name, version.version, name, value)
            elif version.model_id:
                self._client.set_logged_model_tags(version.model_id, tags)
            else:
                for name, value in tags.items():
                    self._client.set_tag(version.run_id, name, value)

    def earlier_report(self, version: Version, folder: Path) -> Path | None:
        """Fetch the report of the gate that a version's tags name into ``folder``; None where there is none."""
        with _translated(str(version)):
            if version.name:
                tags = self._client.get_model_version(version.name, version.version).tags
            elif version.model_id:
                tags = self._client.get_logged_model(version.model_id).tags
            else:
                tags = self._client.get_run(version.run_id).data.tags
        run = tags.get(f"{_TAG}run_id")
        if not run:
            return None
        try:
            with _translated(run):
                return Path(self._client.download_artifacts(run, _REPORT, str(folder)))
        except (InvalidInputError, RefusedError, OSError):  # deleted since; then it is measured
            return None

    def log(self, experiment: str, evidence: Evidence) -> str:
        """Log a gate as a new run and give its id: metrics and params for charts, links, files.

        The run's inputs are the candidate's logged model, where it is one, and the images; its metrics stand with that
        model, too.
        """
        version, baseline = evidence.version, evidence.baseline
        with _translated(experiment), tempfile.TemporaryDirectory() as folder:
            for name, text in evidence.artefacts.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            found = self._client.get_experiment_by_name(experiment)
            number = found.experiment_id if found is not None else self._client.create_experiment(experiment)
            links = {
                "model_version": str(version),
                "candidate_run": version.run_id,
                "candidate_model": version.model_id,
            }
            if baseline is not None:
                links |= {"baseline": str(baseline), "baseline_run": baseline.run_id}
            tags = {_TAG + name: value[:1000] for name, value in {**links, **evidence.tags}.items() if value}
            run = self._client.create_run(number, tags={"mlflow.runName": f"gate {version.label}", **tags})
            identity: str = run.info.run_id
            self._log_inputs(identity, evidence)
            self._log_values(identity, evidence)
            self._client.log_artifacts(identity, folder)
            self._client.set_terminated(identity, "FINISHED")
        return identity

    def _log_inputs(self, run: str, evidence: Evidence) -> None:
        from mlflow import entities

        name, sha256 = evidence.data
        data = entities.Dataset(name or "images", sha256[:_DIGEST], "lieaudit", f'{{"sha256": "{sha256}"}}')
        label = entities.InputTag("mlflow.data.context", "evaluation")
        model = evidence.version.model_id
        models = [entities.LoggedModelInput(model)] if model else []
        self._client.log_inputs(run, [entities.DatasetInput(data, [label])], models)

    def _log_values(self, run: str, evidence: Evidence) -> None:
        from mlflow import entities

        model, now = evidence.version.model_id or None, int(1000 * time.time())
        name, sha256 = evidence.data
        metrics = [
            entities.Metric(key, value, now, 0, model, name or "images", sha256[:_DIGEST], run)
            for key, value in evidence.metrics.items()
        ]
        params = [entities.Param(key, value[:500]) for key, value in evidence.params.items()]
        self._client.log_batch(run, metrics=metrics, params=params)

    def move_alias(self, alias: str, to: Version, expected: Version | None, *, first: bool = False) -> None:
        """Point an alias at a version, unless it no longer points at the version that was compared with.

        ``first`` says that it pointed nowhere.

        Raises
        ------
        RefusedError
            ``ALIAS_MOVED``: somebody else promoted another version meanwhile.
        """
        with _translated(str(to)):
            then = "" if first else expected.version if expected is not None and expected.alias == alias else None
            if then is not None:
                now = str(dict(self._client.get_registered_model(to.name).aliases).get(alias, ""))
                if now != then:
                    raise RefusedError(
                        f"{to.name}@{alias} moved from {_numbered(then)} to {_numbered(now)} while this ran",
                        reason="ALIAS_MOVED",
                        subject=alias,
                        hint="run the gate again: it compares with the version that is there now",
                    )
            self._client.set_registered_model_alias(to.name, alias, to.version)


def _numbered(version: str) -> str:
    return f"version {version}" if version else "no version"


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
                hint=f"is MLFLOW_TRACKING_URI right, and is it one of {_FORMS}?",
            ) from problem
        raise RefusedError(
            f"MLflow refused {subject}: {said}", reason="MLFLOW_ERROR", subject=subject, hint="see MLflow's log"
        ) from problem
