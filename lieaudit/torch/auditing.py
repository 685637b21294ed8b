"""End-to-end audits by torch JVPs: of a module in process, and of an uploaded source beside its ONNX model."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from lieaudit.errors import DataError, SourceError, UnsupportedOpError
from lieaudit.graph.batch import AMPLITUDES
from lieaudit.heads.checking import Checked
from lieaudit.heads.settle import LOOKED_AT
from lieaudit.images import Images
from lieaudit.method import Method, choose_method
from lieaudit.metrics.head import Head
from lieaudit.progress import StageProgress
from lieaudit.report import Checks, HeadCheck, Layerwise, Report, ReportModel, ReportTensor, Skipped
from lieaudit.running import as_dataset, run, with_budget
from lieaudit.shards import audit_shards
from lieaudit.spec import AuditSpec
from lieaudit.torch.attribution import attribute
from lieaudit.torch.files import TorchFiles
from lieaudit.torch.fingerprint import fingerprint, weights_digest
from lieaudit.torch.function import SourceFunction, batches, fed_values, one_for_all
from lieaudit.torch.head import module_choice, undeclared
from lieaudit.torch.jvp import TorchDifferentiator
from lieaudit.torch.module_map import map_modules
from lieaudit.torch.program import ProgramModule
from lieaudit.torch.source import open_source, verify_source

if TYPE_CHECKING:
    from lieaudit.data import Dataset
    from lieaudit.graph.load import AuditableModel
    from lieaudit.heads.choice import Choice
    from lieaudit.progress import ProgressCallback
    from lieaudit.shards import ShardStore

VERIFIED_IMAGES = 64
"""Images on which a source is compared with the ONNX model: another function differs on every one of them."""


@dataclass(frozen=True, slots=True)
class ModuleTarget:
    """What measuring needs to know of a module (`lieaudit.measure.Target`)."""

    channels: int
    height: int
    width: int
    head: Head
    output_shape: tuple[int, ...]
    pixel_range: tuple[int, int] | None = None

    @property
    def output_size(self) -> int:
        """K, the number of output components."""
        return math.prod(self.output_shape)


def audit(
    module: torch.nn.Module,
    images: npt.NDArray[Any] | Dataset,
    spec: AuditSpec | None = None,
    *,
    labels: npt.NDArray[Any] | None = None,
    name: str = "",
    precision: str = "float64",
    device: str = "cpu",
    others: Mapping[str, object] | None = None,
    progress: ProgressCallback | None = None,
    shards: ShardStore | None = None,
) -> Report:
    """Measure how far a torch module is from equivariant: the same audit as `lieaudit.audit`, differentiated by torch.

    Parameters
    ----------
    module
        Any module; it is not changed.
    images, spec, labels, name, progress, shards
        As `lieaudit.audit`; ``spec.input`` and ``spec.output`` name an argument and an output of ``forward``.
        ``spec.method`` is not looked at; ``spec.layerwise`` adds `lieaudit.torch.attribute`.
    precision, device, others
        See `lieaudit.torch.SourceFunction`. ``spec.feeds`` are others too, one value for all images each.

    Raises
    ------
    LieauditError
        Module, data or spec do not fit; see `lieaudit.errors`.
    """
    spec = spec or AuditSpec()
    started = time.monotonic()
    dataset = as_dataset(images, labels)
    stage = StageProgress(progress, "load", 1)
    others = {**fed_values(spec, dataset.count), **(others or {})}
    function = SourceFunction(
        module, precision=precision, device=device, input=spec.input or "", output=spec.output or "", others=others
    )
    target, shape, choice = _target(function, dataset, spec)
    stage.advance(1)
    size = (target.channels, target.height, target.width)
    weights = weights_digest(module)
    source = "" if shards is None else fingerprint(function, size, batch=_batch(module))
    pictured = Images(dataset, target, replace(spec, method="torch"))
    spec = with_budget(spec, audit_shards(shards, weights, pictured, source=source), device=device)
    pictured = replace(pictured, spec=replace(spec, method="torch"))
    if spec.layerwise != "none" and spec.layouts:  # declared layouts that do not fit are refused before any work
        first = function.tensor(np.zeros((_batch(module) or 2, target.channels, target.height, target.width)))
        map_modules(function, first, layouts=spec.layouts, depth=spec.depth)
    method = Method(
        TorchDifferentiator(function, batch=_batch(module), budget_mib=spec.budget >> 20),
        skipped=(Skipped("layerwise.op", "a torch module is attributed by modules"),) if spec.layerwise == "op" else (),
    )
    info = ReportModel(
        sha256=weights,
        name=name or type(module).__name__,
        producer=f"torch {torch.__version__}",
        opset=0,
        input=ReportTensor(
            function.input, ("N", str(target.channels), str(target.height), str(target.width)), precision, "NCHW"
        ),
        output=ReportTensor(
            function.output or "output", ("N", *map(str, shape)), precision, "NCHW" if len(shape) == 3 else "vector"
        ),
        precision=precision,
        head=target.head.name,
    )
    kept = audit_shards(shards, weights, pictured, source=source)

    def layerwise() -> dict[str, Layerwise]:
        found = attribute(
            module,
            pictured.load(range(pictured.count)),
            spec,
            precision=precision,
            device=device,
            others=others,
            zero_point=pictured.zero_point,
            head=target.head,
        )
        return {generator: attribution.layerwise for generator, attribution in found.items()}

    return run(
        info,
        pictured,
        method,
        checks=Checked(
            Checks(head=HeadCheck(choice.head.name, choice.why)),
            (Skipped("checks.fidelity", "a module is audited as it is: there is no graph beside it to compare with"),),
            undeclared(choice),
        ),
        attribute=None if spec.layerwise == "none" else layerwise,
        shards=kept,
        progress=progress,
        started=started,
    )


def torch_method(
    model: AuditableModel,
    images: Images,
    files: TorchFiles | None = None,
    *,
    shards: ShardStore | None = None,
    progress: ProgressCallback | None = None,
) -> Method:
    """Return the torch method for an ONNX model's uploaded source, checked by the ONNX model's own derivatives.

    Parameters
    ----------
    model, images
        The audit's.
    files
        Where the source's files lie, and the registered factories; default: ``spec.torch_source`` and
        ``spec.torch_weights`` are paths, and nothing is registered.
    shards, progress
        The audit's.

    Raises
    ------
    SourceError
        The container is refused, or the source is not the ONNX model's function on the audit's images.
    SpecError
        No source is given, or the factory is not registered.
    """
    spec = images.spec
    files = files or TorchFiles(
        program=Path(spec.torch_source) if spec.torch_source else None,
        weights=Path(spec.torch_weights) if spec.torch_weights else None,
    )
    module = open_source(
        program=files.program, factory=spec.torch_factory, weights=files.weights, factories=files.factories
    )
    device = spec.provider.replace("tensorrt", "cuda")
    others = _others(images, module)
    function = SourceFunction(module, device=device, others=others)
    check, onnx_skipped = _onnx_method(model, images, shards, progress)
    batch = _batch(module)
    pixels = images.load(images.spread(VERIFIED_IMAGES))
    flat = np.zeros((len(pixels), 1, *pixels.shape[1:]), np.float32)
    z = np.concatenate([check.derivative(pixels[i : i + 1], flat[i : i + 1]).value for i in range(len(pixels))])
    verified = verify_source(function, pixels, z, model.head, batch=batch)
    if verified.head_included:
        function = SourceFunction(module, device=device, others=others, undo=model.head.function)
    note = (
        f"the torch source is the function of the ONNX model: largest deviation {verified.deviation:.2e} of the largest"
        f" output on {verified.images} images; values and derivatives are the source's, the"
        f" cross-check and any layers the ONNX graph's, in {model.info.precision}"
    )
    return Method(
        TorchDifferentiator(function, batch=batch, budget_mib=spec.budget >> 20),
        check.derivative,
        skipped=onnx_skipped,
        notes=(note,),
        precision=function.precision,
        source="" if shards is None else fingerprint(function, pixels.shape[1:], batch=batch),
    )


def _others(images: Images, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a source the values that the ONNX graph was fed, for its arguments of the same names.

    A source without such an argument holds the value itself; whether it does, `verify_source` sees.

    Raises `SpecError` FEED_MISMATCH where one differs between images: a source is called with one value for all.
    """
    if images.further.values:
        raise one_for_all(next(iter(images.further.values)))
    found = {}
    known = inspect.signature(module.forward).parameters
    for feed in images.further.feeds:
        name = feed.name
        if name not in known:
            continue
        array = images.spec.feeds[name].array() if feed.source == "spec" else images.dataset.array(name)
        if array is not None:
            found[name] = torch.from_numpy(np.array(array.astype(feed.dtype)[:1] if feed.per_image else array))
    return found


