"""The policy's YAML: what is wrong is said with its line and what to do, and the JSON Schema agrees."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import lieaudit_policy
import pytest
import yaml
from lieaudit_client import Client
from lieaudit_client.gate.run import check_here
from lieaudit_policy import GROUPS, KINDS, ON_INCONCLUSIVE, STATISTICS

from lieaudit.errors import PolicyError
from lieaudit.gate import check, parse, schema
from lieaudit.spec import GENERATORS

RULE = "rules:\n  - {id: r, kind: limit, generators: rotation, max: 1}\n"
WAIVER = "waivers:\n  - {rule: r, owner: a, reason: b, expires: 2027-01-31}\n"

VALID = {
    "smallest": "version: 1\n" + RULE,
    "every kind": """version: 1
confidence: 0.9
statistic: median
images: {min: 10, max: 1000}
on_inconclusive: more_images
rules:
  - {id: a, kind: limit, generators: "*", max: 0.5, statistic: mean}
  - {id: b, kind: noninferiority, generators: [rotation, translation], margin: 0.1}
  - {kind: relative, generators: geometric, max: 1}
  - {kind: kind_share, generators: stretch_*, layer_kind: pooling, max: 0.3}
  - {kind: gap, generators: scale, dataset: train, margin: 0.5, statistic: geometric_mean}
  - {kind: worst_direction, max: 0.2}
  - {kind: limit, generators: scale, measure: lee_per_px2, max: 0.1}
waivers:
  - {rule: b, generators: rotation, owner: ada, reason: known, expires: 2027-01-31}
""",
    "two gaps": """version: 1
rules:
  - {kind: gap, generators: scale, dataset: train, margin: 0.5}
  - {kind: gap, generators: scale, dataset: fog, margin: 0.5, direction: dataset_no_worse}
