"""The terminal's tree of a decomposition."""

from __future__ import annotations

import io

from lieaudit_api.v1 import model_pb2, report_pb2
from lieaudit_client.layerwise_view import layer_tree, layers_view, layerwise_view
from rich.console import Console


def text(parts, width=120):
    console = Console(file=io.StringIO(), width=width)
    for part in parts:
        console.print(part)
    return console.file.getvalue()


def segment(name, share, kind="convolution"):
    return report_pb2.Segment(name=name, kind=kind, share=share, lee=share**2, norm=abs(share))


FOUND = report_pb2.Layerwise(
    segments=[
        segment("stem", 0.5),
        segment("block.0.attention", 0.3, "attention"),
        segment("block.0.attention.q", 0.0),
        segment("block.0:Relu", -0.4, "nonlinearity"),
        segment("block.1.conv", 0.6),
    ],
    completeness=3e-7,
    method="forward",
    status="ok",
    by_kind=[report_pb2.KindTotal(kind="convolution", segments=3, lee=0.61, share=1.1)],
    cancellations=[report_pb2.Cancellation(first="stem", second="block.0:Relu", inner=-0.2)],
    merged=[report_pb2.Skipped(what="t7", why="layout (b ?) is unknown")],
)


def test_tree_shows_every_loud_segment_with_its_share():
    shown = text(layerwise_view("rotation", FOUND))
    lines = shown.splitlines()

    def line(name):
        return next(entry for entry in lines if f" {name} " in entry)

    assert "50.0 %" in line("stem")
    assert "30.0 %" in line("(itself)")  # the attention's own ops, beside its linear layers
    assert "-40.0 %" in line(":Relu")
    assert "50.0 %" in line("block")  # the module's sum
    assert "60.0 %" in line("1.conv")  # a chain of single children is one line
    assert "1 more" in shown


def test_bars_grow_to_both_sides():
    lines = text(layerwise_view("rotation", FOUND)).splitlines()
    left = next(entry for entry in lines if ":Relu " in entry)
    right = next(entry for entry in lines if "1.conv" in entry)
    assert left.rstrip().split("│")[-2].strip().endswith("█")
    assert right.count("█") == 12  # the largest share fills its side
    assert left.count("█") == 8


def test_what_is_said_below_the_tree():
    shown = text(layerwise_view("rotation", FOUND))
    for part in ("by kind: convolution 110.0 % (3)", "stem and block.0:Relu", "completeness 3.00e-07"):
        assert part in shown


def test_several_generators_begin_with_a_summary():
    """The largest segments side by side, the sum of the others, what is merged once; trees on demand."""
    shown = text(layers_view([("rotation", FOUND), ("scale", FOUND)], top=2))
    assert [line.split()[:4] for line in shown.splitlines() if line.startswith((" stem", " block.1", " 3 more"))] == [
        ["stem", "50.0", "%", "50.0"],
        ["block.1.conv", "60.0", "%", "60.0"],
        ["3", "more", "-10.0", "%"],
    ]
    assert shown.count("not cut at t7") == 1
    assert "by layer, forward" not in shown
    assert text(layers_view([("rotation", FOUND), ("scale", FOUND)], trees=True)).count("by layer, forward") == 2
    assert text(layers_view([])) == ""


def test_nothing_attributed_is_no_error():
    assert "0 segments" in text(layerwise_view("scale", report_pb2.Layerwise(method="forward", status="ok")))


def test_markup_in_names_is_shown_as_it_is():
    found = report_pb2.Layerwise(segments=[segment("[red]x[/red]", 1.0)], method="forward", status="ok")
    assert "[red]x[/red]" in text(layerwise_view("scale", found))


def test_layers_are_listed_with_layouts():
    layers = [
        model_pb2.LayerInfo(name="a.b", kind="attention", ops=["MatMul"], layout="tokens 1+14x14", boundary="t1"),
        model_pb2.LayerInfo(name="a:Add", kind="residual", ops=["Add"], layout="tokens 1+14x14", boundary="t2"),
    ]
    shown = text([layer_tree(layers)])
    assert "tokens 1+14x14" in shown
    assert ":Add" in shown