def _onnx_method(
    model: AuditableModel, images: Images, shards: ShardStore | None, progress: ProgressCallback | None
) -> tuple[Method, tuple[Skipped, ...]]:
    """Return the ONNX model's own method: forward mode, or finite differences where its graph has none."""

    def chosen(name: str) -> Method:
        return choose_method(
            model, replace(images, spec=replace(images.spec, method=name)), shards=shards, progress=progress
        )

    try:
        return chosen("forward"), ()
    except (UnsupportedOpError, ModuleNotFoundError) as problem:
        return chosen("finite_difference"), (Skipped("method.forward", str(problem)),)


def _target(
    function: SourceFunction, dataset: Dataset, spec: AuditSpec
) -> tuple[ModuleTarget, tuple[int, ...], Choice]:
    size = dataset.size_after(spec.preprocessing) or spec.size
    if not size:
        raise DataError(
            "the images differ in size and nothing says what size the module takes",
            reason="UNKNOWN_IMAGE_SIZE",
            subject="preprocessing",
            hint="set a crop in the preprocessing, or a size in the spec",
        )
    channels = dataset.image_shape[0] if dataset.image_shape is not None else 3
    looked_at = sorted({int(i) for i in np.linspace(0, dataset.count - 1, min(LOOKED_AT, dataset.count))})

    def load(index: int) -> npt.NDArray[np.float32]:
        return dataset.load(
            index,
            index + 1,
            preprocessing=spec.preprocessing,
            channels=channels,
            height=size[0],
            width=size[1],
        )

    pixels = np.concatenate([load(index) for index in looked_at])
    batch = _batch(function.module)
    x = function.tensor(pixels if batch is None else np.resize(pixels, (batch, *pixels.shape[1:])))
    with torch.no_grad():
        z = function(x)
    _refuse_constant(function, pixels.shape[1:])
    shape = tuple(z.shape[1:])
    labels = dataset.labels[looked_at] if dataset.labels is not None and batch is None else None
    choice = module_choice(spec, function, x, z, labels)
    return ModuleTarget(channels, size[0], size[1], choice.head, shape), shape, choice


def _refuse_constant(function: SourceFunction, shape: tuple[int, ...]) -> None:
    """Raise `SourceError` where images of noise give one output: such a module looks perfectly equivariant."""

    def answers_alike(amplitude: float) -> bool:
        noise = function.tensor(amplitude * np.random.default_rng(0).standard_normal((2, *shape)))
        with torch.no_grad():
            first, second = torch.cat([function(noise[i]) for i in batches(2, _batch(function.module) or 2)])[:2]
        return torch.equal(first, second)

    if all(map(answers_alike, AMPLITUDES)):
        raise SourceError(
            "the output is the same for every image",
            reason="CONSTANT_OUTPUT",
            subject=function.output or "output",
            hint="check that the image argument reaches the output that is audited",
        )


def _batch(module: torch.nn.Module) -> int | None:
    return module.batch if isinstance(module, ProgramModule) else None
