"""What the `lieaudit` command shows of a report on a terminal: everything in it, and nothing that is not."""

import json

import pytest
from lieaudit_api.v1 import report_pb2
from lieaudit_client import report_from_json, report_to_json
from lieaudit_client.command import printing, run, tables
from lieaudit_client.printable import printable_copy


@pytest.fixture
def report(repo_root):
    """A report in which something is missing wherever something may be."""
    result = {
        "lee": 0.5,
        "ci95": [0.25, 1.0],
        "median": 1e-9,
        "quantiles": {},
        "mean_abs": 0.1,
        "per_image": [0.5],
        "method": "forward",
        "error_bar": 1e-7,
        "per_image_error": [1e-7],
        "unit": "rad",
        "status": "inconclusive",
        "reasons": ["too few images [red]"],
        "agreement": {
            "method": "finite_difference",
            "images": 1,
            "deviation": 1.0,
            "allowed": 0.1,
            "agrees": False,
            "lee": 0.4,
        },
    }
    tensor = {"name": "x", "shape": ["N", "1"], "dtype": "float32", "layout": "NCHW"}
    return report_from_json(
        {
            "schema": "lieaudit.report/1",
            "metric_version": 1,
            "model": {
                "sha256": "ab" * 32,
                "name": "m[bold].onnx",
                "producer": "",
                "opset": 17,
                "input": tensor,
                "output": tensor,
                "precision": "float32",
                "head": "softmax",
            },
            "data": {"sha256": "cd" * 32, "count": 1},
            "environment": {
                "lieaudit": "0",
                "onnxruntime": "0",
                "provider": "cpu",
                "device": "cpu",
                "onnx": "0",
                "numpy": "0",
                "python": "0",
                "threads": 1,
                "fallback_ops": {"Conv": 3},
            },
            "spec": {"generators": ["rotation", "scale", "brightness"]},
            "results": {"rotation": result},
            "timing": {"seconds": 1, "rows": 1, "rows_per_second": 1},
            "skipped": [
                {"what": "results.rotation.relative", "why": "one image has no other"},
                {"what": "results.scale", "why": "the output has no scale"},
                {"what": "layerwise.rotation", "why": "no modules"},
            ],
            "status": "inconclusive",
            "reasons": ["rotation: too few images [red]"],
        }
    )


def test_what_was_not_measured_is_said_with_its_reason(report, capfd):
    printing.show(tables.report_view(report), to_stderr=False)
    out = capfd.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "not measured (1)" in rows["rotation"]
    assert "(1) results.rotation.relative: one image has no other" in out
    assert "not measured (2)" in rows["scale"]
    assert "(2) results.scale: the output has no scale" in out
    assert "not measured" in rows["brightness"]
    assert "0.5" in rows["rotation"]
    assert "[0.25, 1]" in rows["rotation"]
    assert "inconclusive" in rows["rotation"]
    assert "DISAGREES with finite difference" in out
    assert "rotation: too few images [red]" in out  # no markup of anybody's is obeyed
    assert "m[bold].onnx" in out
    assert "layerwise.rotation: no modules" in out
    assert "Conv ×3" in out
    assert "inconclusive, because" in out


def test_a_hostile_report_is_shown_too(report, capfd, tmp_path):
    """Names of any length and depth, control characters, markup: shown, not obeyed, and no crash."""
    report.model.name = "\x1b[31m" + "n" * 10_000
    report.layerwise["rotation"].segments.add(name="a." * 100_000, kind="[bold]", share=1.0, norm=1.0)
    report.skipped.add(what="x" * 100_000, why="\x1b]0;title\x07")
    path = tmp_path / "r.json"
    path.write_text(json.dumps(report_to_json(report)))
    assert run(["report", str(path), "--trees"]) == 3
    out, err = capfd.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert out.count("a.a.") < 60_000, "a name is shown to a length that can be read"
    assert "[bold]" in out


def test_texts_of_any_message_become_printable():
    """Every kind of field that holds text, and the numbers as they were."""
    bad = "a\x1b[2J\r\u202eb"
    report = report_pb2.Report(status=bad, reasons=[bad, "fine ü"], timing=report_pb2.Timing(rows=2.5))
    report.environment.fallback_ops[bad] = 3
    report.spec.layouts[bad] = bad
    report.results[bad].per_image.extend([0.1, 0.2])
    report.results[bad].quantiles[bad] = 0.5
    safe = printable_copy(report)
    text = "a\ufffd[2J\ufffd\ufffdb"
    assert (safe.status, list(safe.reasons)) == (text, [text, "fine ü"])
    assert dict(safe.environment.fallback_ops) == {text: 3}
    assert dict(safe.spec.layouts) == {text: text}
    assert list(safe.results) == [text]
    assert list(safe.results[text].per_image) == [0.1, 0.2]
    assert dict(safe.results[text].quantiles) == {text: 0.5}
    assert safe.timing.rows == 2.5
    assert report.status == bad


def test_layers_follow_the_generators(report, capfd):
    for generator, share in (("scale", 0.75), ("rotation", -0.25)):
        layers = report.layerwise[generator]
        layers.segments.add(name=f"{generator}.conv", kind="convolution", share=share, norm=1.0, lee=0.5)
        layers.completeness, layers.status = 1e-5, "ok"
    printing.show(tables.report_view(report, trees=True), to_stderr=False)
    out = capfd.readouterr().out
    assert out.index("rotation by layer") < out.index("scale by layer")  # as they were asked for
    rows = [line for line in out.splitlines() if "convolution" in line and ".conv" in line]
    assert "-25.0 %" in rows[0]
    assert "75.0 %" in rows[1]
    assert out.count("completeness 1.00e-05") == 2
