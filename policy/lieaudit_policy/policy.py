"""The gate's policy: which rules a model version must meet, and how surely.

The YAML form is described for people in docs/gate.md and for editors by ``policy.schema.json`` beside this module;
a test holds the three together.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

import yaml

from lieaudit_policy.vocabulary import GENERATORS, GROUPS
from lieaudit_policy.yaml_reader import Fields, Problem, Unreadable, compose, line_of, suggestion

STATISTICS = ("mean", "median", "geometric_mean")
KINDS = ("limit", "noninferiority", "relative", "kind_share", "gap", "worst_direction")
DIRECTIONS = ("both", "data_no_worse", "dataset_no_worse")
"""What a gap rule accepts: no gap either way, or none by which the named side is worse."""
MEASURES = ("lee", "lee_per_px2")
"""What a limit rule bounds: LEE per unit of t, or per squared pixel of displacement."""
MEASURE_GROUP = "lieaudit.measures"
"""The group of entry points by which other distributions bring measures."""
WORST = "worst_direction"
"""The kind of rule that is about the worst of all affine directions, and what stands there for its generator."""
ON_INCONCLUSIVE = ("block", "fail", "warn", "more_images")

_FIELDS_OF_KIND: dict[str, tuple[str, ...]] = {
    "limit": ("max", "measure", "statistic", "part"),
    "noninferiority": ("margin", "statistic", "part"),
    "relative": ("max", "part"),
    "kind_share": ("layer_kind", "max"),
    "gap": ("dataset", "margin", "direction", "statistic", "part"),
    WORST: ("max", "part"),
}
_REQUIRED: dict[str, tuple[str, ...]] = {
    kind: tuple(name for name in names if name not in {"statistic", "direction", "measure", "part"})
    for kind, names in _FIELDS_OF_KIND.items()
}
_RULE_FIELDS = (
    "id",
    "kind",
    "generators",
    "max",
    "margin",
    "statistic",
    "layer_kind",
    "dataset",
    "direction",
    "measure",
    "part",
)
_ID = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_PART = r"[A-Za-z][A-Za-z0-9_-]{0,63}(\.(centre|size))?"
_PART_RULE = "must be the name of a part, or of one result of it: boxes, boxes.centre, boxes.size"
_ID_RULE = "must be letters, digits, '_', '.' and '-', at most 64"


@dataclass(frozen=True, slots=True)
class Rule:
    """One requirement, for each of ``generators``; of a `WORST` rule that name alone.

    ``limit`` is what the value must not exceed: ``max`` of the YAML, or 1 + ``margin`` for rules on a ratio
    (non-inferiority: candidate over baseline; gap: the worse set over the other, or the one that must be no worse).
    """

    id: str
    kind: str
    generators: tuple[str, ...]
    limit: float
    statistic: str
    line: int
    subject: str = ""
    """The layer kind of a ``kind_share`` rule, the dataset of a ``gap`` rule; the measure of a ``limit`` not on LEE."""
    direction: str = ""
    """Of a ``gap`` rule: one of `DIRECTIONS`."""
    part: str = ""
    """The part of the outputs that it is about, ``boxes``, or one result of it, ``boxes.size``."""


@dataclass(frozen=True, slots=True)
class Waiver:
    """Lets a rule fail until ``expires`` (that day included), for ``generators`` of ``rule``."""

    rule: str
    generators: tuple[str, ...]
    owner: str
    reason: str
    expires: dt.date
    line: int

    def expired(self, today: dt.date) -> bool:
        """Say whether the waiver no longer holds on ``today``."""
        return today > self.expires


@dataclass(frozen=True, slots=True)
class Policy:
    """A valid policy.

    ``confidence`` is that of the two-sided intervals; each of the two errors (failing what meets the policy, passing
    what does not) then has probability (1 − confidence)/2 at most.
    """

    rules: tuple[Rule, ...]
    waivers: tuple[Waiver, ...] = ()
    confidence: float = 0.95
    min_images: int = 50
    max_images: int | None = None
    on_inconclusive: str = "block"
    secant_px: float | None = None
    """Decide on secants of this root-mean-square displacement instead of on derivatives."""
    sha256: str = ""
    parts: tuple[str, ...] = ()
    """What the outputs hold, as ``--part`` takes it."""
    generators: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        wanted = {generator for rule in self.rules for generator in rule.generators}
        if WORST in wanted:
            wanted.update(GROUPS["geometric"])
        object.__setattr__(self, "generators", tuple(g for g in GENERATORS if g in wanted))

    @property
    def needs_baseline(self) -> bool:
        """Whether any rule compares with a baseline."""
        return any(rule.kind == "noninferiority" for rule in self.rules)

    @property
    def layerwise(self) -> str:
        """The layerwise attribution that the rules need: ``none`` or ``module``."""
        return "module" if any(rule.kind == "kind_share" for rule in self.rules) else "none"

    @property
    def relative(self) -> bool:
        """Whether any rule is about `relative`, which is measured on as many images as are asked for."""
        return any(rule.kind == "relative" for rule in self.rules)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of the further datasets that gap rules use, in order of first use."""
        return tuple(dict.fromkeys(rule.subject for rule in self.rules if rule.kind == "gap"))

    def waiver(self, rule: Rule, generator: str) -> Waiver | None:
        """Find the waiver of a rule and generator: of several, the one that holds longest."""
        found = [w for w in self.waivers if w.rule == rule.id and (generator in w.generators or generator == WORST)]
        return max(found, key=lambda w: w.expires, default=None)