""",
    "secants": "version: 1\nsecant_px: 0.5\n" + RULE,
    "exponent without a dot": "version: 1\nrules:\n  - {kind: limit, generators: rotation, max: 1.0e-3}\n",
    "waiver": "version: 1\n" + RULE + WAIVER,
}

# text, line, field, what the message or hint must say
INVALID = {
    "typo in a field": ("version: 1\nconfidnce: 0.9\n" + RULE, 2, "confidnce", "did you mean 'confidence'"),
    "typo in a rule": (
        "version: 1\nrules:\n  - kind: noninferiority\n    generators: rotation\n    marign: 0.1\n",
        5, "rules[0].marign", "did you mean 'margin'",
    ),
    "generators of the worst direction": (
        "version: 1\nrules:\n  - {kind: worst_direction, generators: rotation, max: 1}\n",
        3, "rules[0].generators", "worst_direction takes max",
    ),
    "a measure that is none": (
        "version: 1\nrules:\n  - {kind: limit, generators: rotation, measure: px2, max: 1}\n",
        3, "rules[0].measure", "lee_per_px2",
    ),
    "a measure of a ratio": (
        "version: 1\nrules:\n  - {kind: relative, generators: rotation, measure: lee_per_px2, max: 1}\n",
        3, "rules[0].measure", "means nothing for kind relative",
    ),
    "unknown generator": (
        "version: 1\nrules:\n  - kind: limit\n    generators: [rotaton]\n    max: 1\n",
        4, "rules[0].generators", "did you mean 'rotation'",
    ),
    "margin of -1": (
        "version: 1\nrules:\n  - kind: noninferiority\n    generators: rotation\n    margin: -1\n",
        5, "rules[0].margin", "-1 is not in 0",
    ),
    "percent": (
        "version: 1\nrules:\n  - kind: noninferiority\n    generators: rotation\n    margin: 10%\n",
        5, "rules[0].margin", "10 % is 0.10",
    ),
    "missing limit": ("version: 1\nrules:\n  - {kind: limit, generators: scale}\n", 3, "rules[0].max", "missing"),
    "field of another kind": (
        "version: 1\nrules:\n  - {kind: limit, generators: scale, max: 1, margin: 0}\n",
        3, "rules[0].margin", "means nothing for kind limit",
    ),
    "unknown kind": (
        "version: 1\nrules:\n  - {kind: limt, generators: scale, max: 1}\n", 3, "rules[0].kind", "did you mean 'limit'",
    ),
    "direction of nothing": (
        "version: 1\nrules:\n  - {kind: gap, generators: scale, dataset: train, margin: 0, direction: up}\n",
        3, "rules[0].direction", "not one of both",
    ),
    "secants of no size": ("version: 1\nsecant_px: 0\n" + RULE, 2, "secant_px", "0.25 to 1 is usual"),
    "no rules": ("version: 1\nrules: []\n", 2, "rules", "would pass anything"),
    "no version": (RULE, 1, "version", "missing"),
    "later version": ("version: 2\n" + RULE, 1, "version", "reads version 1"),
    "more_images without a cap": ("version: 1\non_inconclusive: more_images\n" + RULE, 2, "on_inconclusive", "cap"),
    "confidence in percent": ("version: 1\nconfidence: 95\n" + RULE, 2, "confidence", "0.5"),
    "waiver without a reason": (
        "version: 1\n" + RULE + "waivers:\n  - {rule: r, owner: a, expires: 2027-01-31}\n",
        5, "waivers[0].reason", "missing",
    ),
    "waiver until no day": (
        "version: 1\n" + RULE + "waivers:\n  - {rule: r, owner: a, reason: b, expires: soon}\n",
        5, "waivers[0].expires", "2027-01-31",
    ),
}  # fmt: skip

# Wrong in ways that a schema cannot see.
UNSEEN = {
    "secants of all directions": (
        "version: 1\nsecant_px: 1\nrules:\n  - {kind: worst_direction, max: 1}\n",
        4, "rules[0].kind", "secant_px",
    ),
    "shares of layers by secants": (
        "version: 1\nsecant_px: 1\nrules:\n  - {kind: kind_share, generators: scale, layer_kind: pooling, max: 0.3}\n",
        4, "rules[0].kind", "limit t → 0",
    ),
    "impossible day": (
        "version: 1\n" + RULE + "waivers:\n  - {rule: r, owner: a, reason: b, expires: 2027-02-31}\n",
        5, "waivers[0].expires", "must be a date",
    ),
    "waiver of no rule": (
        "version: 1\n" + RULE + "waivers:\n  - {rule: s, owner: a, reason: b, expires: 2027-01-31}\n",
        5, "waivers[0].rule", "no rule has the id 's'",
    ),
    "two rules of one id": (
        "version: 1\n" + RULE + "  - {id: r, kind: limit, generators: scale, max: 1}\n", 4, "rules[1].id", "taken",
    ),
    "field given twice": ("version: 1\nversion: 1\n" + RULE, 2, "version", "given twice"),
    "cap below the least": ("version: 1\nimages: {min: 50, max: 10}\n" + RULE, 2, "images.max", "below images.min"),
    "pattern of nothing": (
        "version: 1\nrules:\n  - {kind: limit, generators: skew_*, max: 1}\n", 3, "rules[0].generators", "skew_*",
    ),
    "integer beyond any float": (
        f"version: 1\nrules:\n  - {{kind: limit, generators: scale, max: 1{'0' * 400}}}\n",
        3, "rules[0].max", "must be a number",
    ),
    "alias": ("version: 1\nx: &a [1]\ny: *a\n" + RULE, 3, "", "aliases"),
    "not YAML": ("version: [1\n", 2, "", "not YAML"),
    "not a mapping": ("- 1\n", 1, "", "mapping"),
    "nothing": ("", 1, "", "policy init"),
    "control character": ("version: \x01\n", 1, "", "not YAML"),
    "too large": ("# " + "x" * 300_000, 1, "", "larger than"),
}  # fmt: skip


@pytest.mark.parametrize("text", VALID.values(), ids=VALID)
def test_valid_policies_are_read_and_fit_the_schema(text: str) -> None:
    policy, problems = check(text)
    assert problems == ()
    assert policy == parse(text)
    jsonschema.validate(_json(text), json.loads(schema()))


@pytest.mark.parametrize(
    ("text", "line", "field", "says"), [*INVALID.values(), *UNSEEN.values()], ids=[*INVALID, *UNSEEN]
)
def test_a_wrong_policy_names_line_field_and_remedy(text: str, line: int, field: str, says: str) -> None:
    policy, problems = check(text)
    assert policy is None
    told = [p for p in problems if (p.line, p.field) == (line, field)]
    assert told, problems
    assert says in f"{told[0].message} {told[0].hint}"
    with pytest.raises(PolicyError) as caught:
        parse(text)
    assert caught.value.reason == "INVALID_POLICY"
    assert f"line {line}" in str(caught.value)


@pytest.mark.parametrize("text", [case[0] for case in INVALID.values()], ids=INVALID)
def test_the_schema_refuses_what_the_reader_refuses(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_json(text), json.loads(schema()))


def test_the_schema_knows_every_name() -> None:
    text = schema()
    for name in (*GENERATORS, *GROUPS, *KINDS, *STATISTICS, *ON_INCONCLUSIVE):
        assert f'"{name}"' in text, name
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


def test_all_problems_are_listed_in_order() -> None:
    _, problems = check("version: 3\nrules:\n  - {kind: limit, generators: spin, max: -1}\nwaivers: 4\n")
    assert [p.line for p in problems] == [1, 3, 3, 4]


def test_patterns_groups_and_their_order() -> None:
    policy = parse("version: 1\nrules:\n  - {kind: limit, generators: [stretch_*, rotation, shear], max: 1}\n")
    assert policy.rules[0].generators == ("rotation", "shear_x", "shear_y", "stretch_x", "stretch_y")
    assert parse('version: 1\nrules: [{kind: limit, generators: "*", max: 1}]\n').generators == GENERATORS


def test_a_policy_says_what_it_needs() -> None:
    policy = parse(VALID["every kind"])
    assert policy.needs_baseline
    assert policy.datasets == ("train",)
    assert policy.layerwise == "module"
    assert (policy.min_images, policy.max_images, policy.on_inconclusive) == (10, 1000, "more_images")
    statistics = ["mean", "median", "relative", "share", "geometric_mean", "worst", "median"]
    assert [rule.statistic for rule in policy.rules] == statistics
    assert [rule.limit for rule in policy.rules] == [0.5, 1.1, 1.0, 0.3, 1.5, 0.2, 0.1]


def test_a_waiver_holds_on_its_last_day_and_not_after() -> None:
    policy = parse("version: 1\n" + RULE + WAIVER)
    waiver = policy.waiver(policy.rules[0], "rotation")
    assert waiver is not None
    assert not waiver.expired(dt.date(2027, 1, 31))
    assert waiver.expired(dt.date(2027, 2, 1))
    assert policy.waiver(policy.rules[0], "scale") is not None, "without generators a waiver is for all of them"


def test_the_written_template_is_valid(repo_root: Path) -> None:
    text = (repo_root / "client" / "lieaudit_client" / "gate" / "policy_template.yaml").read_text()
    assert check(text)[1] == ()
    uncommented = "\n".join(line.replace("#  - {", "  - {", 1) for line in text.splitlines())
    policy, problems = check(uncommented)
    assert problems == ()
    assert policy is not None
    assert {rule.kind for rule in policy.rules} == set(KINDS), "the template shows every kind of rule"


def _json(text: str) -> object:
    """Read YAML as a JSON Schema validator sees it: dates are text."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


