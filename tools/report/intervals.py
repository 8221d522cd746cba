"""The chart of a comparison: differences as points with intervals, head to tail."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

from engine.logs import percent
from longtail.shots import GROUPS
from tools.report.page import STYLE_SHEET, TITLES

ORDER = (*GROUPS, "mean_class", "top1")
LABELS, PANEL, GAP, ROW, TOP = 176, 150, 16, 24, 44  # sizes in pixels
# The colors of the report, light and dark, are its style sheet's first rule.
STYLE = (
    STYLE_SHEET[: STYLE_SHEET.index("}") + 1]
    + """
.intervals { font: 12px system-ui, sans-serif } .intervals text { fill: var(--ink) }
.intervals .quiet { fill: var(--quiet) }
.intervals .axis { stroke: var(--line) } .intervals .zero { stroke: var(--quiet) }
"""
)


def ticks(low: float, high: float) -> list[int]:
    """Return round numbers from low to high, at most seven."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if (high - low) / s <= 6)
    return list(range(math.ceil(low / step) * step, math.floor(high / step) * step + 1, step))


def chart(comparison: Mapping[str, Any]) -> str:
    """Return the differences to the baseline as one SVG, which follows light and dark.

    `comparison` is what tools.compare writes as JSON. Filled points are different after Holm's
    correction, open ones are not shown to be. Without differences it is an empty text.
    """
    rows = {m: row["differences"] for m, row in comparison["methods"].items() if row["differences"]}
    metrics = [key for key in ORDER if any(key in found for found in rows.values())]
    spans = [found[key] for found in rows.values() for key in metrics if key in found]
    if not spans:
        return ""
    low = min(0.0, *(span["low"] for span in spans))
    high = max(0.0, *(span["high"] for span in spans))
    pad = 0.06 * (high - low) or 1.0  # all differences may be 0
    low, high = low - pad, high + pad
    base = comparison["methods"][comparison["baseline"]]["mean"]
    bottom = TOP + ROW * len(rows)
    width, height = LABELS + len(metrics) * (PANEL + GAP), bottom + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="intervals" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="Differences to '
        f'{html.escape(comparison["baseline"])}"><style>{STYLE}</style>'
    ]
    for row, method in enumerate(rows):
        y = TOP + ROW * (row + 0.5) + 4
        parts.append(
            f'<text x="{LABELS - 12}" y="{y}" text-anchor="end">{html.escape(method)}</text>'
        )
    for place, key in enumerate(metrics):
        left = LABELS + place * (PANEL + GAP)

        def x(value: float, left: float = left) -> float:
            return round(left + PANEL * (value - low) / (high - low), 1)

        color = f"var(--{key if key in GROUPS else 'quiet'})"
        parts.append(
            f'<text x="{left}" y="14" font-weight="600">{TITLES[key]}</text>'
            f'<text x="{left}" y="30" class="quiet">{html.escape(comparison["baseline"])} '
            f"{percent(base[key])}</text>"
        )
        for tick in ticks(low, high):
            kind = "zero" if tick == 0 else "axis"
            number = f"{tick:+}".replace("-", "\N{MINUS SIGN}") if tick else "0"
            parts.append(
                f'<line class="{kind}" x1="{x(tick)}" x2="{x(tick)}" y1="{TOP}" y2="{bottom}"/>'
                f'<text class="quiet" x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">'
                f"{number}</text>"
            )
        for row, found in enumerate(rows.values()):
            if (span := found.get(key)) is not None:
                parts.append(_point(span, x, TOP + ROW * (row + 0.5), color))
    said = "percentage points, 95% intervals; filled: different after Holm's correction"
    parts.append(f'<text class="quiet" x="{LABELS}" y="{height - 4}">{said}</text></svg>')
    return "\n".join(parts)


def _point(span: Mapping[str, Any], x: Any, y: float, color: str) -> str:
    fill = color if span["different"] else "var(--paper)"
    value = f"{span['value']:+.1f} [{span['low']:+.1f}, {span['high']:+.1f}]"
    return (
        f'<g stroke="{color}" stroke-width="2"><title>{value}</title>'
        f'<line x1="{x(span["low"])}" x2="{x(span["high"])}" y1="{y}" y2="{y}"/>'
        f'<circle cx="{x(span["value"])}" cy="{y}" r="4.5" fill="{fill}"/></g>'
    )
