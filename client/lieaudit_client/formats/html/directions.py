"""The worst and the best direction of a report, drawn on the page."""

from __future__ import annotations

from lieaudit_api.v1 import report_pb2

from lieaudit_client.formats.arrows import arrows, as_option, extremes, field_of, size_of
from lieaudit_client.formats.html.markup import card, code, facts, num, text
from lieaudit_client.formats.numbers import interval, number

_SIDE = 180
"""Pixels of a drawing's longer side."""

_ACROSS = 9
"""Arrows along the longer side."""


def directions(candidate: report_pb2.Report, baseline: report_pb2.Report | None) -> str:
    """Return the card of every direction; nothing where no report holds it."""
    both = [("candidate" if baseline is not None else "model", "candidate", candidate)]
    if baseline is not None:
        both.append(("baseline", "baseline", baseline))
    shown = [(label, role, report.affine) for label, role, report in both if report.HasField("affine")]
    if not shown:
        return ""
    hint = (
        "All affine motions together: which one the model answers to most, and least, for one pixel of motion (root "
        "mean square over the image). Signs play no part. The largest of many is one that these images flattered: "
        "<em>bias</em> is by how much, as resampling them sees it."
    )
    parts = []
    for label, role, affine in shown:
        parts += [
            _extreme(label if baseline is not None else "", role, name, d, affine) for name, d in extremes(affine)
        ]
        within = f" {text(interval(affine.mean_ci95))}" if affine.mean_ci95 else ""
        said = f"{label}, mean over all directions" if baseline is not None else "mean over all directions"
        parts.append(f'<p class="hint">{text(said)}: {num(affine.mean)}{within}</p>')
    return card("directions", "Every direction", hint, "".join(parts))


def _extreme(label: str, role: str, name: str, found: report_pb2.AffineDirection, affine: report_pb2.Affine) -> str:
    title = f"{label} {name}".strip()
    pairs = [
        ("does", f"<strong>{text(found.words)}</strong>"),
        ("LEE", f"{num(found.lee)} ± {num(found.error_bar)}"),
        ("95 % interval", text(interval(found.ci95))),
        ("bias", text(number(found.bias)) if found.HasField("bias") else "not measured"),
        ("measure it", code(f"--generator {name}='{as_option(found)}'")),
    ]
    drawing = _drawing(f"{title} direction: {found.words}", role, field_of(found), size_of(affine))
    return f'<div class="direction"><h3>{text(title)}</h3>{drawing}{facts(pairs)}</div>'


def _drawing(label: str, role: str, field: tuple[tuple[float, ...], ...], size: tuple[float, float]) -> str:
    """Draw arrows on the outline of an image."""
    scale = _SIDE / max(size)
    height, width = (max(24.0, scale * side) for side in size)
    rows, columns = (max(1, round(_ACROSS * side / _SIDE)) for side in (height, width))
    step = min(height / rows, width / columns)
    lines = []
    for x, y, vx, vy in (arrow for line in arrows(field, size, rows, columns) for arrow in line):
        cx, cy, dx, dy = x * width, y * height, vx * step * 0.42, vy * step * 0.42
        tip = (cx + dx, cy + dy)
        lines.append(
            f'<path d="M{cx - dx:.1f} {cy - dy:.1f}L{tip[0]:.1f} {tip[1]:.1f}'
            f"M{tip[0] - 0.6 * dx + 0.4 * dy:.1f} {tip[1] - 0.6 * dy - 0.4 * dx:.1f}L{tip[0]:.1f} {tip[1]:.1f}"
            f'L{tip[0] - 0.6 * dx - 0.4 * dy:.1f} {tip[1] - 0.6 * dy + 0.4 * dx:.1f}"/>'
        )
    return (
        f'<svg class="field {role}" role="img" aria-label="{text(label)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.1f} {height:.1f}"><rect width="100%" height="100%"/>{"".join(lines)}</svg>'
    )