_NO_SECANTS = {
    "kind_share": "layers are attributed in the limit t → 0, which secants of a stated size are not",
    WORST: "directions are combined in the limit t → 0, which secants of a stated size are not",
}


def check(text: str, measures: Sequence[str] = ()) -> tuple[Policy | None, tuple[Problem, ...]]:
    """Read a policy and give it, or every problem it has (never both).

    ``measures`` are those that a limit rule may bound beside `MEASURES`.
    """
    try:
        root = compose(text)
    except Unreadable as unreadable:
        return None, (unreadable.problem,)
    problems: list[Problem] = []
    policy = _policy(root, problems, hashlib.sha256(text.encode()).hexdigest(), (*MEASURES, *measures))
    return (None, tuple(sorted(problems, key=lambda p: p.line))) if problems else (policy, ())


def schema() -> str:
    """Return the JSON Schema of the YAML form, for editors."""
    return resources.files(__package__).joinpath("policy.schema.json").read_text()


def _policy(root: yaml.MappingNode, problems: list[Problem], sha256: str, measures: Sequence[str]) -> Policy:
    known = (
        "version",
        "confidence",
        "statistic",
        "images",
        "on_inconclusive",
        "secant_px",
        "parts",
        "rules",
        "waivers",
    )
    top = Fields(root, "", known, problems)
    top.require("version", "rules")
    top.integer("version", 1, 1, 1, "this lieaudit reads version 1")
    confidence = top.number("confidence", 0.95, 0.5, 0.9999, "the level of the intervals, e.g. 0.95")
    statistic = top.choice("statistic", STATISTICS, "mean")
    on_inconclusive = top.choice("on_inconclusive", ON_INCONCLUSIVE, "block")
    images = top.mapping("images", ("min", "max"))
    least = images.integer("min", 50, 2, 10**9, "images that a decision needs at least")
    most = images.integer("max", 0, 2, 10**9, "images that are measured at most") or None
    if most is not None and most < least:
        images.fail("max", f"{most} is below images.min = {least}")
    if on_inconclusive == "more_images" and most is None:
        top.fail("on_inconclusive", "more_images needs a cap", "add `images: {max: 2000}`")
    secant = None
    if "secant_px" in top.entries:
        secant = top.number("secant_px", 0.5, 1e-6, 1000.0, "the size of the secants in pixels: 0.25 to 1 is usual")
    rules = _rules(top, statistic, measures)
    for index, rule in enumerate(rules):
        if secant is not None and rule.kind in _NO_SECANTS:
            problems.append(Problem(rule.line, f"rules[{index}].kind", _NO_SECANTS[rule.kind], "leave secant_px out"))
    waivers = tuple(w for w in (_waiver(node, i, rules, problems) for i, node in enumerate(top.items("waivers"))) if w)
    parts = top.texts("parts")
    if secant is not None and (parts or any(rule.part for rule in rules)):
        top.fail("secant_px", "parts are measured by derivatives", "leave secant_px out")
    return Policy(rules, waivers, confidence, least, most, on_inconclusive, secant, sha256, parts)


