"""Charts as inline SVG: small functions from numbers to markup. Colours are classes that the page's style sets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from rlaif_dpo.report.numbers import percent

WIDTH, HEIGHT = 340, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 26


@dataclass(frozen=True)
class Series:
    """One line of a chart: its name, its colour class, and its (x, y) points in order."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


def line_chart(series: Sequence[Series], label: str, x_label: str = "step", whole: tuple[float, float] | None = None) -> Markup:
    """Lines over a common axis; `label` says in words what they show. Points that are not finite are left out.

    The axis spans the values, or `whole` where these have ends of their own, as percentages do.
    """
    lines = [(s, [(x, y) for x, y in s.points if math.isfinite(x) and math.isfinite(y)]) for s in series]
    shown = [point for _, points in lines for point in points]
    if not shown:
        return Markup("")
    xs, ys = [x for x, _ in shown], [y for _, y in shown]
    ticks = nice_ticks(*(whole or (min(ys), max(ys))))
    left, right, low, high = min(xs), max(xs), ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left) if right > left else 0.5
        up = (y - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [_grid_line(place(left, tick)[1], _tick(tick, ticks)) for tick in ticks]
    parts += [
        _text(LEFT, HEIGHT - 8, f"{left:g}", "start"),
        _text(WIDTH - RIGHT, HEIGHT - 8, f"{x_label} {right:g}", "end"),
    ]
    for one, points in lines:
        placed = [place(x, y) for x, y in points]
        if len(placed) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
            parts.append(f'<polyline class="line {one.colour}" points="{path}"/>')
        if placed:
            parts.append(f'<circle class="dot {one.colour}" cx="{placed[-1][0]:.1f}" cy="{placed[-1][1]:.1f}" r="3"/>')
    return _svg(WIDTH, HEIGHT, label, parts)


def histogram(edges: Sequence[float], counts: Sequence[int], label: str) -> Markup:
    """Bars of `counts` between `edges` (one more than counts)."""
    if not any(counts):
        return Markup("")
    ticks = nice_ticks(0, max(counts))
    floor, room = HEIGHT - BOTTOM, HEIGHT - TOP - BOTTOM
    step = (WIDTH - LEFT - RIGHT) / len(counts)
    parts = [_grid_line(floor - room * tick / ticks[-1], _tick(tick, ticks)) for tick in ticks]
    for index, count in enumerate(counts):
        height = room * count / ticks[-1]
        bounds = f"{edges[index]:g} to {edges[index + 1]:g}"
        parts.append(
            f'<rect class="bar" x="{LEFT + index * step + 1:.1f}" y="{floor - height:.1f}" width="{step - 2:.1f}" '
            f'height="{height:.1f}"><title>{bounds}: {count}</title></rect>'
        )
    for index in range(0, len(edges), max(1, len(counts) // 5)):
        parts.append(_text(LEFT + index * step, HEIGHT - 8, f"{edges[index]:g}", "middle"))
    return _svg(WIDTH, HEIGHT, label, parts)


def dot_plot(rows: Sequence[tuple[str, str, Mapping[str, Any]]], label: str) -> Markup:
    """Shares with their intervals on a line from 0 to 100 %: one (name, colour class, estimate) a row."""
    height, left, right, step = 22 * len(rows) + 22, 38, 52, 22
    scale = WIDTH - left - right

    def at(share: float) -> float:
        return left + scale * share

    parts = [
        f'<line class="gridline" x1="{at(s):.1f}" y1="4" x2="{at(s):.1f}" y2="{height - 18}"/>' for s in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts += [_text(at(s), height - 4, f"{100 * s:g}%", "middle") for s in (0, 0.5, 1)]
    for index, (name, colour, found) in enumerate(rows):
        y = 15 + index * step
        parts.append(_text(left - 8, y + 4, name, "end"))
        value, low, high = found["value"], found["low"], found["high"]
        if value is None or low is None or high is None:
            continue
        parts.append(f'<line class="whisker {colour}" x1="{at(low):.1f}" y1="{y}" x2="{at(high):.1f}" y2="{y}"/>')
        parts.append(f'<circle class="dot {colour}" cx="{at(value):.1f}" cy="{y}" r="5"/>')
        parts.append(f'<text class="value" x="{WIDTH - 2}" y="{y + 4}" text-anchor="end">{percent(value)}</text>')
    return _svg(WIDTH, height, label, parts)


def bar(share: float, colour: str = "accent") -> Markup:
    """A small bar for a table cell that says the number itself, hence hidden from screen readers."""
    width = 100 * min(max(share, 0.0), 1.0)
    return Markup(
        '<svg class="mini" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="8"/>'
        f'<rect class="bar {colour}" width="{width:.1f}" height="8"/></svg>'
    )


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that span [low, high], 1, 2 or 5 times a power of ten apart; at least two of them."""
    span = high - low or abs(high) or 1.0
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _tick(value: float, ticks: Sequence[float]) -> str:
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return f"{value:,.{digits}f}".replace("-", "−")


def _grid_line(y: float, text: str) -> str:
    line = f'<line class="gridline" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
    return line + _text(LEFT - 6, y + 4, text, "end")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> Markup:
    body = "".join(parts)
    return Markup(f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>')
