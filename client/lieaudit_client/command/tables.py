"""What people read: tables of a report and of an inspection."""

from __future__ import annotations

from collections.abc import Iterable

from lieaudit_api.v1 import model_pb2, report_pb2
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lieaudit_client.formats.advice import CAVEAT, advice
from lieaudit_client.formats.columns import Column, Fitted, brief
from lieaudit_client.formats.directions import directions_view
from lieaudit_client.formats.legend import legend
from lieaudit_client.formats.numbers import (
    FEW_IMAGES,
    feed_line,
    fidelity_line,
    interval,
    lead,
    number,
    per_unit,
    percent,
    relative,
    short,
    verdict_of,
)
from lieaudit_client.formats.parts import parts_view
from lieaudit_client.layerwise_view import TOP, layer_tree, layers_view
from lieaudit_client.printable import printable_copy

_PATHS_SHOWN = 3

VERDICTS = {
    "agrees": "agrees with",
    "disagrees": "DISAGREES with",
    "could_not_check": "could not be checked by",
}
"""What is said of a cross-check."""


def report_view(report: report_pb2.Report, *, top: int = TOP, trees: bool = False) -> Iterable[RenderableType]:
    """Return the whole text view of a report; of its layers the ``top`` largest, and every tree where asked for."""
    report = printable_copy(report)
    yield from _head(report)
    yield Text("")
    if report.results or not report.parts:
        yield _generators(report)
    yield from parts_view(report)
    yield from legend(report)
    if report.HasField("affine"):
        yield from directions_view(report.affine)
    order = _in_order(report, report.layerwise)
    layers = [(name, report.layerwise[name]) for name in order]
    yield from layers_view(layers, top=top, trees=trees)
    found = advice(layers)
    if found:
        yield _bullets("what to change", [*(item.sentence() for item in found), CAVEAT])
    missing = _Missing(report)
    if missing.reasons:
        yield _bullets("not measured", missing.lines())
    if report.reasons:
        yield _bullets(f"{report.status}, because", report.reasons)


def inspection_view(inspection: model_pb2.Inspection, *, layers: bool) -> Iterable[RenderableType]:
    """Return the text view of an inspection."""
    inspection = printable_copy(inspection)
    facts = _facts()
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(inspection.opsets.items()))
    facts.add_row("model", Text(f"{inspection.name}  {short(inspection.sha256)}"))
    facts.add_row("producer", Text(f"{inspection.producer or 'unknown'}, IR {inspection.ir_version}, opset {opsets}"))
    facts.add_row("input", Text(_tensor(inspection.input)))
    facts.add_row("output", Text(_tensor(inspection.output)))
    for other in inspection.outputs:
        if other.name != inspection.output.name:
            facts.add_row("other output", Text(_tensor(other)))
    facts.add_row("head", Text(": ".join(filter(None, (inspection.head, inspection.head_why)))))
    for part in inspection.parts:
        facts.add_row("part", Text(f"--part '{part}'"))
    if inspection.parts_why:
        facts.add_row("parts", Text(inspection.parts_why))
    batch = "any batch size" if inspection.batchable else "one image at a time"
    facts.add_row("precision", Text(f"{inspection.precision}, {batch}"))
    facts.add_row("size", Text(f"{inspection.node_count} nodes, {inspection.parameter_count:,} parameters"))
    if inspection.image_count:
        top1 = percent(inspection.top1) if inspection.HasField("top1") else "not measured (the data hold no labels)"
        facts.add_row("top-1", Text(f"{top1} of {inspection.image_count} images"))
    yield facts
    if inspection.notes:
        yield _bullets("notes", inspection.notes)
    exact = percent(inspection.exact_share)
    yield Text(f"\nforward mode: {exact} of the nodes that carry a tangent are differentiated exactly")
    yield _coverage(inspection)
    if layers:
        yield Text("modules")
        yield layer_tree(inspection.layers)


def _head(report: report_pb2.Report) -> Iterable[RenderableType]:
    model, data, there = report.model, report.data, report.environment
    facts = _facts()
    facts.add_row("model", Text(f"{model.name or 'unnamed'}  {short(model.sha256)}"))
    facts.add_row("function", Text(f"{_tensor(model.input)} → {_tensor(model.output)}, head {model.head}"))
    top1 = f", top-1 {percent(data.top1)}" if data.HasField("top1") else ""
    facts.add_row("images", Text(f"{data.count} of {data.name or 'unnamed'}  {short(data.sha256)}{top1}"))
    for feed in data.feeds:
        facts.add_row("fed", Text(feed_line(feed)))
    engine = f"torch {there.torch}" if there.torch else f"onnxruntime {there.onnxruntime}"
    facts.add_row("computed", Text(f"{model.precision} on {there.provider} ({there.device}), {engine}"))
    for op, count in sorted(there.fallback_ops.items()):
        facts.add_row("fallback", Text(f"{op} ×{count} ran elsewhere than on {there.provider}"))
    if report.checks.HasField("head"):
        facts.add_row("head", Text(f"{report.checks.head.chosen}: {report.checks.head.why}"))
    if report.checks.HasField("fidelity"):
        facts.add_row("fidelity", Text(fidelity_line(report.checks.fidelity)))
    for note in model.notes:
        facts.add_row("note", Text(note))
    yield facts


