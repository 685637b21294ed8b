"""Normalising a model once, so that nothing downstream meets the variety of exporters.

The normalised graph has one float32 input (N, C, H, W) and one output z of raw values before the head; see
`AuditableModel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from lieaudit.errors import ModelError
from lieaudit.feeds import Further
from lieaudit.graph import batch, further, image_input, joined, names, output, pixels, tail, versions
from lieaudit.graph.arrangement import Arrangement
from lieaudit.graph.forward.expand import expand
from lieaudit.graph.forward.sequences import resolve_sequences
from lieaudit.graph.inference import infer_shapes
from lieaudit.graph.precision import round_output, to_float32
from lieaudit.graph.read import read_model
from lieaudit.graph.tail import Tail
from lieaudit.graph.training import refuse_random
from lieaudit.heads.choice import Facts, choose
from lieaudit.heads.evidence import consumer, sum_tolerance
from lieaudit.metrics.head import Head
from lieaudit.parts.binding import BoundParts
from lieaudit.parts.text import read_parts
from lieaudit.report import ReportModel, ReportTensor
from lieaudit.runtime.failures import cleaned
from lieaudit.spec import AuditSpec

if TYPE_CHECKING:
    from lieaudit.data import Dataset


@dataclass(frozen=True, slots=True)
class AuditableModel:
    """A model ready to be audited.

    Attributes
    ----------
    model
        Its first input takes the images, float32 (N, C, H, W), the others what `further` holds; one output, float32
        (N, *K), the raw values before the head. No model-local functions, no initializers among the inputs.
    output_shape
        K …, the output without its batch axis.
    head
        The function applied to z in float64 and the symmetry's action on it: a proposal, until `lieaudit.heads.settle`
        has seen the graph's layout and the user's images.
    further
        Values of its further inputs, which come with each image.
    facts, tail, raw_output
        What the graph says about its output, what was taken off its end, and the tensor that z was made of.
    arrangement
        How z was made a map (N, …, H, W); None where it was left as it is.
    pixel_range
        Least and greatest pixel where the graph was exported with an integer image; None for floats.
    batchable
        Rows of a batch were checked to be independent of each other; False: the graph works for N = 1 only.
    noise_alike
        Images of noise of all sizes give the same output: either the model is constant, or it has an eye for images.
    parameters, nodes
        Number of weights and of nodes, as exported.
    info
        What the report says about the model.
    outputs
        All outputs of the original graph.
    parts
        What the raw values are made of, where the spec says; then ``head`` is the identity.
    """

    model: ir.Model
    input_name: str
    output_name: str
    channels: int
    height: int
    width: int
    output_shape: tuple[int, ...]
    head: Head
    further: Further
    facts: Facts
    tail: Tail
    raw_output: str
    pixel_range: tuple[int, int] | None
    batchable: bool
    noise_alike: bool
    parameters: int
    nodes: int
    ir_version: int
    info: ReportModel
    outputs: tuple[ReportTensor, ...]
    arrangement: Arrangement | None = None
    parts: BoundParts | None = None

    @property
    def output_size(self) -> int:
        """K, the number of output components of one image."""
        size = 1
        for dimension in self.output_shape:
            size *= dimension
        return size


def load_model(
    source: str | Path | bytes | onnx.ModelProto,
    spec: AuditSpec | None = None,
    *,
    data: Dataset | None = None,
    name: str = "",
) -> AuditableModel:
    """Read and normalise a model.

    Parameters
    ----------
    source
        A path (external data beside it is read), bytes, or a ModelProto.
    spec
        Chooses input, output, layout and head where the graph leaves a choice.
    data
        The images: they say the sizes that the graph leaves open, and may hold values of its further inputs.
    name
        What the report calls the model; default the file's name.

    Raises
    ------
    ModelError, SpecError
        With the reasons of `read_model`, `image_input`, `further`, `pixels`, `output` and of the session.
    """
    spec = spec or AuditSpec()
    read = read_model(source)
    model = read.model
    notes: list[str] = [*read.notes]
    original_ir_version, original_opset = model.ir_version, model.opset_imports.get("", 0)
    _inline(model)
    if note := versions.settle(model):
        notes.append(note)
    nodes = model.graph.num_nodes()
    parameters = sum(v.const_value.size for v in model.graph.initializers.values() if v.const_value is not None)
    original_outputs = tuple(_tensor(value) for value in model.graph.outputs)

    audited_input = image_input.choose(model.graph, spec, data)
    size = image_input.size_of(audited_input, spec, data)
    original_input = _tensor(audited_input.value, audited_input.layout)
    parts = read_parts(spec.parts)
    bound, chosen, reader = _chosen(model, audited_input.value, spec, data, notes)
    original_output, output_type = joined.described([_tensor(value) for value in chosen]), chosen[0].dtype
    names.set_apart(model)
    audited_output = joined.join(model, chosen, audited_input.value) if parts else chosen[0]
    converted = to_float32(model, audited_input.value)
    if converted:
        notes.append(f"the graph was {converted} to float32 for the audit")
    audited_output = _written_out(model, audited_output, notes)
    pixel_range = pixels.range_of(audited_input.value)
    if note := pixels.to_real(model, audited_input.value):
        notes.append(note)
    _settle(model)
    model.graph.outputs[:] = [audited_output]
    image_input.normalise(model, audited_input, size, notes)
    _settle(model)  # again: the lengths of some sequences follow from the image's size
    beside = bound.settled(model.graph)
    taken_off = tail.peel(model, audited_output, spec.head, notes, beside.values)
    common_passes.RemoveUnusedNodesPass()(model)
    refuse_random(model)
    found = _batchable(model, (audited_input.channels, *size), beside, original_input)
    model = found.model
    notes += _of_the_batch(found, round_output(model, found.output_dtype))
    raw_output = model.graph.outputs[0].name or ""
    shape = output.normalise(model, found.output_shape)
    kept = joined.keep(model, parts, audited_input.channels, size, spec, beside.values) if parts else None
    shape = shape if kept is None else (len(kept.kept),)
    facts = _facts(original_output.name, shape, taken_off, reader, output_type)
    head = Head("identity", spatial=False) if parts else choose(facts, spec.head).head
    common_passes.NameFixPass()(model)
    _check(model)
    return AuditableModel(
        model=model,
        input_name=model.graph.inputs[0].name or "",
        output_name=model.graph.outputs[0].name or "",
        channels=audited_input.channels,
        height=size[0],
        width=size[1],
        further=beside,
        output_shape=shape,
        head=head,
        facts=facts,
        tail=taken_off,
        raw_output=raw_output,
        pixel_range=pixel_range,
        batchable=found.batchable,
        noise_alike=found.alike,
        parameters=parameters,
        nodes=nodes,
        ir_version=original_ir_version,
        info=ReportModel(
            sha256=read.sha256,
            name=name or read.name or model.graph.name or "model",
            producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
            opset=original_opset,
            input=original_input,
            output=original_output,
            precision=f"float32 ({converted})" if converted else "float32",
            head=head.name if kept is None else "parts",
            notes=tuple(notes),
        ),
        outputs=original_outputs,
        parts=kept,
    )


def with_note(model: AuditableModel, note: str) -> AuditableModel:
    """Return a model whose report says something more of it."""
    return replace(model, info=replace(model.info, notes=(*model.info.notes, note)))


def _inline(model: ir.Model) -> None:
    """Inline functions for good, and make plain initializers of those that are also inputs."""
    common_passes.RemoveInitializersFromInputsPass()(model)
    common_passes.InlinePass()(model)
    names.record_origins(model)


def _chosen(
    model: ir.Model, image: ir.Value, spec: AuditSpec, data: Dataset | None, notes: list[str]
) -> tuple[further.Bound, list[ir.Value], str]:
    """Choose what is audited; return the further inputs that it needs, it, and an op that reads it as logits."""
    reader = ""
    if spec.parts:
        chosen = joined.choose(model, read_parts(spec.parts))
        return further.bind(model.graph, image, spec, data, notes), chosen, reader
    if spec.output is not None:
        named = output.choose(model.graph, spec, [])
        reader = consumer(named)
        _drop_other_outputs(model, named)
    bound = further.bind(model.graph, image, spec, data, notes)
    only = output.choose(model.graph, spec, notes)
    return bound, [only], reader or consumer(only)


def _drop_other_outputs(model: ir.Model, kept: ir.Value) -> None:
    """Leave the one output that was asked for by name, and what it needs: other outputs' inputs want no value."""
    model.graph.outputs[:] = [kept]
    common_passes.RemoveUnusedNodesPass()(model)


