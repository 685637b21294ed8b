"""The proof that nothing was lost: the graph as it was given, straight in onnxruntime, against what is audited."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from lieaudit.errors import ModelError
from lieaudit.heads.steps import steps_of
from lieaudit.metrics.head import Head
from lieaudit.report import Fidelity, Skipped
from lieaudit.runtime.failures import Stop
from lieaudit.runtime.providers import find_provider, usable_cores

if TYPE_CHECKING:
    from lieaudit.heads.settle import Settled
    from lieaudit.images import Images
    from lieaudit.parts.binding import BoundParts

FIDELITY = "FIDELITY"
"""Code of an inconclusive audit: the audited function is not the model's."""

ALLOWED = 1e-4
"""Of the largest output, for float32 and float64: other fusions and blockings of the same sums."""

ALLOWED_16_BITS = 1e-2
"""A graph in 16 bits rounds every tensor to three digits; the audit's does not."""

ALLOWED_INTEGERS = 5e-2
"""Maps and vectors of one component behind int8 arithmetic, whose kernels round differently between processors."""

ALLOWED_TOP1 = 0.1
"""Share of images whose top-1 may differ where a graph computes in int8: ties and near-ties."""

_LEVELS = 3.0
"""onnxruntime's own optimisation levels may differ by a third of what is allowed."""

CEILING = 1e-2
"""Never more is allowed because onnxruntime's own optimisation levels differ: a check that allows anything is none."""

Array = npt.NDArray[Any]


def compare(source: str | Path | bytes | onnx.ModelProto, settled: Settled, images: Images) -> Fidelity | Skipped:
    """Run the graph as it was given on the images that were looked at, and compare with the audited function.

    Returns
    -------
    What was found, or why it could not be.

    Raises
    ------
    ModelError
        NONDETERMINISTIC: the graph answers differently twice.
    """
    if settled.rows is None:
        return Skipped("checks.fidelity", "no image was looked at")
    original = _Original(source, settled, images)
    try:
        theirs = original.run(list(settled.indices))
    except _NotRunnableError as problem:
        return Skipped("checks.fidelity", str(problem))
    ours = _shown(settled)
    if settled.model.parts is not None:
        return _of_parts(settled.model.parts, ours, theirs, settled, original)
    if settled.model.tail.logarithm:
        theirs = np.exp(theirs)  # of probabilities that underflow in float32 the logarithm is infinite
    finite = np.isfinite(theirs)
    scale = _scale(settled, np.abs(theirs), finite)
    step = settled.model.tail.scale
    if steps_of(settled.model.model).rounding and ours.ndim == 2 and ours.shape[1] > 1:
        differs = float(np.mean(_other_top1(ours, theirs, step)))
        return Fidelity(differs, ALLOWED_TOP1, len(ours), differs <= ALLOWED_TOP1, by="top1")
    # where the model as given overflows, and the audited function does not, it is another function altogether
    deviation = float(np.max(np.abs(ours - theirs), where=finite, initial=0.0)) / scale if finite.all() else 1.0
    allowed = _allowed(settled, step / scale)
    if deviation > allowed and finite.all():
        allowed = max(allowed, min(CEILING, _LEVELS * original.levels_differ(list(settled.indices)) / scale))
    return Fidelity(deviation, allowed, len(ours), deviation <= allowed)


def _of_parts(parts: BoundParts, ours: Array, theirs: Array, settled: Settled, original: _Original) -> Fidelity:
    """Compare part by part, each relative to its own largest value; the part that is farthest off decides."""
    found = []
    levels: float | None = None
    for reading in parts.readings:
        own, given = ours[:, reading.places], theirs[:, reading.places]
        scale = float(np.max(np.abs(given), where=np.isfinite(given), initial=0.0)) or 1.0
        deviation = float(np.max(np.abs(own - given))) / scale if np.isfinite(given).all() else 1.0
        allowed = _allowed(settled, 0.0)
        if deviation > allowed and np.isfinite(given).all():
            levels = original.levels_differ(list(settled.indices)) if levels is None else levels
            allowed = max(allowed, min(CEILING, _LEVELS * levels / scale))
        found.append(Fidelity(deviation, allowed, len(ours), deviation <= allowed))
    return max(found, key=lambda one: one.deviation / one.allowed)


def reasons(found: Fidelity | Skipped) -> tuple[str, ...]:
    """Return why no result is conclusive; empty where the audited function is the model's."""
    if isinstance(found, Skipped) or found.ok:
        return ()
    what = (
        f"another top-1 than the model as given on {100 * found.deviation:.0f} % of {found.images} images"
        if found.by == "top1"
        else f"outputs that differ from the model's as given by {found.deviation:.2g} of the largest one, "
        f"where {found.allowed:.2g} is allowed"
    )
    return (f"{FIDELITY}: the audited function has {what}; please report the model",)


class _NotRunnableError(Exception):
    """The original graph does not run as it is."""


