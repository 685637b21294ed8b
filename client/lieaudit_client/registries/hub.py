"""The Hugging Face Hub: models by repository, revision and file; metrics in the model's card.

Names are the Hub's own: ``hf:OWNER/REPO[@REVISION][/PATH]``, a slash within a revision written ``%2F``. What is
downloaded stays in the Hub's cache, and token, endpoint and cache are set by its own variables (``HF_TOKEN``,
``HF_ENDPOINT``, ``HF_HOME``).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from lieaudit_client.exceptions import InvalidInputError, RefusedError, UnreachableError
from lieaudit_client.external_data import external_data_locations

PREFIX = "hf:"
_FORM = "hf:OWNER/REPO, hf:OWNER/REPO@REVISION or hf:OWNER/REPO@REVISION/PATH.onnx"
_NAME = re.compile(r"hf:(?://)?(?P<repo>[^/@\s]+/[^/@\s]+)(?:@(?P<revision>[^/@\s]+))?(?:/(?P<path>[^\s].*))?")
_SHOWN = 10
_TASK = "image-classification"
HOME = "https://github.com/lieaudit/lieaudit"


@dataclass(frozen=True, slots=True)
class HubModel:
    """One ONNX file of a repository at one commit; ``task`` is what the Hub says the model is for."""

    repo: str
    commit: str
    path: str
    files: tuple[str, ...] = ()
    task: str = ""

    @property
    def label(self) -> str:
        """What the report calls it."""
        return f"{self.repo}@{self.commit[:12]}"


def is_hub(source: str) -> bool:
    """Whether a model is named on the Hub."""
    return source.startswith(PREFIX)


def find(source: str) -> HubModel:
    """Resolve a name to a commit and a file.

    Raises
    ------
    InvalidInputError
        There is no such repository, revision or file; or it holds no ONNX file, or several and none is named.
    RefusedError
        The Hub asks for a token, or for the repository's terms to be accepted.
    UnreachableError
        Nothing answers.
    """
    match = _NAME.fullmatch(source)
    if match is None:
        raise InvalidInputError(
            f"{source!r} names no model of the Hub", reason="INVALID_MODEL_URI", subject=source, hint=f"write {_FORM}"
        )
    hub = _library()
    revision = unquote(match["revision"]) if match["revision"] else None
    with _translated(source):
        found = hub.HfApi().model_info(match["repo"], revision=revision)
    files = tuple(sibling.rfilename for sibling in found.siblings or ())
    path = _chosen(source, files, match["path"])
    return HubModel(match["repo"], str(found.sha), path, files, found.pipeline_tag or "")


def _chosen(source: str, files: tuple[str, ...], path: str | None) -> str:
    if path is not None and path in files:
        return path
    within = [name for name in files if path is None or name.startswith(f"{path.rstrip('/')}/")]
    found = [name for name in within if name.lower().endswith(".onnx")]
    if len(found) == 1:
        return found[0]
    if path is not None and not within:
        said, hint = f"has no file {path!r}", "name one of its files"
    elif found:
        left = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        said = f"holds {len(found)} ONNX files: {', '.join(found[:_SHOWN])}{left}"
        hint = f"name one: hf:OWNER/REPO@REVISION/{found[0]}"
    else:
        said, hint = "holds no ONNX file", "export it, e.g. with optimum, and upload the .onnx"
    raise InvalidInputError(f"{source} {said}", reason="NO_ONNX_MODEL", subject=source, hint=hint)


def download(model: HubModel) -> Path:
    """Fetch the file, with the files its weights are in, into the Hub's cache and give its path there."""
    hub = _library()
    with _translated(model.repo):
        path = Path(hub.hf_hub_download(model.repo, model.path, revision=model.commit))
        for location in external_data_locations(path):
            beside = str(PurePosixPath(model.path).parent / location)
            if beside in model.files:  # what leaves the folder, or is missing, is refused where the model is sent
                hub.hf_hub_download(model.repo, beside, revision=model.commit)
    return path


def write_card(
    model: HubModel, metrics: Mapping[str, float], data: tuple[str, str], message: str, *, pull_request: bool
) -> str:
    """Write metrics into the ``model-index`` of the model's card and give the commit's address.

    An entry of the same name on the same images (``data``: their name and sha256) is overwritten, every other is kept.
    """
    hub = _library()
    from huggingface_hub.repocard_data import eval_results_to_model_index

    name, sha256 = data
    results = [
        hub.EvalResult(
            task_type=model.task or _TASK,
            dataset_type="lieaudit",
            dataset_name=name or "images",
            dataset_revision=sha256,
            metric_type=key.partition("/")[0],
            metric_name=key.replace("/", " "),
            metric_value=value,
            source_name="lieaudit",
            source_url=HOME,
        )
        for key, value in metrics.items()
    ]
    index = eval_results_to_model_index(model.repo, results)
    with _translated(model.repo):
        return str(
            hub.metadata_update(
                model.repo, {"model-index": index}, overwrite=True, commit_message=message, create_pr=pull_request
            )
        )


def _library() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the command shows its own progress
    try:
        import huggingface_hub
    except ModuleNotFoundError as problem:
        raise InvalidInputError(
            f"models of the Hub need the package {problem.name}",
            reason="HUB_NOT_INSTALLED",
            subject="huggingface_hub",
            hint="pip install 'lieaudit-client[huggingface]'",
        ) from problem
    return huggingface_hub


@contextlib.contextmanager
def _translated(subject: str) -> Iterator[None]:
    """Turn the Hub's exceptions into the client's."""
    import huggingface_hub.errors

    errors: Any = huggingface_hub.errors  # it passes on the HTTPError of the library it speaks HTTP with
    try:
        yield
    except (errors.GatedRepoError, errors.DisabledRepoError) as problem:
        raise RefusedError(
            f"the Hub does not give out {subject}: {_said(problem)}",
            reason="HUB_REFUSED",
            subject=subject,
            hint="accept the repository's terms on its page, and set HF_TOKEN",
        ) from problem
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as problem:
        raise InvalidInputError(
            f"the Hub has no {subject}: {_said(problem)}",
            reason="NOT_IN_REGISTRY",
            subject=subject,
            hint="is it spelt right? A private repository needs HF_TOKEN",
        ) from problem
    except errors.HFValidationError as problem:
        raise InvalidInputError(
            f"{subject} is no name of the Hub: {problem}", reason="INVALID_MODEL_URI", subject=subject, hint=_FORM
        ) from problem
    except errors.HfHubHTTPError as problem:
        raise RefusedError(
            f"the Hub refused {subject}: {_said(problem)}", reason="HUB_ERROR", subject=subject, hint="is HF_TOKEN set?"
        ) from problem
    except (errors.HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as problem:
        raise UnreachableError(
            f"the Hub does not answer: {_said(problem)}",
            reason="HUB_UNREACHABLE",
            subject=os.environ.get("HF_ENDPOINT", "https://huggingface.co"),
            hint="is HF_ENDPOINT right, and HF_HUB_OFFLINE unset?",
        ) from problem


def _said(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[0][:400] if lines else type(problem).__name__