def _rules(top: Fields, statistic: str, measures: Sequence[str]) -> tuple[Rule, ...]:
    nodes = top.items("rules")
    if "rules" in top.entries and not nodes:
        top.fail("rules", "has no rule, so it would pass anything")
    rules: list[Rule] = []
    for index, node in enumerate(nodes):
        rule = _rule(node, index, statistic, measures, top.problems)
        if rule is None:
            continue
        if any(other.id == rule.id for other in rules):
            top.problems.append(Problem(rule.line, f"rules[{index}].id", f"{rule.id!r} is taken by another rule"))
        rules.append(rule)
    return tuple(rules)


def _rule(node: yaml.Node, index: int, statistic: str, measures: Sequence[str], problems: list[Problem]) -> Rule | None:
    before = len(problems)
    path = f"rules[{index}]"
    entry = Fields(node, path, _RULE_FIELDS, problems)
    if len(problems) > before and not entry.entries:
        return None
    entry.require("kind")
    kind = entry.choice("kind", KINDS)
    if not kind:
        return None
    named = () if kind == WORST else ("generators",)
    entry.require(*named, *_REQUIRED[kind])
    for name in entry.entries:
        if name not in {"id", "kind", *named, *_FIELDS_OF_KIND[kind]}:
            entry.fail(name, f"means nothing for kind {kind}", f"{kind} takes {', '.join(_FIELDS_OF_KIND[kind])}")
    generators = expand(entry, "generators") if named else (WORST,)
    if kind in {"noninferiority", "gap"}:
        limit = 1 + entry.number(
            "margin", 0.0, 0.0, 1000.0, "how much worse is acceptable, as a fraction: 0.10 is 10 %"
        )
    else:
        what = "a share of the whole" if kind == "kind_share" else "the largest acceptable value"
        limit = entry.number("max", 0.0, 0.0, 1e12, what)
    name = entry.text("id", f"{kind}-{index + 1}", _ID, _ID_RULE)
    chosen = entry.choice("statistic", STATISTICS, statistic)
    subject = entry.text({"kind_share": "layer_kind", "gap": "dataset"}.get(kind, ""), "")
    measure = entry.choice("measure", tuple(measures), MEASURES[0]) if kind == "limit" else MEASURES[0]
    subject = measure if measure != MEASURES[0] else subject
    shown = {"relative": "relative", "kind_share": "share", WORST: "worst"}.get(kind, chosen)
    direction = entry.choice("direction", DIRECTIONS, "both") if kind == "gap" else ""
    part = entry.text("part", "", _PART, _PART_RULE) if "part" in entry.entries else ""
    return Rule(name, kind, generators, limit, shown, line_of(node), subject, direction, part)


def expand(entry: Fields, name: str) -> tuple[str, ...]:
    """Expand ids, groups and patterns such as ``stretch_*`` into generator ids, in the order of `GENERATORS`."""
    found: set[str] = set()
    for pattern in entry.texts(name):
        matches = GROUPS.get(pattern) or tuple(fnmatch.filter(GENERATORS, pattern))
        if not matches:
            entry.fail(name, f"unknown generator {pattern!r}", suggestion(pattern, (*GENERATORS, *GROUPS)))
        found.update(matches)
    return tuple(g for g in GENERATORS if g in found)


def _waiver(node: yaml.Node, index: int, rules: tuple[Rule, ...], problems: list[Problem]) -> Waiver | None:
    entry = Fields(node, f"waivers[{index}]", ("rule", "generators", "owner", "reason", "expires"), problems)
    if not isinstance(node, yaml.MappingNode):
        return None
    entry.require("rule", "owner", "reason", "expires")
    name = entry.text("rule")
    rule = next((r for r in rules if r.id == name), None)
    if name and rule is None:
        entry.fail("rule", f"no rule has the id {name!r}", suggestion(name, [r.id for r in rules]))
    expires = entry.date("expires")
    owner, reason = entry.text("owner"), entry.text("reason")
    generators = expand(entry, "generators") if "generators" in entry.entries else GENERATORS
    if rule is None or expires is None:
        return None
    return Waiver(name, generators, owner, reason, expires, line_of(node))
