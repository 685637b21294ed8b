"""Formats that a report is written to a file in: every module of the registry is one, and every option knows it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from lieaudit_api.v1 import report_pb2
from lieaudit_client import dump_report
from lieaudit_client.command import run
from lieaudit_client.formats import files


def report() -> report_pb2.Report:
    found = report_pb2.Report(schema="lieaudit.report/1", status="ok", metric_version=2)
    found.model.name = "net | one"
    found.data.count = 7
    found.model.input.SetInParent()
    found.model.output.SetInParent()
    found.environment.SetInParent()
    found.spec.SetInParent()
    found.timing.SetInParent()
    for name, lee in (("rotation", 0.25), ("brightness", 0.0)):
        result = found.results[name]
        result.lee, result.status, result.method = lee, "ok", "forward"
        result.ci95.extend((0.5 * lee, 2 * lee))
    return found


@pytest.mark.parametrize("name", files.names())
def test_every_format_writes_every_generator(name):
    made = files.render(name, report())
    assert all(generator in made for generator in ("rotation", "brightness"))
    assert importlib.import_module(f"{files.__name__}.{name}").__doc__


def test_report_writes_several_formats_at_once(tmp_path: Path, capsys):
    source = tmp_path / "r.json"
    source.write_text(dump_report(report()))
    wanted = [argument for name in files.names() for argument in ("--format", f"{name}={tmp_path / name}")]
    assert run(["report", str(source), *wanted]) == 0
    assert (tmp_path / "json").read_text() == source.read_text()
    assert "| rotation | 0.25 |" in (tmp_path / "markdown").read_text()
    assert "net \\| one" in (tmp_path / "markdown").read_text()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("given", "said"), [("markdwon=F", "did you mean markdown?"), ("markdown", "not NAME=FILE")])
def test_what_is_no_format_is_refused_with_what_was_meant(given, said, tmp_path, capsys):
    source = tmp_path / "r.json"
    source.write_text(dump_report(report()))
    assert run(["report", str(source), "--format", given]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["audit", "watch", "fetch", "report"])
def test_every_command_that_writes_reports_lists_them(command, capsys):
    assert run([command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ", ".join(files.names()) in shown