class _Original:
    """The graph as it was given."""

    def __init__(self, source: str | Path | bytes | onnx.ModelProto, settled: Settled, images: Images) -> None:
        self._source: str | bytes
        if isinstance(source, onnx.ModelProto):
            self._source = source.SerializeToString()
        else:
            self._source = source if isinstance(source, bytes) else str(source)
        self._settled = settled
        self._images = images
        parts = settled.model.parts
        self._names = [settled.model.info.output.name] if parts is None else list(parts.outputs)

    def run(self, indices: list[int]) -> Array:
        """Return the outputs of images, as real values arranged as the audited ones: (n, *K) float64."""
        session = self._session("ORT_ENABLE_ALL")
        first = self._row(session, indices[0])
        again = self._row(session, indices[0])
        if not np.array_equal(first, again, equal_nan=True):
            raise ModelError(
                "two runs on the same image give different outputs",
                reason="NONDETERMINISTIC",
                subject="model",
                hint="export the model in evaluation mode, without random ops",
            )
        return np.concatenate([first, *(self._row(session, index) for index in indices[1:])])

    def levels_differ(self, indices: list[int]) -> float:
        """Return the largest difference that onnxruntime's own optimisation makes on these images."""
        found = []
        for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"):
            session = self._session(level)
            found.append(np.concatenate([self._row(session, index) for index in indices]))
        differences = np.abs(np.stack(found[:-1]) - found[-1])
        return float(np.max(differences, where=np.isfinite(differences), initial=0.0))

    def _session(self, level: str) -> Any:
        import onnxruntime

        spec = self._images.spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = spec.threads or usable_cores()
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        try:
            session = onnxruntime.InferenceSession(
                self._source,
                options,
                providers=find_provider(spec.provider).chain(),
                # it moves zeros into windows where they win: see lieaudit.runtime.session
                disabled_optimizers=["Pad_Fusion"],
            )
        except Exception as problem:
            raise _NotRunnableError(
                f"onnxruntime does not load the graph as it was given: {_why(problem)}"
            ) from problem
        known = [value.name for value in session.get_outputs()]
        for name in self._names:
            if name not in known:
                raise _NotRunnableError(f"{name!r} is no output of the graph as it was given")
        return session

    def _row(self, session: Any, index: int) -> Array:
        model = self._settled.model
        given = next(value for value in session.get_inputs() if value.name == model.info.input.name)
        image = self._images.load([index])
        if model.info.input.layout == "NHWC":
            image = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
        batch = given.shape[0] if given.shape else None  # a graph need not state its shape
        image = np.repeat(image, batch, axis=0) if isinstance(batch, int) and batch > 1 else image
        try:
            feeds = {given.name: image.astype(model.info.input.dtype), **self._beside(session, index)}
            values = session.run(self._names, feeds)
        except Exception as problem:
            raise _NotRunnableError(f"onnxruntime does not run the graph as it was given: {_why(problem)}") from problem
        if model.parts is not None:
            rows = [np.asarray(v, np.float64).reshape(-1) for v in values]
            first = [row[:size] for row, size in zip(rows, model.parts.sizes, strict=True)]
            return np.concatenate(first)[None, model.parts.kept]
        value = np.asarray(values[0])
        if value.dtype.kind in "iu":
            value = model.tail.scale * (value.astype(np.float64) - model.tail.zero_point)
        size = self._settled.shape_before
        row = value.astype(np.float64).reshape(-1, *size)[:1]
        return model.arrangement.apply(row) if model.arrangement is not None else row

    def _beside(self, session: Any, index: int) -> dict[str, Array]:
        """Return what the graph's further inputs were fed."""
        model = self._settled.model
        feeds = {
            name: rows[index : index + 1] if differs else rows for name, (rows, differs) in model.further.given.items()
        }
        others = [v for v in session.get_inputs() if v.name not in feeds and v.name != model.info.input.name]
        return feeds | {value.name: _anything(value) for value in others}


def _anything(value: Any) -> Array:
    """Return a value of the right type and rank to an input that the audited output does not read."""
    dtype = value.type.removeprefix("tensor(").removesuffix(")").replace("float", "float32", 1)
    dtype = {"float3216": "float16", "double": "float64"}.get(dtype, dtype)
    return np.zeros([size if isinstance(size, int) else 1 for size in value.shape], dtype)


def _shown(settled: Settled) -> Array:
    """Return what the graph shows of the audited rows: its own head, and no other."""
    tail, rows = settled.model.tail, np.asarray(settled.rows)
    if not tail.function:
        return rows
    return Head(tail.function, spatial=False, axis=settled.choice.head.axis).value(rows)


def _other_top1(ours: Array, theirs: Array, step: float) -> npt.NDArray[np.bool_]:
    """Say of every image whether our largest component is not their largest one, ties within one step allowed."""
    at = np.argmax(ours, axis=1)
    chosen = theirs[np.arange(len(theirs)), at]
    return np.asarray(chosen < theirs.max(axis=1) - 1.001 * step)


def _scale(settled: Settled, sizes: Array, finite: npt.NDArray[np.bool_]) -> float:
    """Return what differences are relative to: the largest output, but 1 for scores, which may all be near 0.

    The largest of the probabilities of a softmax over K classes is 1/K at the least, and their error is relative to it.
    """
    if settled.model.tail.function == "sigmoid":
        return 1.0
    return float(np.max(sizes, where=finite, initial=0.0)) or 1.0


def _allowed(settled: Settled, step: float) -> float:
    precision = settled.model.info.precision
    least = ALLOWED_16_BITS if "float16" in precision else ALLOWED
    if steps_of(settled.model.model).rounding:
        least = max(least, ALLOWED_INTEGERS)
    # the last rounding of a peeled quantiser, to the nearest step, and a value beyond its range
    return max(least, 1.001 * step)


def _why(problem: Exception) -> str:
    stop = Stop.of(problem, {})
    return f"{stop.where}: {stop.why}" if stop.where else stop.why
