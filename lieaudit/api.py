"""Auditing one model on one set of images, end to end: `lieaudit.audit`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lieaudit.derivatives.forward import REWRITE_REFUSED
from lieaudit.errors import ModelError, SpecError
from lieaudit.graph.batch import AMPLITUDES
from lieaudit.graph.load import load_model, with_note
from lieaudit.heads.checking import check
from lieaudit.heads.settle import settle
from lieaudit.images import Images
from lieaudit.layerwise import attribute_layers, check_layouts
from lieaudit.method import Method, choose_method, without_forward
from lieaudit.metrics.lee import DERIVATIVE_NOT_FINITE
from lieaudit.parts.recognition import moving, takes
from lieaudit.progress import StageProgress
from lieaudit.report import Layerwise, Report
from lieaudit.running import ImagesLike, as_dataset, run, with_budget
from lieaudit.runtime.session import Session
from lieaudit.shards import audit_shards
from lieaudit.spec import AuditSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx

    from lieaudit.graph.load import AuditableModel
    from lieaudit.progress import ProgressCallback
    from lieaudit.shards import ShardStore
    from lieaudit.torch.files import TorchFiles

_WITHOUT_FORWARD = {DERIVATIVE_NOT_FINITE, REWRITE_REFUSED, "RUN_FAILED"}
"""Reasons for which an audit of the method ``auto`` goes on with finite differences alone."""

_LOOKED_AT = 8
"""Images that are looked at before a model is called constant."""

_LAYERS_OF_PARTS = (
    "layers are attributed to the one vector of a model without parts; parts have several, in units of their own"
)


def audit(
    model: str | Path | bytes | onnx.ModelProto,
    images: ImagesLike,
    spec: AuditSpec | None = None,
    *,
    labels: npt.NDArray[Any] | None = None,
    name: str = "",
    progress: ProgressCallback | None = None,
    shards: ShardStore | None = None,
    source: TorchFiles | None = None,
) -> Report:
    """Measure how far a model is from equivariant under each generator.

    Parameters
    ----------
    model
        ONNX: a path, bytes or a ModelProto.
    images
        float32 (N, C, H, W) as the model takes them; uint8 (N, H, W, C) with ``spec.preprocessing``; or a
        `lieaudit.data.Dataset`.
    spec
        What to measure and how; default: all generators, `AuditSpec`'s conventions.
    labels
        (N,) class numbers, for the accuracy.
    name
        What the report calls the model.
    progress
        Called with a `Progress` after every batch.
    shards
        Keeps finished shards; with the same model, images and spec an interrupted audit goes on from them and gives
        the same bits. One store may serve many audits (`lieaudit.shards.audit_digest`).
    source
        For ``spec.method`` torch: where the files of ``spec.torch_source`` or ``spec.torch_weights`` lie, and the
        registered factories; default: these fields are paths.

    Raises
    ------
    LieauditError
        Model, data, spec, provider or budget do not fit; see `lieaudit.errors`.
    """
    spec = spec or AuditSpec()
    started = time.monotonic()
    dataset = as_dataset(images, labels)
    stage = StageProgress(progress, "load", 1)
    loaded = load_model(model, spec, data=dataset, name=name)
    stage.advance(1)
    pictured = Images(dataset, loaded, spec, loaded.further)
    pictured.load([0])  # a set that does not fit the model is refused before any work
    spec.actions(loaded.height, loaded.width)  # and displacements of another size
    spec = with_budget(spec, audit_shards(shards, loaded.info.sha256, pictured))
    pictured = replace(pictured, spec=spec)
    if loaded.noise_alike:
        _refuse_constant(loaded, pictured)
    seen = moving(model, loaded, pictured)
    if seen is not None and takes(seen, spec):
        spec = replace(spec, parts=seen.parts)
        loaded = with_note(load_model(model, spec, data=dataset, name=name), seen.note)
        pictured, seen = Images(dataset, loaded, spec, loaded.further), None
    settled = settle(loaded, spec, pictured)
    loaded = settled.model
    pictured = replace(pictured, target=loaded)
    checks = check(model, settled, pictured)
    if seen is not None:
        checks = replace(checks, reasons=(*checks.reasons, seen.undeclared))
    kept = audit_shards(shards, loaded.info.sha256, pictured)
    if spec.layerwise != "none" and loaded.parts is None:
        check_layouts(loaded, spec)
    method = _method(loaded, pictured, source, kept, progress)
    kept = audit_shards(shards, loaded.info.sha256, pictured, source=method.source)

    def measured(method: Method) -> Report:
        def attribute() -> Mapping[str, Layerwise]:
            if loaded.parts is not None:
                raise SpecError(_LAYERS_OF_PARTS, reason="INVALID_SPEC", subject="layerwise")
            return attribute_layers(loaded, pictured, method.derivative, shards=kept, progress=progress)

        return run(
            loaded.info,
            pictured,
            method,
            checks=checks,
            attribute=attribute if spec.layerwise != "none" else None,
            parts=loaded.parts,
            shards=kept,
            progress=progress,
            started=started,
        )

    try:
        return measured(method)
    except ModelError as problem:
        other = (
            without_forward(method, problem.message, pictured, shards=kept, progress=progress)
            if problem.reason in _WITHOUT_FORWARD
            else None
        )
        if other is None:
            raise
        return measured(other)


def _refuse_constant(model: AuditableModel, images: Images) -> None:
    """Raise where the images get the answer that noise gets: such a model looks perfectly equivariant."""
    noise = AMPLITUDES[0] * np.random.default_rng(0).standard_normal((1, model.channels, model.height, model.width))
    with Session(model.model, provider=images.spec.provider, threads=images.spec.threads) as session:
        looked_at = images.spread(_LOOKED_AT)
        rows = [noise.astype(np.float32), *(images.load([i]) for i in looked_at)]
        answers = [
            session.run({model.input_name: row, **images.further.rows([i])})[0]
            for i, row in zip([0, *looked_at], rows, strict=True)
        ]
    if all(np.array_equal(answer, answers[0]) for answer in answers):
        raise ModelError(
            "the output is the same for every image",
            reason="CONSTANT_OUTPUT",
            subject="output",
            hint="check that the image input reaches the output that is audited",
        )


def _method(
    model: AuditableModel,
    images: Images,
    source: TorchFiles | None,
    shards: ShardStore | None,
    progress: ProgressCallback | None,
) -> Method:
    """Return the method that ``spec.method`` asks for; secants are the quantity itself, whatever it says."""
    if images.spec.method == "torch" and images.spec.secant_px is None:
        from lieaudit.torch import torch_method

        return torch_method(model, images, source, shards=shards, progress=progress)
    return choose_method(model, images, shards=shards, progress=progress)
