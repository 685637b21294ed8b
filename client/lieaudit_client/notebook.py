"""A report in a notebook: a short repr, a table, a data frame, a plot, a file.

Works on the JSON form of a report alone. `lieaudit` and `lieaudit_client` share no distribution that this could live
in, so both hold this file, byte for byte; a test compares them.
"""

from __future__ import annotations

import html
import importlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_NAMED = 3
"""Generators that a short repr names."""
_COLUMNS = (
    "lee", "ci95_low", "ci95_high", "median", "geometric_mean", "top_share", "relative", "relative_low",
    "relative_high", "lee_per_px2", "mean_abs", "error_bar", "unit", "method", "status",
)  # fmt: skip
_CELL = 'style="text-align:right;padding:2px 10px"'
_LEFT = 'style="text-align:left;padding:2px 10px"'


class MissingPackageError(ImportError):
    """A package that a plot or a data frame needs is not installed."""


class Notebook(ABC):
    """What a report offers in a notebook; its class gives the JSON form."""

    __slots__ = ()

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, ``lieaudit.report/1``."""

    def __repr__(self) -> str:
        report = self.to_dict()
        results = _ordered(report)
        shown = [f"{name} {_number(result['lee'])}" for name, result in list(results.items())[:_NAMED]]
        more = f", … {len(results)} generators" if len(results) > _NAMED else ""
        about = f"{report['model']['name'] or 'unnamed'} on {report['data']['count']} images"
        return f"<Report of {about}, {report['status']}: {', '.join(shown) or 'nothing measured'}{more}>"

    def _repr_html_(self) -> str:
        report = self.to_dict()
        results = _ordered(report)
        scale = _scale(results)
        titles = ("generator", "LEE", "95 % interval", "", "median", "relative", "LEE/px²", "error bar", "status")
        head = "".join(f"<th {_LEFT if place == 0 else _CELL}>{name}</th>" for place, name in enumerate(titles))
        rows = "".join(_row(name, result, scale) for name, result in results.items())
        model, data = report["model"], report["data"]
        top1 = f", top-1 {100 * data['top1']:.1f} %" if "top1" in data else ""
        about = f"{model['name'] or 'unnamed'} on {data['count']} images of {data.get('name') or 'unnamed data'}{top1}"
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in report.get("reasons", ()))
        return (
            f"<div><strong>{html.escape(about)}</strong>: {html.escape(report['status'])}"
            f"{f'<ul>{reasons}</ul>' if reasons else ''}"
            f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame``, a row per generator in the report's order.

        Columns: ``lee``, ``ci95_low``, ``ci95_high``, ``median``, ``geometric_mean``, ``top_share``, ``relative``,
        ``relative_low``, ``relative_high``, ``lee_per_px2``, ``mean_abs``, ``error_bar``, ``unit``, ``method`` and
        ``status``; NaN is what was not measured.

        Raises
        ------
        MissingPackageError
            pandas is not installed.
        """
        pandas = _package("pandas")
        results = _ordered(self.to_dict())
        rows = [_values(result) for result in results.values()]
        frame = pandas.DataFrame(rows, columns=list(_COLUMNS))
        frame.index = pandas.Index(list(results), name="generator")
        return frame

    def plot(self, backend: str = "matplotlib") -> Any:
        """Return a figure: LEE of every generator with its 95 % interval, on a logarithmic axis.

        Parameters
        ----------
        backend
            ``matplotlib`` (a ``matplotlib.figure.Figure``) or ``plotly`` (a ``plotly.graph_objects.Figure``).

        Raises
        ------
        ValueError
            Another backend.
        MissingPackageError
            The backend is not installed.
        """
        drawers = {"matplotlib": _with_matplotlib, "plotly": _with_plotly}
        if backend not in drawers:
            raise ValueError(f"backend {backend!r} is neither matplotlib nor plotly")
        report = self.to_dict()
        shown = {name: result for name, result in _ordered(report).items() if result["lee"] > 0}
        return drawers[backend](shown, f"{report['model']['name'] or 'unnamed'}, {report['data']['count']} images")

    def save(self, path: str | Path) -> Path:
        """Write the report and return where: ``.json`` the whole of it, ``.csv`` the data frame, ``.html`` a page.

        Raises
        ------
        ValueError
            Another ending.
        OSError
            The file cannot be written.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind == ".json":
            text = json.dumps(self.to_dict(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        elif kind == ".csv":
            text = self.to_pandas().to_csv(lineterminator="\n")
        elif kind == ".html":
            text = self._page()
        else:
            raise ValueError(f"{path} ends in neither .json, .csv nor .html")
        path.write_text(text, encoding="utf-8")
        return path

    def _page(self) -> str:
        return f'<!doctype html>\n<meta charset="utf-8"><title>lieaudit</title>\n{self._repr_html_()}\n'


def _ordered(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    order = list(report.get("spec", {}).get("generators", ()))
    results = report.get("results", {})
    names = sorted(results, key=lambda name: (order.index(name) if name in order else len(order), name))
    return {name: results[name] for name in names}


def _values(result: Mapping[str, Any]) -> list[Any]:
    low, high = result.get("ci95") or (math.nan, math.nan)
    relative_low, relative_high = result.get("relative_ci95") or (math.nan, math.nan)
    own = {"ci95_low": low, "ci95_high": high, "relative_low": relative_low, "relative_high": relative_high}
    return [own[name] if name in own else result.get(name, math.nan) for name in _COLUMNS]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"


def _scale(results: Mapping[str, Mapping[str, Any]]) -> tuple[float, float]:
    """Return the logarithms of the smallest and the largest value that is drawn."""
    values = [value for r in results.values() for value in (r["lee"], *r.get("ci95", ())) if value > 0] or [1.0]
    low, high = math.log(min(values)), math.log(max(values))
    return (low, high) if high > low else (low - 1, high + 1)


def _row(name: str, result: Mapping[str, Any], scale: tuple[float, float]) -> str:
    bounds: Sequence[float] = result.get("ci95") or ()
    within = f"[{_number(bounds[0])}, {_number(bounds[1])}]" if len(bounds) == 2 else "–"
    unit = f"<br><small>per ({html.escape(result['unit'])})²</small>" if result.get("unit") else ""
    cells = [
        _number(result["lee"]),
        within,
        _bar(result["lee"], bounds, scale),
        _number(result["median"]),
        _number(result.get("relative")),
        _number(result.get("lee_per_px2")),
        "±" + _number(result["error_bar"]),
        html.escape(result["status"]),
    ]
    first = f"<td {_LEFT}>{html.escape(name)}{unit}</td>"
    return f"<tr>{first}{''.join(f'<td {_CELL}>{cell}</td>' for cell in cells)}</tr>"


def _bar(lee: float, bounds: Sequence[float], scale: tuple[float, float]) -> str:
    """Draw a value with its interval, 120 pixels for the whole scale."""

    def place(value: float) -> float:
        logarithm = math.log(value) if value > 0 else scale[0]
        return 5 + 110 * min(1.0, max(0.0, (logarithm - scale[0]) / (scale[1] - scale[0])))

    low, high = bounds if len(bounds) == 2 else (lee, lee)
    return (
        '<svg width="120" height="14" role="img" aria-label="on a logarithmic scale">'
        f'<line x1="{place(low):.1f}" x2="{place(high):.1f}" y1="7" y2="7" stroke="currentColor" stroke-width="2"/>'
        f'<circle cx="{place(lee):.1f}" cy="7" r="4" fill="#c2500a"/></svg>'
    )


def _errors(shown: Mapping[str, Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    pairs = [(r["lee"], *(r.get("ci95") or (r["lee"], r["lee"]))) for r in shown.values()]
    # a logarithmic axis has no place for 0
    below = [max(0.0, min(lee - low, lee * (1 - 1e-9))) for lee, low, _ in pairs]
    return below, [max(0.0, high - lee) for lee, _, high in pairs]


def _with_matplotlib(shown: Mapping[str, Mapping[str, Any]], title: str) -> Any:
    figure = _package("matplotlib.figure").Figure(figsize=(7, 0.7 + 0.38 * max(1, len(shown))), layout="constrained")
    axes = figure.add_subplot()
    values = [result["lee"] for result in shown.values()]
    axes.errorbar(values, range(len(shown)), xerr=_errors(shown), fmt="o", color="#c2500a", capsize=3)
    axes.set_yticks(range(len(shown)), [name.replace("_", " ") for name in shown])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("LEE, 95 % interval")
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _with_plotly(shown: Mapping[str, Mapping[str, Any]], title: str) -> Any:
    graphs = _package("plotly.graph_objects")
    below, above = _errors(shown)
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    marks = graphs.Scatter(
        x=[result["lee"] for result in shown.values()],
        y=[name.replace("_", " ") for name in shown],
        error_x=bars,
        mode="markers",
        marker={"color": "#c2500a", "size": 9},
    )
    figure = graphs.Figure(marks)
    figure.update_layout(title=title, height=140 + 34 * len(shown))
    figure.update_xaxes(type="log", title="LEE, 95 % interval")
    figure.update_yaxes(autorange="reversed")
    return figure


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as problem:
        package = name.split(".", maxsplit=1)[0]
        raise MissingPackageError(f"{package} is not installed: pip install {package}") from problem
