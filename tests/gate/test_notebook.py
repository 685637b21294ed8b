"""A report in a notebook, the library's and the client's alike."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from google.protobuf import json_format
from lieaudit_api.v1 import report_pb2
from lieaudit_client import ReportView, read_report
from lieaudit_client import notebook as theirs
from lxml import etree

import lieaudit
from lieaudit import notebook as ours

PNG = b"\x89PNG"


@pytest.fixture(params=["library", "client"])
def pair(request: pytest.FixtureRequest, full_reports: tuple[Any, Any]) -> tuple[Any, lieaudit.Report]:
    """What is shown, and the report that it shows."""
    report = full_reports[0]
    if request.param == "library":
        return report, report
    return ReportView(json_format.ParseDict(report.to_dict(), report_pb2.Report())), report


def test_both_distributions_hold_the_same_file() -> None:
    assert Path(ours.__file__).read_bytes() == Path(theirs.__file__).read_bytes()


def test_the_repr_is_short(pair: tuple[Any, lieaudit.Report]) -> None:
    shown, report = pair
    said = repr(shown)
    assert len(said) < 200
    assert report.model.name in said
    assert "300 images" in said
    assert f"{report.results['translation_x'].lee:.3g}" in said
    assert "5 generators" in said


def test_the_table_is_html_with_every_generator_and_obeys_nothing(pair: tuple[Any, lieaudit.Report]) -> None:
    shown, report = pair
    tree = etree.HTML(shown._repr_html_())
    assert tree.findall(".//script") == []
    text = " ".join(tree.itertext())
    assert "resnet<script>alert(1)</script> v8.onnx" in text
    rows = tree.findall(".//tbody/tr")
    assert [row[0].text for row in rows] == list(report.results)
    for row, result in zip(rows, report.results.values(), strict=True):
        assert f"{result.lee:.3g}" in row[1].text
        assert float(row.find(".//circle").get("cx")) == pytest.approx(_place(result.lee, report), abs=0.06)


def _place(lee: float, report: lieaudit.Report) -> float:
    values = [v for r in report.results.values() for v in (r.lee, *r.ci95) if v > 0]
    low, high = math.log(min(values)), math.log(max(values))
    return 5 + 110 * (math.log(lee) - low) / (high - low)


def test_the_frame_holds_the_report_s_numbers(pair: tuple[Any, lieaudit.Report]) -> None:
    shown, report = pair
    frame = shown.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.index) == list(report.results)
    assert frame.index.name == "generator"
    for name, result in report.results.items():
        row = frame.loc[name]
        assert (row.lee, row.ci95_low, row.ci95_high, row["median"]) == (result.lee, *result.ci95, result.median)
        assert (row.relative, row.relative_low, row.relative_high) == (result.relative, *result.relative_ci95)
        assert (row.method, row.status, row.unit, row.error_bar) == ("forward", "ok", "radians", result.error_bar)
        assert np.isnan(row.lee_per_px2), "not measured is not 0"
    assert frame.dtypes["lee"] == np.float64


@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_it_is_plotted(pair: tuple[Any, lieaudit.Report], backend: str) -> None:
    shown, report = pair
    pytest.importorskip(backend)
    figure = shown.plot(backend)
    lees = [result.lee for result in report.results.values()]
    if backend == "plotly":
        assert list(figure.data[0].x) == pytest.approx(lees)
        assert figure.layout.xaxis.type == "log"
        return
    (axes,) = figure.axes
    assert list(axes.lines[0].get_xdata()) == pytest.approx(lees)
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == [n.replace("_", " ") for n in report.results]
    (ends,) = [c.get_segments() for c in axes.collections]
    assert [tuple(end[:, 0]) for end in ends] == [pytest.approx(r.ci95) for r in report.results.values()]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert buffer.getvalue().startswith(PNG)


def test_another_backend_is_refused(pair: tuple[Any, lieaudit.Report]) -> None:
    with pytest.raises(ValueError, match="'bokeh' is neither matplotlib nor plotly"):
        pair[0].plot("bokeh")


def test_it_is_saved_by_the_file_s_ending(pair: tuple[Any, lieaudit.Report], tmp_path: Path) -> None:
    shown, report = pair
    saved = shown.save(tmp_path / "r.json")
    assert lieaudit.Report.from_json(saved.read_text(encoding="utf-8")).results == report.results
    assert read_report(saved).results.keys() == report.results.keys()
    frame = pd.read_csv(shown.save(str(tmp_path / "r.csv")), index_col="generator")
    assert frame.lee.tolist() == pytest.approx([result.lee for result in report.results.values()], rel=1e-12)
    page = etree.HTML(shown.save(tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "resnet<script>alert(1)</script> v8.onnx" in " ".join(page.itertext())
    with pytest.raises(ValueError, match=r"neither \.json, \.csv nor \.html"):
        shown.save(tmp_path / "r.txt")


def test_a_file_is_shown_too(full_reports: tuple[Any, Any], tmp_path: Path) -> None:
    path = full_reports[0].save(tmp_path / "r.json")
    assert repr(ReportView(path)) == repr(full_reports[0])


def test_a_missing_package_is_said_with_its_name(
    monkeypatch: pytest.MonkeyPatch, full_reports: tuple[Any, Any]
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ours.MissingPackageError, match="pandas is not installed: pip install pandas"):
        full_reports[0].to_pandas()


@pytest.mark.parametrize("package", ["lieaudit", "lieaudit_client"])
def test_nothing_heavy_is_imported_for_it(package: str) -> None:
    code = f"import {package}, sys; print(sorted({{'pandas', 'matplotlib', 'plotly', 'IPython'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_degenerate_reports_are_shown(make_report: Callable[..., Any]) -> None:
    for values in ({"rotation": np.zeros(3)}, {"rotation": np.ones(1)}):
        report = make_report(values, changes={"ci95": (), "relative": None, "relative_ci95": ()})
        assert "rotation" in repr(report)
        assert "rotation" in report._repr_html_()
        assert np.isnan(report.to_pandas().ci95_low.iloc[0])
        report.plot()