def test_the_names_of_generators_are_those_that_can_be_measured() -> None:
    assert lieaudit_policy.GENERATORS == GENERATORS


@pytest.mark.parametrize("text", [*VALID.values(), *(case[0] for case in INVALID.values())])
def test_a_client_reads_a_policy_as_the_service_does(text: str, service: str) -> None:
    """The same code reads it on both sides, through the wire or not."""
    with Client(service) as client:
        assert check_here(text) == client.check_policy(text)


def test_reading_a_policy_loads_no_numerics_and_asks_no_service(tmp_path: Path) -> None:
    path = tmp_path / "lieaudit.yaml"
    path.write_text(VALID["every kind"])
    (tmp_path / "second.yaml").write_text(INVALID["typo in a field"][0])
    code = (
        "import sys; from lieaudit_client.command import run\n"
        f"codes = run(['policy', 'check', {str(path)!r}]), run(['policy', 'check', {str(path)!r}, 'second.yaml'])\n"
        "assert codes == (0, 2), codes\n"
        "assert not {'numpy', 'onnx', 'onnxruntime', 'lieaudit', 'lieaudit_server'} & set(sys.modules)\n"
    )
    environment = {"PATH": os.environ["PATH"], "LIEAUDIT_SERVER": "127.0.0.1:9"}  # where nobody listens
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "second.yaml:2: confidnce: no such field" in done.stderr
