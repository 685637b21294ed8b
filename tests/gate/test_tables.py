"""Every table of the command at five widths: as it was looked at, and with no number or status cut.

``LIEAUDIT_SNAPSHOTS=write`` writes the snapshots anew; look at the difference before it is committed.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from lieaudit_api.v1 import audit_pb2, model_pb2, report_pb2
from lieaudit_client.command import status, tables
from lieaudit_client.formats import comparison, terminal
from lieaudit_client.formats.numbers import interval, number, percent
from lieaudit_client.formats.outcome import Outcome
from lieaudit_client.layerwise_view import layerwise_view
from rich.cells import cell_len
from rich.console import Console, RenderableType

import lieaudit
from lieaudit.report import Agreement, Skipped
from lieaudit.symmetries.generators import GENERATORS

WIDTHS = (60, 80, 100, 132, 200)
SNAPSHOTS = Path(__file__).parent / "snapshots"


def shown(view: Iterable[RenderableType], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for part in view:
        console.print(part)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"  # type: ignore[attr-defined]


def compare_with_snapshot(name: str, view: Callable[[], Iterable[RenderableType]]) -> dict[int, str]:
    """Compare what is shown at the five widths with the snapshot, check that it fits, and give it."""
    texts = {width: shown(view(), width) for width in WIDTHS}
    for width, text in texts.items():
        assert max(map(cell_len, text.splitlines())) <= width
    whole = "\n".join(f"=== {width} columns\n{text}" for width, text in texts.items())
    place = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("LIEAUDIT_SNAPSHOTS") == "write":
        place.write_text(whole, encoding="utf-8")
    assert whole == place.read_text(encoding="utf-8")
    return texts


def has(text: str, value: str) -> bool:
    """Whether a value stands there whole: as a word of its own, not as a part of a longer number."""
    return re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.]*\d)", text) is not None


@pytest.fixture
def ten(make_report: Any, lognormal: Any) -> report_pb2.Report:
    """All generators, values over twelve decades, everything that may be missing or odd somewhere."""
    values = {g: lognormal(48, seed, scale=10.0 ** (5 - 1.3 * seed)) for seed, g in enumerate(lieaudit.GENERATORS)}
    report = make_report(values, skipped=(Skipped("results.brightness.relative", "it moves nothing"),))
    made = json_format.ParseDict(report.to_dict(), report_pb2.Report())
    for name, result in made.results.items():
        result.unit = GENERATORS[name].unit
        result.geometric_mean = float(np.exp(np.log(list(result.per_image)).mean()))
        if name != "brightness":
            result.lee_per_px2, result.response = result.lee / 1024, 7.3 * result.lee
    made.results["brightness"].ClearField("relative")
    made.results["shear_y"].status = made.status = "inconclusive"
    made.reasons.append("shear_y: the cross-check disagrees")
    json_format.ParseDict(
        {"method": "finite_difference", "images": 8, "deviation": 1.0, "allowed": 0.1, "lee": 2.0,
         "verdict": "disagrees"}, made.results["shear_y"].agreement,
    )  # fmt: skip
    assert Agreement("x", 1, 1.0, 1.0, agrees=False, lee=1.0).verdict == "disagrees"
    return made


def test_an_audit(ten: report_pb2.Report) -> None:
    for text in compare_with_snapshot("audit", lambda: tables.report_view(ten)).values():
        for name, result in ten.results.items():
            assert name in text
            fields = (result.lee, result.median, result.geometric_mean, result.lee_per_px2, result.error_bar)
            for value in fields:
                assert not value or has(text, number(value)), (name, value)
            assert interval(result.ci95) in text
            assert f"per {result.unit}²" in text or f"per ({result.unit})²" in text
        assert text.count("inconclusive") == 2
        assert len(re.findall(r" ok$", text, re.MULTILINE)) == 9
        assert "…" not in text


def test_a_gate(outcome: Outcome) -> None:
    for text in compare_with_snapshot("gate", lambda: terminal.view(outcome)).values():
        assert "…" not in text
        for rule in outcome.decision.rules:
            assert rule.id in text
            assert rule.outcome in text
            for field in ("value", "limit", "candidate_value", "baseline_value", "adjusted_p_value"):
                value = getattr(rule, field)
                assert not rule.HasField(field) if field != "limit" and not value else has(text, number(value)), field
            assert not rule.interval or interval(rule.interval) in text


def test_six_reports_compared(ten: report_pb2.Report) -> None:
    reports = []
    names = [f"resnet50_{kind}_imagenet_report" for kind in ("a1", "a2", "sgd_long", "adv", "mixup", "v2")]
    for place, name in enumerate(comparison.labels([f"out/{name}.json" for name in names])):
        report = report_pb2.Report()
        report.CopyFrom(ten)
        for result in report.results.values():
            result.lee *= 1.7**place
            result.ci95[:] = [bound * 1.7**place for bound in result.ci95]
        reports.append((name, report))
    assert [name for name, _ in reports] == ["a1", "a2", "sgd_long", "adv", "mixup", "v2"]
    for text in compare_with_snapshot("compare", lambda: comparison.view(reports)).values():
        assert "…" not in text
        for _, report in reports:
            for result in report.results.values():
                assert has(text, number(result.lee))
                assert interval(result.ci95) in text
        assert all(name in text for name, _ in reports)


def test_layers_of_ten_generators(ten: report_pb2.Report, outcome: Outcome) -> None:
    """A summary first, trees where they are asked for, what was merged once."""
    layers = outcome.candidate.layerwise
    for place, name in enumerate(ten.spec.generators):
        ten.layerwise[name].CopyFrom(layers[("rotation", "scale")[place % 2]])
    ten.layerwise["shear_x"].status = "inconclusive"
    for width, text in compare_with_snapshot("layers", lambda: tables.report_view(ten)).items():
        assert "…" not in text.replace("mean=…", "")
        assert text.count("not cut at Reshape_12") == 1
        assert len(text[text.index("layers:") :].splitlines()) < 110, width
        first = max(layers["rotation"].segments, key=lambda segment: abs(segment.share))
        assert first.name in text
        assert percent(first.share) in text
    few = shown(tables.report_view(ten, top=2), 100)
    assert "47 more" in few
    trees = shown(tables.report_view(ten, trees=True), 60)
    assert trees.count("by layer, forward") == 10
    assert trees.count("not cut at Reshape_12") == 1
    for segment in layers["scale"].segments:
        if segment.norm > 0.02 * sum(other.norm for other in layers["scale"].segments):
            assert has(trees, number(segment.lee))
            assert percent(segment.share) in trees


def test_one_tree(outcome: Outcome) -> None:
    part = outcome.candidate.layerwise["rotation"]
    view = lambda: layerwise_view("rotation", part)  # noqa: E731
    for text in compare_with_snapshot("tree", view).values():
        assert "…" not in text
        assert percent(max(part.segments, key=lambda segment: segment.share).share) in text


def test_the_status_of_a_service() -> None:
    info = audit_pb2.ServerInfo(version="0.1.0", api_version="lieaudit.v1", providers=["CPUExecutionProvider"], slots=2)
    audits = []
    for place, state in enumerate(("running", "queued", "failed", "succeeded", "cancelled")):
        audit = audit_pb2.Audit(id=f"0192f3aa{place:020x}", model_sha256="ab" * 32, dataset_sha256="cd" * 32)
        audit.state, audit.owner = state, "team-vision"
        audit.created.FromSeconds(1_790_000_000 + 60 * place)
        audit.progress.stage, audit.progress.done, audit.progress.total = "audit", 1017, 4096
        audits.append(audit)
    audits[2].failure.reason, audits[2].failure.message = "WRONG_SIZE", "the model takes 224 × 224, the images are 32"
    view = lambda: status._view("audits.example.com:50151", info, audits)  # noqa: E731
    for text in compare_with_snapshot("status", view).values():
        for audit in audits:
            assert audit.id in text
            assert audit.state in text
        assert "1017/4096" in text
        assert "WRONG_SIZE" in text


def test_an_inspection() -> None:
    found = model_pb2.Inspection(name="resnet.onnx", sha256="ef" * 32, node_count=120, parameter_count=25_557_032)
    for op, count, rule in (("Conv", 53, "linear"), ("Relu", 49, "elementwise"), ("GlobalAveragePool", 1, "linear")):
        found.ops.add(op=op, count=count, rule=rule, exact=op != "Relu", note="the kink's slope is 0 at 0")
    for name in ("stem.conv", "layer1.0.conv1", "layer1.0:Relu", "layer1.0.downsample.0"):
        found.layers.add(name=name, kind="convolution", ops=["Conv", "Relu"], layout="NCHW", boundary=f"/{name}/out")
    for text in compare_with_snapshot("inspect", lambda: tables.inspection_view(found, layers=True)).values():
        assert "25,557,032" in text
        assert "/stem.conv/out" in text
        assert re.search(r"Conv +53 +linear +yes", text)
