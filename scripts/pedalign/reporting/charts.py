"""The charts of the report, as SVG within a page: text has the page's colour, in light and in dark mode.

Most charts fit a phone's width; a wider page shows several side by side, grown to its width. Shares are 0 to 1.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

# Medium colours, with a contrast of at least 3 to 1 to white and to the page's dark background.
NEUTRAL = "#808080"
COLOURS = ("#c2571a", "#2f74c0", "#2e8b57", "#8f5cc2", "#b3478a", "#8a7a10", "#00808a", "#c0392b")
_OF = {
    **{"untrained": COLOURS[5], "fine-tuned": COLOURS[0], "aligned": COLOURS[1]},
    **{"paper": NEUTRAL, "jobs": NEUTRAL, "pairs": NEUTRAL},
    **{"scaffolding": COLOURS[2], "telling": COLOURS[3]},
    **{"sft": COLOURS[4], "dpo": COLOURS[5], "test": COLOURS[6]},  # splits
}
_WIDTH = 230
_TEXT = 13  # pixels; the page shows a chart a little smaller, and 12 are the least that people read easily
_LONG = 14  # most characters of a name in one line
_CONFIG = {
    "background": None,
    "padding": {"left": 18, "right": 12, "top": 4, "bottom": 4},  # a page's font may be wider than the one measured
    "mark": {"aria": False},  # the page describes each chart in its own text
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
        "labelLimit": 320,
        "labelFontSize": _TEXT,
        "titleFontSize": _TEXT,
        "labelFlush": False,
        "labelOverlap": "greedy",
    },
    "legend": {
        **{"labelColor": "currentColor", "labelFontSize": _TEXT, "labelLimit": 320},
        **{"orient": "bottom", "columns": 2, "symbolOpacity": 1, "title": None},
    },
}
Rows = Sequence[Mapping[str, Any]]


def svg(chart: alt.TopLevelMixin) -> str:
    """A chart as SVG, without Altair's validation, which takes longer than drawing."""
    return vl_convert.vegalite_to_svg({**chart.to_dict(validate=False), "config": _CONFIG})


def intervals(
    rows: Rows, baseline: float | None = None, unit: str | None = None, around: Sequence[float] = ()
) -> alt.LayerChart:
    """A point with its 95% interval for each `name`: `value`, `low`, `high`, `kind`; shares, or numbers of a `unit`.

    The axis covers these, the `baseline`, which is drawn as a line, and the values `around`.
    """
    ends = [*around, *(row[end] for row in rows for end in ("value", "low", "high"))]
    ends += [baseline] if baseline is not None else []
    margin = max((max(ends) - min(ends)) / 8, 0.05 if unit else 0.002)
    domain = [min(ends) - margin, max(ends) + margin]
    domain = domain if unit else [max(domain[0], 0), min(domain[1], 1)]
    axis = alt.Axis(format="+.2~f" if unit else _percent(domain, 4), tickCount=4)
    base = alt.Chart(alt.Data(values=list(rows)), width=_WIDTH, height={"step": _step(rows, 24)})
    x: dict[str, Any] = {"scale": alt.Scale(domain=domain, nice=False), "axis": axis, "title": unit}
    y = _names(rows)
    colour = alt.Color("kind:N", scale=_kinds(rows), legend=None)
    parts = [
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", **x), x2="high:Q", y=y, color=colour),
        base.mark_point(filled=True, size=60, opacity=1).encode(x=alt.X("value:Q", **x), y=y, color=colour),
    ]
    if baseline is not None:
        line = alt.Chart(alt.Data(values=[{"at": baseline}]))
        parts.insert(0, line.mark_rule(color=NEUTRAL, strokeDash=[4, 3]).encode(x="at:Q"))
    return alt.LayerChart(layer=parts)


def _names(rows: Rows) -> alt.Y:
    """The names from top to bottom; if one is too long for a line, all are broken after their first word."""
    space = "indexof(datum.label, ' ')"
    broken = f"{space} < 0 ? datum.label : [slice(datum.label, 0, {space}), slice(datum.label, {space} + 1)]"
    offset = {"condition": {"test": f"{space} < 0", "value": 0}, "value": -_TEXT / 2}
    two_lines = alt.Axis(labelExpr=broken, labelOffset=offset)
    order = list(dict.fromkeys(row["name"] for row in rows))
    return alt.Y("name:N", sort=order, title=None, axis=two_lines if _long(rows) else alt.Undefined)


def _step(rows: Rows, least: int) -> int:
    """The height of a row in pixels: `least`, or enough for names of two lines."""
    return max(least, 36) if _long(rows) else least


def _long(rows: Rows) -> bool:
    return any(len(row["name"]) > _LONG for row in rows)


def _percent(domain: Sequence[float], ticks: int) -> str:
    """The format of percentages on an axis, with `_decimals`."""
    return f".{max(0, _decimals(domain, ticks) - 2)}%"


def _decimals(domain: Sequence[float], ticks: int) -> int:
    """The decimals that tell the ticks of an axis apart.

    The distance of two ticks is 1, 2 or 5 times a power of ten, chosen as by d3's tickStep.
    """
    least = max(domain[1] - domain[0], 1e-8) / ticks
    power = math.floor(math.log10(least))
    step = 10.0**power * next(factor for factor, bound in _STEPS if least / 10.0**power >= bound)
    return max(0, -math.floor(math.log10(step) + 1e-9))


