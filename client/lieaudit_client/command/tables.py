"""What people read: tables of a report and of an inspection."""

from __future__ import annotations

from collections.abc import Iterable

from lieaudit_api.v1 import model_pb2, report_pb2
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lieaudit_client.formats.numbers import (
    FEW_IMAGES,
    feed_line,
    fidelity_line,
    interval,
    lead,
    number,
    percent,
    relative,
    short,
    verdict_of,
)
from lieaudit_client.layerwise_view import layer_tree, layerwise_view
from lieaudit_client.printable import printable_copy

_PATHS_SHOWN = 3

VERDICTS = {
    "agrees": "agrees with",
    "disagrees": "DISAGREES with",
    "could_not_check": "could not be checked by",
}
"""What is said of a cross-check."""


def report_view(report: report_pb2.Report) -> Iterable[RenderableType]:
    """Give the whole text view of a report."""
    report = printable_copy(report)
    yield from _head(report)
    yield _generators(report)
    for generator in _in_order(report, report.layerwise):
        yield from layerwise_view(generator, report.layerwise[generator])
    missing = _Missing(report)
    if missing.reasons:
        yield _bullets("not measured", missing.lines())
    if report.reasons:
        yield _bullets(f"{report.status}, because", report.reasons)


def inspection_view(inspection: model_pb2.Inspection, *, layers: bool) -> Iterable[RenderableType]:
    """Give the text view of an inspection."""
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
        """Give the text for a cell that holds no value."""
        for place, paths in enumerate(self.reasons.values(), 1):
            if path in paths:
                return f"not measured ({place})"
        return "not measured"

    def lines(self) -> Iterable[str]:
        """Give a line for each reason."""
        for place, (why, paths) in enumerate(self.reasons.items(), 1):
            more = f" and {len(paths) - _PATHS_SHOWN} more" if len(paths) > _PATHS_SHOWN else ""
            yield f"({place}) {', '.join(paths[:_PATHS_SHOWN])}{more}: {why}"


def _generators(report: report_pb2.Report) -> Table:
    missing = _Missing(report)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("generator", no_wrap=True, max_width=40)
    few = report.data.count < FEW_IMAGES
    for name in (*lead(("LEE", "95 % interval"), ("median", "geometric"), few=few), "relative", "error bar"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("method")
    table.add_column("status")
    for name in dict.fromkeys([*report.spec.generators, *_in_order(report, report.results)]):
        path = f"results.{name}"
        if name not in report.results:
            table.add_row(Text(name), missing.cell(path))
            continue
        result = report.results[name]
        lacks_interval = any(entry.what == f"{path}.ci95" for entry in report.skipped)
        mean = (
            Text(number(result.lee)),
            Text(missing.cell(f"{path}.ci95") if lacks_interval else interval(result.ci95)),
        )
        geometric = number(result.geometric_mean) if result.HasField("geometric_mean") else "–"
        typical = (Text(number(result.median)), Text(geometric))
        table.add_row(
            Text(name),
            *lead(mean, typical, few=few),
            Text(relative(result) if result.HasField("relative") else missing.cell(f"{path}.relative")),
            f"±{number(result.error_bar)}",
            Text(_method(result)),
            Text(result.status, style="" if result.status == "ok" else "bold yellow"),
        )
    return table


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


def _coverage(inspection: model_pb2.Inspection) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("op")
    table.add_column("count", justify="right")
    table.add_column("rule")
    table.add_column("exact")
    table.add_column("note")
    for op in sorted(inspection.ops, key=lambda entry: (entry.exact, -entry.count, entry.op)):
        table.add_row(Text(op.op), str(op.count), Text(op.rule), "yes" if op.exact else "no", Text(op.note))
    return table


def _facts() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    return table


def _tensor(tensor: report_pb2.ReportTensor | model_pb2.TensorInfo) -> str:
    return f"{tensor.name} {tensor.dtype} [{', '.join(tensor.shape)}] {tensor.layout}".rstrip()


def _bullets(title: str, lines: Iterable[str]) -> RenderableType:
    return Text("\n".join(["", title, *(f"  • {line}" for line in lines)]))