def _batchable(
    model: ir.Model, shape: tuple[int, int, int], beside: Further, declared: ReportTensor
) -> batch.Batchable:
    try:
        return batch.make_batchable(model, shape, beside.values)
    except ModelError as problem:
        raise image_input.at_size(problem, declared, shape[1:]) from problem


def _of_the_batch(found: batch.Batchable, rounded: str) -> list[str]:
    notes = [] if found.batchable else ["the graph works for one image at a time only; rows run one by one"]
    if found.freed is not None:
        notes.append(f"the graph declares a batch of {found.freed}; one image at a time gives the same outputs")
    if rounded:
        notes.append(rounded)
    if found.alike:
        notes.append("noise images of every amplitude give the same output")
    return notes


def _facts(name: str, shape: tuple[int, ...], taken_off: Tail, reader: str, dtype: ir.DataType | None) -> Facts:
    return Facts(
        name,
        shape,
        ending=taken_off.op,
        function=taken_off.function,
        axis=min(taken_off.axis, len(shape)),
        consumer=reader,
        tolerance=sum_tolerance(math.prod(shape), taken_off.scale, dtype),
    )


def _written_out(model: ir.Model, output: ir.Value, notes: list[str]) -> ir.Value:
    """Write out onnxruntime's own ops of a float32 graph; in 16 bits their epsilons would vanish. Return the output."""
    place = list(model.graph.outputs).index(output)
    if written := expand(model):
        notes.append(f"onnxruntime's own ops were written out: {', '.join(written)}")
    return model.graph.outputs[place]


def _settle(model: ir.Model) -> None:
    """Infer shapes, resolve sequences and drop what nothing reads."""
    infer_shapes(model)
    resolve_sequences(model)
    common_passes.RemoveUnusedNodesPass()(model)


def _tensor(value: ir.Value, layout: str = "") -> ReportTensor:
    shape = (
        tuple(str(d.value if isinstance(d, ir.SymbolicDim) else d) for d in value.shape)
        if value.shape is not None
        else ()
    )
    if not layout:
        layout = "vector" if len(shape) == 2 else ("NCHW" if len(shape) == 4 else "")
    return ReportTensor(value.name or "", shape, str(value.dtype.numpy()) if value.dtype is not None else "", layout)


def _check(model: ir.Model) -> None:
    try:
        common_passes.CheckerPass()(model)
    except Exception as problem:
        text = cleaned(str(problem.__cause__ or problem).strip().split("\n")[0])
        raise ModelError(f"not a valid ONNX model: {text}", reason="INVALID_MODEL", subject="model") from problem