class _Missing:
    """What was not measured: the reasons, each with a number that cells of the table refer to."""

    def __init__(self, report: report_pb2.Report) -> None:
        self.reasons: dict[str, list[str]] = {}
        for entry in report.skipped:
            self.reasons.setdefault(entry.why, []).append(entry.what)

    def cell(self, path: str) -> str:
        """Return the text for a cell that holds no value."""
        for place, paths in enumerate(self.reasons.values(), 1):
            if path in paths:
                return f"not measured ({place})"
        return "not measured"

    def lines(self) -> Iterable[str]:
        """Return a line for each reason."""
        for place, (why, paths) in enumerate(self.reasons.items(), 1):
            more = f" and {len(paths) - _PATHS_SHOWN} more" if len(paths) > _PATHS_SHOWN else ""
            yield f"({place}) {', '.join(map(brief, paths[:_PATHS_SHOWN]))}{more}: {why}"


_MEAN = (Column("LEE", right=True), Column("95 % interval", 2, right=True))
_TYPICAL = (Column("median", 4, right=True), Column("geometric", 6, right=True))


def _generators(report: report_pb2.Report) -> Fitted:
    missing = _Missing(report)
    few = report.data.count < FEW_IMAGES
    columns = (
        Column("generator", wraps=True),
        *lead(_MEAN, _TYPICAL, few=few),
        Column("unit", 5, wraps=True, bare=True),
        Column("LEE/px²", 7, right=True),
        Column("relative", 3, right=True),
        Column("error bar", 1, right=True),
        Column("method", 8, wraps=True, bare=True),
        Column("status"),
    )
    names = dict.fromkeys([*report.spec.generators, *_in_order(report, report.results)])
    return Fitted(columns, [_generator(name, report, missing, few=few) for name in names])


def _generator(name: str, report: report_pb2.Report, missing: _Missing, *, few: bool) -> list[Text]:
    path = f"results.{name}"
    if name not in report.results:
        absent = Text(missing.cell(path))
        return [Text(name), *lead((absent, Text("")), (Text(""), Text("")), few=few), *[Text("")] * 6]
    result = report.results[name]
    lacks_interval = any(entry.what == f"{path}.ci95" for entry in report.skipped)
    mean = (
        Text(number(result.lee)),
        Text(missing.cell(f"{path}.ci95") if lacks_interval else interval(result.ci95)),
    )
    geometric = number(result.geometric_mean) if result.HasField("geometric_mean") else "–"
    typical = (Text(number(result.median)), Text(geometric))
    return [
        Text(name),
        *lead(mean, typical, few=few),
        Text(per_unit(result.unit)),
        Text(number(result.lee_per_px2) if result.HasField("lee_per_px2") else "–"),
        Text(relative(result) if result.HasField("relative") else missing.cell(f"{path}.relative")),
        Text(f"±{number(result.error_bar)}"),
        Text(_method(result)),
        Text(result.status, style="" if result.status == "ok" else "bold yellow"),
    ]


def _method(result: report_pb2.GeneratorResult) -> str:
    name = result.method.replace("_", " ")
    if result.method == "secant":
        return f"{name}, {result.secant_px:g} px" if result.HasField("secant_px") else f"{name}, t = {result.step:g}"
    if not result.HasField("agreement"):
        return name
    word = VERDICTS[verdict_of(result.agreement)]
    return f"{name}, {word} {result.agreement.method.replace('_', ' ')}"


def _in_order(report: report_pb2.Report, names: Iterable[str]) -> list[str]:
    order = list(report.spec.generators)
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def _coverage(inspection: model_pb2.Inspection) -> Fitted:
    columns = (
        Column("op", wraps=True),
        Column("count", right=True),
        Column("rule", 2, wraps=True),
        Column("exact"),
        Column("note", 3, wraps=True, bare=True),
    )
    ops = sorted(inspection.ops, key=lambda entry: (entry.exact, -entry.count, entry.op))
    return Fitted(columns, [[op.op, str(op.count), op.rule, "yes" if op.exact else "no", op.note] for op in ops])


def _facts() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _tensor(tensor: report_pb2.ReportTensor | model_pb2.TensorInfo) -> str:
    return f"{tensor.name} {tensor.dtype} [{', '.join(tensor.shape)}] {tensor.layout}".rstrip()


def _bullets(title: str, lines: Iterable[str]) -> RenderableType:
    listed = Table(box=None, show_header=False, pad_edge=False, padding=(0, 0, 0, 1))
    listed.add_column(no_wrap=True)
    listed.add_column(overflow="fold")
    for line in lines:
        listed.add_row("•", Text(line))
    return Group(Text(f"\n{title}"), Padding(listed, (0, 0, 0, 2)))
