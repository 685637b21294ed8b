"""Rules on parts of the outputs: boxes and scores, through the library, a real server, and both ends' forms."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from lieaudit_policy import check, schema

import lieaudit
from lieaudit import AuditSpec, Report
from lieaudit.errors import ComparisonError
from lieaudit.gate import evaluate
from lieaudit.report import GeneratorResult, ReportPart

N = 60
GENERATORS = ("translation_x", "rotation")


def result(mean: float, seed: int = 0) -> GeneratorResult:
    values = mean * np.random.default_rng(seed).uniform(0.8, 1.2, N)
    return GeneratorResult(
        lee=float(values.mean()), ci95=(0.9 * mean, 1.1 * mean), median=float(np.median(values)), quantiles={},
        mean_abs=1.0, relative=0.5, per_image=tuple(values), method="forward", error_bar=0.0,
        per_image_error=(0.0,) * N, unit="radians", follow=1.0, lee_per_px2=mean,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> Report:
    """A real report, whose results the tests put into parts."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((3, 1, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("ReduceMean", ["t"], ["m"], axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("m", TensorProto.FLOAT, ["N", 3])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    images = np.random.default_rng(1).standard_normal((N, 1, 8, 8)).astype(np.float32)
    spec = AuditSpec(generators=GENERATORS, bootstrap=100, threads=1, parts=("scores=m:invariant",))
    return lieaudit.audit(model, images, spec)


def held(report: Report, parts: Mapping[str, ReportPart], **changes: Any) -> Report:
    return dataclasses.replace(report, parts=parts, status="ok", reasons=(), **changes)


def part(means: Mapping[str, float], weights: tuple[float, ...] = (), seed: int = 0) -> ReportPart:
    return ReportPart("boxes", "px", {g: result(mean, seed) for g, mean in means.items()}, weights=weights)


@pytest.fixture(scope="module")
def detector(plain: Report) -> Report:
    parts = {
        "boxes.centre": part({"translation_x": 4.0, "rotation": 9.0}),
        "boxes.size": part({"translation_x": 1.0}),
        "scores": part({"translation_x": 0.1, "rotation": 0.2}),
    }
    return held(plain, parts)


POLICY = """version: 1
images: {min: 10}
rules:
  - {id: boxes, kind: limit, part: boxes, generators: [translation_x, rotation], max: 20}
  - {id: sizes, kind: limit, part: boxes.size, generators: translation_x, max: 0.5}
  - {id: scores, kind: limit, part: scores, generators: rotation, max: 0.5, statistic: median}
"""


def test_a_part_is_judged_on_all_its_results_that_exist(detector: Report) -> None:
    decision = evaluate(detector, None, POLICY)
    found = [(o.id, o.part, o.generator, o.outcome) for o in decision.rules]
    assert found == [
        ("boxes", "boxes.centre", "translation_x", "pass"),
        ("boxes", "boxes.size", "translation_x", "pass"),
        ("boxes", "boxes.centre", "rotation", "pass"),
        ("sizes", "boxes.size", "translation_x", "fail"),
        ("scores", "scores", "rotation", "pass"),
    ]
    assert decision.verdict == "fail"
    assert decision.reasons[0].startswith("boxes.size: ")
    values = {(o.id, o.part, o.generator): o.value for o in decision.rules}
    assert values["boxes", "boxes.centre", "rotation"] == pytest.approx(
        detector.parts["boxes.centre"].results["rotation"].lee
    )


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{kind: limit, generators: rotation, max: 1}", "say which the rule is about, part: boxes or scores"),
        (
            "{kind: limit, part: masks, generators: rotation, max: 1}",
            "the report holds parts boxes, scores, and the rule",
        ),
        ("{kind: limit, part: boxes.size, generators: rotation, max: 1}", "does not hold rotation"),
    ],
)
def test_what_is_not_there_is_inconclusive(detector: Report, rule: str, said: str) -> None:
    decision = evaluate(detector, None, f"version: 1\nimages: {{min: 10}}\nrules: [{rule}]\n")
    assert decision.verdict == "inconclusive"
    assert said in decision.rules[0].sentence


def test_weights_count_in_means_and_images_without_any_in_no_statistic(plain: Report) -> None:
    weights = tuple(np.where(np.arange(N) < N // 2, 2.0, 0.0))
    report = held(plain, {"boxes.centre": part({"rotation": 4.0}, weights)})
    values = np.asarray(report.parts["boxes.centre"].results["rotation"].per_image)[: N // 2]
    for statistic, expected in (("mean", values.mean()), ("median", np.median(values))):
        rule = f"{{kind: limit, part: boxes, generators: rotation, max: 9, statistic: {statistic}}}"
        (outcome,) = evaluate(report, None, f"version: 1\nimages: {{min: 10}}\nrules: [{rule}]\n").rules
        assert outcome.value == pytest.approx(expected)


def test_versions_are_compared_part_by_part(plain: Report, detector: Report) -> None:
    worse = held(plain, {**detector.parts, "scores": part({"translation_x": 0.1, "rotation": 0.4})})
    rules = "[{kind: noninferiority, part: boxes, generators: '*', margin: 0.1}, "
    rules += "{kind: noninferiority, part: scores, generators: rotation, margin: 0.1}]"
    policy = f"version: 1\nimages: {{min: 10}}\nrules: {rules}\n"
    decision = evaluate(worse, detector, policy.replace("'*'", "[translation_x, rotation]"))
    assert {(o.part, o.outcome) for o in decision.rules} == {
        ("boxes.centre", "pass"), ("boxes.size", "pass"), ("scores", "fail"),
    }  # fmt: skip
    other = held(plain, detector.parts, spec={**plain.spec, "parts": ["scores=m[:2]:invariant"]})
    with pytest.raises(ComparisonError, match=r"spec\.parts"):
        evaluate(worse, other, policy)


def test_a_policy_names_parts_and_says_what_outputs_hold() -> None:
    policy, problems = check(POLICY + "parts: ['boxes=y[:4]:cxcywh', 'scores=y[4:]:invariant']\n")
    assert not problems
    assert policy is not None
    assert policy.parts == ("boxes=y[:4]:cxcywh", "scores=y[4:]:invariant")
    assert [rule.part for rule in policy.rules] == ["boxes", "boxes.size", "scores"]
    for wrong, said in (
        ("part: 'two words'", "must be the name of a part"),
        ("part: boxes.area", "must be the name of a part"),
    ):
        _, problems = check(POLICY.replace("part: scores", wrong))
        assert said in str(problems[0])
    _, problems = check(
        "version: 1\nrules:\n  - {kind: kind_share, part: a, layer_kind: pooling, generators: scale, max: 1}\n"
    )
    assert "means nothing for kind kind_share" in str(problems[0])
    _, problems = check(POLICY + "secant_px: 0.5\n")
    assert "leave secant_px out" in str(problems[0])


def test_the_schema_knows_parts() -> None:
    import jsonschema
    import yaml

    form = json.loads(schema())
    jsonschema.validate(yaml.safe_load(POLICY + "parts: ['boxes=y[:4]:cxcywh']\n"), form)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(POLICY.replace("part: scores", "part: 'a b'")), form)
