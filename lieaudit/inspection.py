"""Looking at a model without auditing it: what would be audited, how, and how much of it exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lieaudit.graph.forward.coverage import OpCoverage, coverage, exact_share
from lieaudit.graph.load import AuditableModel, load_model
from lieaudit.heads.settle import settle
from lieaudit.images import Images
from lieaudit.layerwise import LayerInfo
from lieaudit.layerwise import layers as layer_tree
from lieaudit.metrics.accuracy import Classes, image_classes
from lieaudit.parts.looking import look, may_move
from lieaudit.parts.recognition import recognise
from lieaudit.report import ReportTensor
from lieaudit.running import ImagesLike, as_dataset
from lieaudit.runtime.session import Session
from lieaudit.spec import AuditSpec

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    import onnx

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found; the fields of the message ``lieaudit.v1.Inspection``."""

    name: str
    sha256: str
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    input: ReportTensor
    output: ReportTensor
    outputs: tuple[ReportTensor, ...]
    head: str
    precision: str
    batchable: bool
    node_count: int
    parameter_count: int
    ops: tuple[OpCoverage, ...]
    exact_share: float
    layers: tuple[LayerInfo, ...]
    notes: tuple[str, ...]
    top1: float | None
    image_count: int
    head_why: str
    parts: tuple[str, ...] = ()
    parts_why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; ``top1`` is left out where it was not measured."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value is not None}


def inspect(
    model: str | Path | bytes | onnx.ModelProto,
    spec: AuditSpec | None = None,
    *,
    images: ImagesLike | None = None,
    labels: npt.NDArray[Any] | None = None,
    layers: bool = False,
    name: str = "",
) -> Inspection:
    """Describe a model; with images that have labels, measure its top-1 accuracy on them.

    Parameters
    ----------
    model, images, labels, spec, name
        As of `lieaudit.audit`.
    layers
        Also give the module tree with layouts.

    Raises
    ------
    LieauditError
        As `lieaudit.audit` does for models and images.
    """
    spec = spec or AuditSpec()
    dataset = as_dataset(images, labels) if images is not None else None
    loaded = load_model(model, spec, data=dataset, name=name)
    pictured = Images(dataset, loaded, spec, loaded.further) if dataset is not None else None
    settled = settle(loaded, spec, pictured)
    loaded = settled.model
    pictured = replace(pictured, target=loaded) if pictured is not None else None
    moving = recognise(look(model, loaded, spec, pictured)) if not spec.parts and may_move(loaded.outputs) else None
    classes, unlabelled = image_classes(pictured) if pictured is not None else (None, ())
    covered = coverage(loaded.model)
    info = loaded.info
    return Inspection(
        name=info.name,
        sha256=info.sha256,
        producer=info.producer,
        ir_version=loaded.ir_version,
        opsets=dict(loaded.model.opset_imports) | {"": loaded.info.opset},
        input=info.input,
        output=info.output,
        outputs=loaded.outputs,
        head=info.head,
        precision=info.precision,
        batchable=loaded.batchable,
        node_count=loaded.nodes,
        parameter_count=loaded.parameters,
        ops=tuple(covered),
        exact_share=exact_share(covered),
        layers=tuple(layer_tree(loaded, spec)) if layers else (),
        notes=(*info.notes, *(f"no top-1: {skip.why}" for skip in unlabelled)),
        top1=_top1(loaded, pictured, classes) if pictured is not None and classes is not None else None,
        image_count=pictured.count if pictured is not None else 0,
        head_why="; ".join((settled.choice.why, *settled.reasons)),
        parts=spec.parts or (moving.parts if moving is not None else ()),
        parts_why="" if moving is None else f"{'certain' if moving.certain else 'to settle'}: {moving.why}",
    )


def _top1(model: AuditableModel, images: Images, classes: Classes) -> float:
    """Run every image; return the share whose largest output is its class."""
    at_once = _BATCH if model.batchable else 1
    hits = 0
    with Session(model.model, provider=images.spec.provider, threads=images.spec.threads) as session:
        for number in range(math.ceil(images.count / at_once)):
            indices = list(range(number * at_once, min((number + 1) * at_once, images.count)))
            z = session.run({model.input_name: images.load(indices), **images.further.rows(indices)})[0]
            hits += int(np.sum(np.argmax(z.reshape(len(indices), -1), axis=1) == classes[indices]))
    return hits / images.count
