"""The verdict and the rules: what was decided, on which numbers, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lieaudit_api.v1 import gate_pb2

from lieaudit_client.formats.html.markup import badge, card, text
from lieaudit_client.formats.numbers import interval, number
from lieaudit_client.formats.outcome import ORDER, headline, judged

_SPANS = ((1.5, "⅔", "1.5×"), (2.0, "½", "2×"), (4.0, "¼", "4×"), (16.0, "1/16", "16×"))
"""How far a rule's bar reaches to either side of the limit, as a factor, and its end labels: the closest that fits."""
_MOST_REASONS = 4


def verdict(decision: gate_pb2.Decision, title: str) -> str:
    """Return the banner."""
    shown = [f"<li>{text(reason)}</li>" for reason in decision.reasons[:_MOST_REASONS]]
    if len(decision.reasons) > _MOST_REASONS:
        shown.append(f'<li><a href="#rules">and {len(decision.reasons) - _MOST_REASONS} more</a></li>')
    counts = ", ".join(
        f"{sum(r.outcome == state for r in decision.rules)} {state}"
        for state in reversed(ORDER)
        if any(r.outcome == state for r in decision.rules)
    )
    return (
        f'<section class="card verdict {text(decision.verdict)}" id="verdict">'
        f"{badge(decision.verdict, decision.verdict.upper())}"
        f"<div><h1>{title}</h1><p>{text(headline(decision))}. "
        f'<span class="hint">Rules: {counts}.</span></p></div>'
        f"{'<ul>' + ''.join(shown) + '</ul>' if shown else ''}</section>"
    )


def rules(decision: gate_pb2.Decision) -> str:
    """Return every rule with its numbers, its interval against the limit, and the sentence."""
    body = "".join(_rule(rule) for rule in sorted(decision.rules, key=lambda r: ORDER.get(r.outcome, 0)))
    hint = (
        f"The bar shows value ÷ limit with its {100 * decision.confidence:.4g} % interval: left of the line is "
        "accepted. A version that meets every limit is failed with probability at most "
        f"{100 * decision.false_fail_rate:.2g} %, all rules together."
    )
    return card("rules", "Rules", hint, body)


def _rule(rule: gate_pb2.RuleOutcome) -> str:
    name = judged(rule).replace("_", " ")
    about = f" · {rule.subject}" if rule.subject else ""
    said = rule.sentence.removeprefix(f"{rule.part}: ").removeprefix(f"{rule.generator.replace('_', ' ')}: ")
    numbers = [
        f"p = {number(rule.adjusted_p_value)} after Holm" if rule.HasField("adjusted_p_value") else "",
        f"numerical error ± {number(rule.numerical_error)}" if rule.HasField("numerical_error") else "",
        f"{rule.images} images" if rule.images else "",
        f"policy line {rule.line}" if rule.line else "",
    ]
    return (
        f'<div class="rule">{badge(rule.outcome)}'
        f'<div class="what">{text(name)}{text(about)} <span class="hint">{text(rule.id)}</span></div>'
        f'<div class="bar">{forest(rule)}</div>'
        f'<div class="say">{text(said[:1].upper() + said[1:])}</div>'
        f'<div class="numbers">{text(" · ".join(n for n in numbers if n))}</div>{_waiver(rule)}</div>'
    )


def _waiver(rule: gate_pb2.RuleOutcome) -> str:
    if not rule.HasField("waiver"):
        return ""
    waiver = rule.waiver
    state = "Waiver expired" if waiver.expired else "Waived until"
    return (
        f'<div class="waiver{" expired" if waiver.expired else ""}"><strong>{state} {text(waiver.expires)}</strong>'
        f" by {text(waiver.owner)}: {text(waiver.reason)}</div>"
    )


def forest(rule: gate_pb2.RuleOutcome) -> str:
    """Draw value ÷ limit with its interval on a log scale around the limit; empty where nothing was measured."""
    if not rule.HasField("value") or rule.limit <= 0:
        return ""
    low, high = _bounds(rule.interval, rule.value)
    far = max(abs(math.log(max(v, 1e-12) / rule.limit)) for v in (low, high, rule.value))
    factor, left, right = next((s for s in _SPANS if math.log(s[0]) >= far), _SPANS[-1])
    middle, half, top = 150.0, 132.0, 15.0

    def place(value: float) -> float:
        position = math.log(max(value, 1e-12) / rule.limit) / math.log(factor)
        return middle + half * max(-1.0, min(1.0, position))

    def end(value: float, kind: str) -> str:
        """Draw an arrow where a value is off the scale."""
        across = place(value)
        if abs(math.log(max(value, 1e-12) / rule.limit)) <= math.log(factor) * (1 + 1e-9):
            return f'<circle class="dot" cx="{across:.1f}" cy="{top}" r="4.5"/>' if kind == "dot" else ""
        size = -7 if across < middle else 7
        corners = f"{across + size:.1f},{top} {across:.1f},{top - 6} {across:.1f},{top + 6}"
        return f'<polygon class="{kind}" points="{corners}"/>'

    said = f"{rule.outcome}: value {number(rule.value)}, interval {interval(rule.interval)}, limit {number(rule.limit)}"
    marks = "".join(
        f'<text x="{x:.1f}" y="40" text-anchor="middle">{label}</text>'
        for x, label in ((middle - half, left), (middle, f"limit {number(rule.limit)}"), (middle + half, right))
    )
    return (
        f'<svg class="forest" viewBox="0 0 300 44" role="img" aria-label="{text(said)}">'
        '<rect class="ok" x="18" y="3" width="132" height="24"/>'
        '<rect class="bad" x="150" y="3" width="132" height="24"/>'
        f'<line class="ci" x1="{place(low):.1f}" x2="{place(high):.1f}" y1="{top}" y2="{top}"/>'
        f'<line class="limit" x1="{middle}" x2="{middle}" y1="1" y2="29"/>'
        f"{end(low, 'arrow')}{end(high, 'arrow')}{end(rule.value, 'dot')}{marks}</svg>"
    )


def _bounds(bounds: Sequence[float], value: float) -> tuple[float, float]:
    return (bounds[0], bounds[1]) if len(bounds) == 2 else (value, value)
