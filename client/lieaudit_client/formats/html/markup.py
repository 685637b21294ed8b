"""Small pieces of HTML; every text that comes from outside goes through `text`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from lieaudit_client.formats.numbers import number

ICONS = {"pass": "✓", "ok": "✓", "fail": "✕", "inconclusive": "?", "waived": "⚑", "skipped": "–"}


def text(value: object) -> str:
    """Escape a value for an element's text or a quoted attribute."""
    return html.escape(str(value), quote=True)


def badge(state: str, label: str = "") -> str:
    """Return a state as a pill with an icon, so that it does not depend on colour."""
    kind = state if state in ICONS else ""
    icon = f'<span aria-hidden="true">{ICONS.get(state, "·")}</span>'
    return f'<span class="badge {kind}">{icon}{text(label or state)}</span>'


def card(name: str, title: str, hint: str, body: str) -> str:
    """Return one section of the page; ``hint`` and ``body`` are HTML."""
    said = f'<p class="hint">{hint}</p>' if hint else ""
    return f'<section class="card" id="{name}"><h2>{text(title)}</h2>{said}{body}</section>'


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    numeric: Sequence[int] = (),
    wide: Sequence[int] = (),
    *,
    said: str,
) -> str:
    """Return a table from HTML cells; ``numeric`` columns are set right, ``wide`` ones hold running text.

    Where the screen is narrow it scrolls sideways under its first column; ``said`` names it to who reaches it by the
    keyboard. A row of fewer cells than the head ends in one that spans the rest.
    """

    def cells(tag: str, row: Sequence[str]) -> str:
        classes = [' class="n"' if i in numeric else ' class="w"' if i in wide else "" for i in range(len(row))]
        if len(row) < len(head):
            classes[-1] = f' colspan="{len(head) - len(row) + 1}" class="w"'
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(classes, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{text(said)}"><table>'
        f"<thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def two(first: str, second: str) -> str:
    """Return a cell of two lines, the second in small letters; both are HTML."""
    return f"{first}<br><small>{second}</small>" if second else first


def tabs(group: str, names: Sequence[str]) -> str:
    """Return buttons that show one panel of ``group`` at a time; nothing where there is one."""
    if len(names) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" role="tab" aria-selected="{"true" if i == 0 else "false"}" data-show="{text(name)}">'
        f"{text(name.replace('_', ' '))}</button>"
        for i, name in enumerate(names)
    )
    return f'<div class="tabs" role="tablist" aria-label="generator" data-tabs="{text(group)}">{buttons}</div>'


def panel(group: str, name: str, body: str) -> str:
    """Return one panel that `tabs` of the same group shows; on paper, and without a script, all of them are there."""
    shown = text(name.replace("_", " "))
    return (
        f'<div class="panel" role="tabpanel" aria-label="{shown}" data-group="{text(group)}" data-name="{text(name)}">'
        f"<h3>{shown}</h3>{body}</div>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return name-value pairs; values are HTML."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{items}</dl>'


def code(value: object) -> str:
    """Return a value in monospace."""
    return f"<code>{text(value)}</code>"


def num(value: float | None) -> str:
    """Return a number as text, safe for HTML."""
    return text(number(value))
