"""Parts through a real server: both clients, the command, JSON, terminal and page."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from lieaudit_api.v1 import gate_pb2
from lieaudit_client import AsyncClient, AuditFailedError, read_report
from lieaudit_client.command import run
from lieaudit_client.formats.parts import sentences
from lieaudit_client.report_json import report_from_json

import lieaudit

torch = pytest.importorskip("torch")

BOXES = "boxes=loc:cxcywh,unit=grid,anchors={anchors},variance=0.1:0.2,decode=exp,weight=conf"
PARTS = (BOXES + ",score=softmax,background=first", "scores=conf:invariant")
ANCHORS = np.random.default_rng(5).uniform(4, 28, (32, 4))
LEAN: dict[str, Any] = {"generators": ["translation_x", "rotation"], "bootstrap": 100, "threads": 1}
IMAGES = np.random.default_rng(3).standard_normal((4, 3, 32, 32)).astype(np.float32)


def _detectors() -> ModuleType:
    path = Path(__file__).parents[1] / "parts" / "detectors.py"
    spec = importlib.util.spec_from_file_location("client_detectors", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, detectors = tmp_path_factory.mktemp("parts"), _detectors()
    exported = detectors.exported(detectors.drawn(detectors.Ssd), torch.from_numpy(IMAGES).double(), ["loc", "conf"])
    (folder / "ssd.onnx").write_bytes(exported)
    np.savez(folder / "set.npz", x=IMAGES)
    np.save(folder / "anchors.npy", ANCHORS)
    return folder


@pytest.fixture(scope="module")
def parts(paths: Path) -> list[str]:
    return [part.format(anchors=paths / "anchors.npy") for part in PARTS]


@pytest.fixture(scope="module")
def here(paths: Path, parts: list[str]) -> lieaudit.Report:
    lean = LEAN | {"generators": tuple(LEAN["generators"])}
    spec = lieaudit.AuditSpec(parts=tuple(parts), anchors={str(paths / "anchors.npy"): ANCHORS}, **lean)
    return lieaudit.audit(paths / "ssd.onnx", IMAGES, spec)


def assert_same(report: Any, here: lieaudit.Report) -> None:
    assert sorted(report.parts) == sorted(here.parts) == ["boxes.centre", "boxes.size", "scores"]
    for name, part in here.parts.items():
        found = report.parts[name]
        assert (found.representation, found.unit, found.items) == (part.representation, part.unit, part.items)
        assert list(found.weights) == list(part.weights)
        for generator, result in part.results.items():
            assert list(found.results[generator].per_image) == list(result.per_image)
            assert found.results[generator].HasField("follow") == (result.follow is not None)
            if result.follow is not None:
                assert found.results[generator].follow == result.follow


def test_both_clients_send_parts(
    client: Any, server: Any, paths: Path, parts: list[str], here: lieaudit.Report
) -> None:
    spec = LEAN | {"parts": parts}
    assert_same(client.audit(paths / "ssd.onnx", paths / "set.npz", spec), here)

    async def main() -> Any:
        async with AsyncClient(server.target) as other:
            anchors = {str(paths / "anchors.npy"): ANCHORS}
            return await other.audit(paths / "ssd.onnx", paths / "set.npz", spec | {"anchors": anchors})

    assert_same(asyncio.run(main()), here)


def test_the_command_writes_them_everywhere(
    server: Any, paths: Path, parts: list[str], here: lieaudit.Report, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = paths / "report.json", paths / "page.html"
    command = ["audit", paths / "ssd.onnx", "--data", paths / "set.npz", "--generators", "translation_x,rotation"]
    command += ["--bootstrap", 100, "--threads", 1, "--json", out, "--html", page, "--server", server.target]
    code = run([str(part) for part in [*command, "--part", parts[0], "--part", parts[1]]])
    shown = capsys.readouterr().out
    report = read_report(out)
    assert_same(report, here)
    assert code in {0, 3}
    assert list(json.loads(out.read_text())["parts"]) == list(here.parts)
    assert lieaudit.Report.from_json(out.read_text()).parts == here.parts
    for name in here.parts:
        assert name in shown
        assert name in page.read_text()
    for line in sentences(report):
        assert line[:60] in " ".join(shown.split()).replace("• ", "")
    assert "function of the object's box" in " ".join(shown.split())


def test_what_a_pixel_does_is_said_in_words(here: lieaudit.Report) -> None:
    report = report_from_json(here.to_dict())
    shift, turn = sentences(report)
    centre = here.parts["boxes.centre"].results["translation_x"]
    assert shift.startswith(f"a shift of 1 px along x moves boxes by {centre.follow:.3g} px (1 is exact, ")
    assert "changes the sizes of boxes by" in shift
    scores = here.parts["scores"]
    share = 100 * np.sqrt(scores.results["translation_x"].lee_per_px2 or 0.0) / scores.size
    assert f"changes scores by {share:.3g} %" in shift
    assert turn.startswith("1 px of rotation moves boxes by")
    assert "the sizes of boxes" not in turn


def test_a_part_that_does_not_fit_is_refused_by_the_service(client: Any, paths: Path) -> None:
    with pytest.raises(AuditFailedError, match=r"its shape \(32, 3\) holds 4 numbers") as caught:
        client.audit(paths / "ssd.onnx", paths / "set.npz", LEAN | {"parts": ["b=loc[:, :3]:xyxy"]})
    assert caught.value.reason == "INVALID_PART"


POLICY = """version: 1
images: {min: 4}
parts: ["boxes=loc[:, :2]:points,unit=px", "scores=conf:invariant"]
rules:
  - {id: boxes, kind: limit, part: boxes, generators: [translation_x, rotation], max: 1000000000}
  - {id: scores, kind: limit, part: scores, generators: translation_x, max: 0.0000000001}