_STEPS = ((10, 50**0.5), (5, 10**0.5), (2, 2**0.5), (1, 0))  # multiples of a power of ten, each from its bound on


def _kinds(rows: Rows) -> alt.Scale:
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    return alt.Scale(domain=kinds, range=[_OF.get(kind, COLOURS[at % 8]) for at, kind in enumerate(kinds)])


def confusion(counts: Mapping[tuple[str, str], int], gold: Sequence[str], found: Sequence[str]) -> alt.LayerChart:
    """How often each gold label got each label: the count in a square, whose darkness is its share of the row."""
    totals = {label: sum(counts.get((label, other), 0) for other in found) for label in gold}
    rows = [
        {"gold": one, "found": other, "count": count, "share": count / totals[one]}
        for one in gold
        for other in found
        if (count := counts.get((one, other), 0))
    ]
    base = alt.Chart(alt.Data(values=rows), width={"step": 34}, height={"step": 26}).encode(
        x=alt.X("found:N", sort=list(found), title="tutor", axis=alt.Axis(labelAngle=0), scale=_all(found)),
        y=alt.Y("gold:N", sort=list(gold), title="gold", scale=_all(gold)),
    )
    squares = base.mark_rect(stroke=NEUTRAL, strokeOpacity=0.4).encode(
        color=alt.value(COLOURS[1]),
        fillOpacity=alt.FillOpacity(
            "share:Q", scale=alt.Scale(type="sqrt", domain=[0, 1], range=[0, 0.8]), legend=None
        ),
    )
    numbers = base.mark_text(fontSize=_TEXT, color="currentColor").encode(text="count:Q")
    return alt.LayerChart(layer=[squares, numbers])


def _all(labels: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(labels))


def lines(rows: Rows, x: str, percent: bool = False, band: bool = False) -> alt.LayerChart:
    """A line of `value` over `x` for each `kind`; `band`: also the area from `low` to `high`."""
    base = alt.Chart(alt.Data(values=list(rows)), width=_WIDTH, height=130)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    at = [row[x] for row in rows]
    count = max(min(6, max(at) - min(at)), 1)  # whole numbers alone
    horizontal = alt.X(f"{x}:Q", title=x, axis=alt.Axis(format="d", tickCount=count))
    ends = [row[end] for row in rows for end in ("value", "low", "high") if end in row]
    if percent:
        domain = [max(min(*ends, max(ends) - 0.02), 0), max(*ends, 0.02)]
        numbers, scale = _percent(domain, 5), alt.Scale(domain=domain, nice=True)
    else:
        numbers, scale = f",.{_decimals([min(ends), max(ends)], 5)}~f", alt.Scale(zero=False)
    axis = alt.Axis(format=numbers, tickCount=5)
    columns = 1 if any(len(kind) > _LONG for kind in kinds) else 2
    legend = alt.Legend(symbolType="stroke", symbolStrokeWidth=2, columns=columns) if len(kinds) > 1 else None
    dash = alt.StrokeDash("kind:N", scale=_dashes(kinds), legend=legend) if legend else alt.Undefined
    colour = alt.Color("kind:N", scale=_kinds(rows), legend=legend)
    parts: list[Any] = []
    if band:
        low = alt.Y("low:Q", title=None, axis=axis, scale=scale)
        parts.append(base.mark_area(opacity=0.15).encode(x=horizontal, y=low, y2="high:Q", color=colour))
    parts.append(
        base.mark_line(point=len(rows) < 60, strokeWidth=1.5).encode(
            x=horizontal, y=alt.Y("value:Q", title=None, axis=axis, scale=scale), color=colour, strokeDash=dash
        )
    )
    return alt.LayerChart(layer=parts)


def _dashes(kinds: Sequence[str]) -> alt.Scale:
    """Solid and dashed lines in turn, so that two lines in the same place are both seen."""
    return alt.Scale(domain=list(kinds), range=[[1, 0] if at % 2 == 0 else [5, 3] for at in range(len(kinds))])


def bars(rows: Rows, unit: str | None = None, percent: bool = False) -> alt.LayerChart:
    """Bars for each `name`: `value`, `kind`. Several kinds are side by side; a single kind has its numbers."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    largest = max((row["value"] for row in rows), default=0)
    axis = alt.Axis(format=_percent([0, max(largest, 0.02)], 4) if percent else ",.3~r", tickCount=4)
    base = alt.Chart(
        alt.Data(values=list(rows)),
        width=_WIDTH,
        height={"step": _step(rows, 10 + 10 * len(kinds)), "for": "position"},
    ).encode(
        x=alt.X("value:Q", title=unit, axis=axis),
        y=_names(rows),
        yOffset=alt.YOffset("kind:N", sort=kinds) if len(kinds) > 1 else alt.Undefined,
    )
    legend = alt.Legend() if len(kinds) > 1 else None
    parts = [base.mark_bar().encode(color=alt.Color("kind:N", scale=_kinds(rows), legend=legend))]
    if len(kinds) == 1:
        number = base.mark_text(align="left", dx=3, fontSize=_TEXT, color="currentColor")
        whole = all(row["value"] == round(row["value"]) for row in rows)
        parts.append(number.encode(text=alt.Text("value:Q", format=",d" if whole else ",.3~r")))
    return alt.LayerChart(layer=parts)
