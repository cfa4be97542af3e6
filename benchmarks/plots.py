"""Plots as plain SVG: no library has to be installed, and the files are small enough to stand in docs/."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

WIDTH = 760
LEFT = 120
RIGHT = 110
ROW = 24
TOP = 40
OURS, OTHERS, TEXT, FAINT = "#2563eb", "#94a3b8", "#1e293b", "#cbd5e1"
FONT = 'font-family="system-ui, sans-serif" font-size="12"'


@dataclass(frozen=True)
class Bar:
    name: str
    value: float
    least: float
    most: float
    ours: bool


def bars(title: str, rows: list[Bar], *, logarithmic: bool = False) -> str:
    """A bar for each row with its spread; latencies span decades, so they are drawn on a logarithmic axis."""
    most = max(bar.most for bar in rows)
    least = min((bar.value for bar in rows if bar.value > 0), default=1.0) / 3

    def length(value: float) -> float:
        room = WIDTH - LEFT - RIGHT
        if not logarithmic:
            return room * max(value, 0) / most
        if value <= least or most <= least:
            return 0
        return room * math.log(value / least) / math.log(most / least)

    parts = [_text(8, 20, title + (", logarithmic" if logarithmic else ""), size=14)]
    for number, bar in enumerate(rows):
        y = TOP + number * ROW
        parts += [
            _text(LEFT - 8, y + 14, bar.name, anchor="end"),
            _box(LEFT, y + 3, length(bar.value), ROW - 8, OURS if bar.ours else OTHERS),
            _line(LEFT + length(bar.least), y + 11, LEFT + length(bar.most), y + 11, TEXT),
            _text(LEFT + length(bar.most) + 6, y + 15, _short(bar.value)),
        ]
    return _svg(TOP + len(rows) * ROW + 10, parts)


def lines(title: str, points: dict[str, list[tuple[str, float]]], ours: str) -> str:
    """A line for each system over the same steps."""
    steps = list(dict.fromkeys(step for line in points.values() for step, _ in line))
    most = max(value for line in points.values() for _, value in line)
    height, bottom = 260, TOP + 260
    room = WIDTH - LEFT - RIGHT - 40

    def place(step: str, value: float) -> tuple[float, float]:
        along = steps.index(step) / max(1, len(steps) - 1)
        return 60 + room * along, bottom - height * value / most

    parts = [_text(8, 20, title, size=14), _line(60, bottom, 60 + room, bottom, FAINT)]
    parts += [_text(place(step, 0)[0], bottom + 18, step, anchor="middle") for step in steps]
    labels: list[float] = []
    for name, line in sorted(points.items(), key=lambda item: -item[1][-1][1]):
        colour = OURS if name == ours else OTHERS
        drawn = [place(step, value) for step, value in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = drawn[-1]
        label = max([y, *(taken + 13 for taken in labels[-1:])])  # names do not cover each other
        labels.append(label)
        parts.append(_text(x + 8, label + 4, f"{name} {_short(line[-1][1])}"))
    return _svg(max(bottom + 30, int(max(labels, default=0)) + 20), parts)


def _svg(height: int, parts: list[str]) -> str:
    sizes = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {sizes} {FONT}>'
    return "\n".join([head, _box(0, 0, WIDTH, height, "white"), *parts, "</svg>\n"])


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{TEXT}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
    )


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
