"""The charts of the report, as SVG that stands in a page: its text has the page's colour, in light and in dark.

Each is narrow enough for a phone; a page sets several side by side where it is wider. Shares are 0 to 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

# Between light and dark: 3 to 1 at least against white and against the page's dark ground.
NEUTRAL = "#808080"
COLOURS = ("#c2571a", "#2f74c0", "#2e8b57", "#8f5cc2", "#b3478a", "#8a7a10", "#00808a", "#c0392b")
_OF = {"fine-tuned": COLOURS[0], "aligned": COLOURS[1], "paper": NEUTRAL}
_WIDTH = 230
_CONFIG = {
    "background": None,
    "padding": {"left": 18, "right": 12, "top": 4, "bottom": 4},  # a page's font may be wider than the one measured
    "mark": {"aria": False},  # what is said of a chart stands around it
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "titleFontWeight": "normal",
        "domainColor": NEUTRAL,
        "tickColor": NEUTRAL,
        "gridColor": NEUTRAL,
        "gridOpacity": 0.25,
        "labelLimit": 130,
    },
    "legend": {"labelColor": "currentColor", "orient": "bottom", "columns": 2, "symbolOpacity": 1, "title": None},
}
Rows = Sequence[Mapping[str, Any]]


def svg(chart: alt.TopLevelMixin) -> str:
    """Not validated by Altair first, which takes longer than drawing."""
    return vl_convert.vegalite_to_svg({**chart.to_dict(validate=False), "config": _CONFIG})


def intervals(rows: Rows, order: Sequence[str], baseline: float | None, percent: bool = True) -> alt.LayerChart:
    """A point with its 95% interval for each name: `name`, `value`, `low`, `high` (None: without), `kind`.

    `baseline`: where a line stands; None: nowhere.
    """
    axis = alt.Axis(format="%" if percent else "+.2~f", tickCount=5 if percent else 4)
    scale = alt.Scale(domain=[0, 1]) if percent else alt.Undefined
    base = alt.Chart(alt.Data(values=list(rows)), width=_WIDTH, height={"step": 24})
    y = alt.Y("name:N", sort=list(order), title=None)
    colour = alt.Color("kind:N", scale=_kinds(rows), legend=None)
    parts = [
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", title=None, axis=axis, scale=scale), x2="high:Q", y=y, color=colour
        ),
        base.mark_point(filled=True, size=60).encode(x=alt.X("value:Q", axis=axis, scale=scale), y=y, color=colour),
    ]
    if baseline is not None:
        line = alt.Chart(alt.Data(values=[{"at": baseline}]))
        parts.insert(0, line.mark_rule(color=NEUTRAL, strokeDash=[4, 3]).encode(x="at:Q"))
    return alt.LayerChart(layer=parts)


def _kinds(rows: Rows) -> alt.Scale:
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    return alt.Scale(domain=kinds, range=[_OF.get(kind, COLOURS[at % 8]) for at, kind in enumerate(kinds)])


def confusion(counts: Mapping[tuple[str, str], int], gold: Sequence[str], found: Sequence[str]) -> alt.LayerChart:
    """How often each gold label got which: a field's share of its row as the darkness of a square, counts in words."""
    totals = {label: sum(counts.get((label, other), 0) for other in found) for label in gold}
    rows = [
        {"gold": one, "found": other, "count": count, "share": count / totals[one]}
        for one in gold
        for other in found
        if (count := counts.get((one, other), 0))
    ]
    base = alt.Chart(alt.Data(values=rows), width={"step": 26}, height={"step": 26}).encode(
        x=alt.X("found:N", sort=list(found), title="tutor", axis=alt.Axis(labelAngle=0), scale=_all(found)),
        y=alt.Y("gold:N", sort=list(gold), title="gold", scale=_all(gold)),
    )
    squares = base.mark_rect(stroke=NEUTRAL, strokeOpacity=0.4).encode(
        color=alt.value(COLOURS[1]),
        fillOpacity=alt.FillOpacity("share:Q", scale=alt.Scale(domain=[0, 1]), legend=None),
    )
    numbers = base.mark_text(fontSize=9, color="currentColor").encode(text="count:Q")
    return alt.LayerChart(layer=[squares, numbers])


def _all(labels: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(labels))


def lines(rows: Rows, x: str, percent: bool = False, band: bool = False) -> alt.LayerChart:
    """A line of `value` over `x` for each `kind`; with `low` and `high`, a band."""
    base = alt.Chart(alt.Data(values=list(rows)), width=_WIDTH, height=130)
    kinds = {row["kind"] for row in rows}
    colour = alt.Color("kind:N", scale=_kinds(rows), legend=alt.Legend() if len(kinds) > 1 else None)
    horizontal = alt.X(f"{x}:Q", title=x, axis=alt.Axis(tickMinStep=1, format="d", tickCount=6))
    axis = alt.Axis(format="%", tickCount=5) if percent else alt.Axis(format=".3~r", tickCount=5)
    scale = alt.Scale(domain=[0, 1]) if percent else alt.Scale(zero=False)
    parts: list[Any] = []
    if band:
        low = alt.Y("low:Q", title=None, axis=axis, scale=scale)
        parts.append(base.mark_area(opacity=0.15).encode(x=horizontal, y=low, y2="high:Q", color=colour))
    parts.append(
        base.mark_line(point=len(rows) < 60, strokeWidth=1.5).encode(
            x=horizontal, y=alt.Y("value:Q", title=None, axis=axis, scale=scale), color=colour
        )
    )
    return alt.LayerChart(layer=parts)


def bars(rows: Rows, order: Sequence[str], unit: str | None = None, percent: bool = False) -> alt.Chart:
    """Bars side by side for each name, of one `kind` or several: `name`, `value`, `kind`."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    axis = alt.Axis(format="%" if percent else "~s", tickCount=5)
    chart = alt.Chart(
        alt.Data(values=list(rows)),
        width=_WIDTH,
        height={"step": 8 + 10 * len(kinds), "for": "position"},
    )
    return chart.mark_bar().encode(
        x=alt.X("value:Q", title=unit, axis=axis),
        y=alt.Y("name:N", sort=list(order), title=None),
        yOffset=alt.YOffset("kind:N", sort=kinds) if len(kinds) > 1 else alt.Undefined,
        color=alt.Color("kind:N", scale=_kinds(rows), legend=alt.Legend() if len(kinds) > 1 else None),
    )
