"""One self-contained page: no network request, light and dark, printable, for phones and desktops.

A section is an entry of `SECTIONS`: its id, its name in the navigation, and what makes it of the reports. Everything
is drawn here, as HTML and SVG; the page's script only moves things about, and without it nothing is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

from lieaudit_api.v1 import gate_pb2, report_pb2

from lieaudit_client.formats.html import many, measurements, words
from lieaudit_client.formats.html.directions import directions
from lieaudit_client.formats.html.layers import layers
from lieaudit_client.formats.html.markup import badge, card, code, facts, text
from lieaudit_client.formats.html.parts import parts
from lieaudit_client.formats.html.verdict import rules, verdict
from lieaudit_client.formats.numbers import short


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page is about; ``promote`` is the registry's alias that a pass is to move."""

    candidate: report_pb2.Report
    baseline: report_pb2.Report | None = None
    decision: gate_pb2.Decision | None = None
    promote: str | None = None

    @property
    def both(self) -> list[tuple[str, report_pb2.Report]]:
        """The reports with what they are."""
        if self.baseline is None:
            return [("model", self.candidate)]
        return [("candidate", self.candidate), ("baseline", self.baseline)]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; ``make`` gives a card of this id, or nothing where there is nothing to show."""

    id: str
    name: str
    make: Callable[[Shown], str]


SECTIONS = (
    Section("rules", "rules", lambda page: rules(page.decision) if page.decision is not None else ""),
    Section(
        "generators",
        "symmetries",
        lambda page: (
            measurements.generators(page.candidate, page.baseline, page.decision)
            if page.candidate.results or not page.candidate.parts
            else ""
        ),
    ),
    Section("parts", "parts", lambda page: parts(page.candidate)),
    Section("directions", "every direction", lambda page: directions(page.candidate, page.baseline)),
    Section("images", "every image", lambda page: measurements.images(page.candidate, page.baseline, page.decision)),
    Section("worst", "worst images", lambda page: measurements.pictures(page.candidate)),
    Section("layers", "layers", lambda page: layers(page.candidate, page.baseline)),
    Section("errors", "error bars", lambda page: measurements.error_bars(page.both)),
    Section("environment", "environment", lambda page: measurements.environment(page.both)),
    Section("words", "in plain words", lambda page: words.glossary()),  # noqa: ARG005 - the same on every page
)
"""The sections below the head, in their order."""


def render(
    candidate: report_pb2.Report,
    baseline: report_pb2.Report | None = None,
    decision: gate_pb2.Decision | None = None,
    *,
    promote: str | None = None,
) -> str:
    """Return the page of one report, of a comparison, or (with ``decision``) of the gate's verdict."""
    page = Shown(measurements.as_decided(candidate, decision), baseline, decision, promote)
    made = [(section.id, section.name, section.make(page)) for section in SECTIONS]
    title = f"{decision.verdict.upper()}: {candidate.model.name}" if decision is not None else candidate.model.name
    return _document(f"lieaudit: {title}" if decision is None else title, _head(page), made)


def render_comparison(reports: Sequence[tuple[str, report_pb2.Report]]) -> str:
    """Return the page of many models: every generator at once, against accuracy, and by layers."""
    made = [
        ("generators", "symmetries", many.generators(reports)),
        ("accuracy", "accuracy", many.accuracy(reports)),
        ("layers", "layers", many.layers(reports)),
        ("errors", "error bars", measurements.error_bars(list(reports))),
        ("environment", "environment", measurements.environment(list(reports))),
        ("words", "in plain words", words.glossary()),
    ]
    return _document(f"lieaudit: {len(reports)} models", many.head(reports), made)


def _head(page: Shown) -> str:
    candidate, baseline, decision = page.candidate, page.baseline, page.decision
    name = text(candidate.model.name or short(candidate.model.sha256))
    against = f" against {text(baseline.model.name or short(baseline.model.sha256))}" if baseline is not None else ""
    data = f"{candidate.data.count} of {text(candidate.data.name or 'unnamed')} {code(short(candidate.data.sha256))}"
    who = facts(
        [
            *(measurements.subject(report, role if baseline is not None else "") for role, report in page.both),
            ("images", data),
        ]
    )
    if decision is not None:
        title = "Compared" if baseline is not None else "Audited"
        said = verdict(decision, f"{name}{against}") + words.consequence(decision, page.promote)
        return said + card("models", title, "", who)
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in candidate.reasons)
    return (
        f'<section class="card verdict {text(candidate.status)}" id="models">{badge(candidate.status)}'
        f'<h1>{name}{against}</h1>{f"<ul>{reasons}</ul>" if reasons else ""}<div class="who">{who}</div></section>'
    )


_SOURCE = (
    "Definitions: Gruver, Finzi, Goldblum, Wilson, “The Lie Derivative for Measuring Learned Equivariance”, ICLR 2023."
)


def _document(title: str, head: str, sections: Sequence[tuple[str, str, str]]) -> str:
    links = "".join(f'<a href="#{name}">{label}</a>' for name, label, body in sections if body)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    early = "document.documentElement.dataset.theme=matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{text(title)}</title>
<style>{_asset("page.css")}</style>
<script>{early}</script>
</head>
<body>
<nav aria-label="sections"><div><div class="links"><a class="brand" href="#top">lieaudit</a>{links}</div>
<button type="button" id="theme" aria-label="switch between light and dark">◐</button></div></nav>
<main id="top">{head}{"".join(body for _, _, body in sections)}
<footer>Made by lieaudit. {_SOURCE}</footer>
</main>
<noscript><style>.tabs, .noprint, #theme {{ display: none; }}</style></noscript>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