"""


def test_the_gate_decides_on_boxes_and_scores(
    client: Any, server: Any, paths: Path, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    policy = paths / "policy.yaml"
    policy.write_text(POLICY)
    forms = {name: paths / f"gate.{name}" for name in ("json", "junit", "sarif", "markdown", "html")}
    command = ["gate", paths / "ssd.onnx", "--data", paths / "set.npz", "--policy", policy, "--server", server.target]
    command += ["--bootstrap", 100, "--threads", 1]
    for name, file in forms.items():
        command += [f"--{name}", file]
    assert run([str(part) for part in command]) == 1
    shown = capsys.readouterr().out
    assert "scores translation_x" in shown
    decision = json.loads(forms["json"].read_text())
    found = {(r["id"], r["part"], r["generator"]): r["outcome"] for r in decision["rules"]}
    assert found == {
        ("boxes", "boxes", "translation_x"): "pass",
        ("boxes", "boxes", "rotation"): "pass",
        ("scores", "scores", "translation_x"): "fail",
    }
    for name in ("junit", "sarif", "markdown"):
        assert "scores translation_x" in forms[name].read_text().replace("\\_", "_"), name
    assert "scores translation x" in forms["html"].read_text()
    # --part replaces what the policy says
    spec = LEAN | {"parts": parts}
    report = client.audit(paths / "ssd.onnx", paths / "set.npz", spec)
    request = gate_pb2.EvaluateRequest(candidate=gate_pb2.ReportSource(report=report), policy_yaml=POLICY)
    decided = client.evaluate(request)
    assert [(r.part, r.generator) for r in decided.rules] == [
        ("boxes.centre", "translation_x"),
        ("boxes.size", "translation_x"),
        ("boxes.centre", "rotation"),
        ("scores", "translation_x"),
    ]

    async def main() -> Any:
        async with AsyncClient(server.target) as other:
            return await other.evaluate(request)

    assert asyncio.run(main()) == decided
