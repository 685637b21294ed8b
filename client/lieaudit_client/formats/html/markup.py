"""Small pieces of HTML; every text that comes from outside goes through `text`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from lieaudit_client.formats.numbers import number

ICONS = {"pass": "✓", "ok": "✓", "fail": "✕", "inconclusive": "?", "waived": "⚑"}


def text(value: object) -> str:
    """Escape a value for an element's text or a quoted attribute."""
    return html.escape(str(value), quote=True)


def badge(state: str, label: str = "") -> str:
    """Give a state as a pill with an icon, so that it does not depend on colour."""
    kind = state if state in ICONS else ""
    icon = f'<span aria-hidden="true">{ICONS.get(state, "·")}</span>'
    return f'<span class="badge {kind}">{icon}{text(label or state)}</span>'


def card(name: str, title: str, hint: str, body: str) -> str:
    """Give one section of the page; ``hint`` and ``body`` are HTML."""
    said = f'<p class="hint">{hint}</p>' if hint else ""
    return f'<section class="card" id="{name}"><h2>{text(title)}</h2>{said}{body}</section>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = (), wide: Sequence[int] = ()
) -> str:
    """Give a table from HTML cells; ``numeric`` columns are set right, ``wide`` ones hold running text."""

    def cells(tag: str, row: Sequence[str]) -> str:
        classes = [' class="n"' if i in numeric else ' class="w"' if i in wide else "" for i in range(len(row))]
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(classes, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>{body}</tbody></table></div>'


def tabs(group: str, names: Sequence[str], *, everything: bool = False) -> str:
    """Give buttons that show one panel of ``group`` at a time; the first is chosen."""
    choices = [("*", "all"), *((n, n) for n in names)] if everything else [(n, n) for n in names]
    buttons = "".join(
        f'<button type="button" role="tab" aria-selected="{"true" if i == 0 else "false"}" data-show="{text(value)}">'
        f"{text(label.replace('_', ' '))}</button>"
        for i, (value, label) in enumerate(choices)
    )
    return f'<div class="tabs noprint" role="tablist" data-tabs="{text(group)}">{buttons}</div>'


def panel(group: str, name: str, body: str, *, hidden: bool) -> str:
    """Give one panel that `tabs` of the same group shows or hides."""
    state = " hidden" if hidden else ""
    return f'<div class="panel" data-group="{text(group)}" data-name="{text(name)}"{state}>{body}</div>'


def chart(figure: str, label: str, shape: str = "") -> str:
    """Give the place where a figure is drawn; ``label`` describes it to a screen reader."""
    return (
        f'<div class="chart loading {shape}" data-figure="{text(figure)}" role="img" aria-label="{text(label)}"></div>'
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Give name-value pairs; values are HTML."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{items}</dl>'


def code(value: object) -> str:
    """Give a value in monospace."""
    return f"<code>{text(value)}</code>"


def num(value: float | None) -> str:
    """Give a number as text, safe for HTML."""
    return text(number(value))
