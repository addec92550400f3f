"""Plots of dots and intervals as inline SVG: no library, no style that a content policy would refuse."""

import math
from html import escape

from benchmarks.leaderboard.content import Dots

LEFT, WIDTH, ROW, TOP, BOTTOM = 340, 920, 22, 8, 34
PAD = 0.04
"""Share of the axis left free at either end."""


def svg(dots: Dots) -> str:
    """A row a system, a group heading where the group changes."""
    lines: list[tuple[str, object]] = []
    group = ""
    for dot in dots.dots:
        if dot.group and dot.group != group:
            group = dot.group
            lines.append(("group", group))
        lines.append(("dot", dot))
    scale = _Scale(dots)
    height = TOP + ROW * len(lines) + BOTTOM
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(dots.title)}</title>",
    ]
    floor = TOP + ROW * len(lines)
    for tick in scale.ticks():
        x = scale.x(tick)
        parts.append(f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{floor}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{floor + 14}" text-anchor="middle">{_label(tick)}</text>'
        )
    if scale.mark is not None:
        x = scale.x(scale.mark)
        parts.append(f'<line class="mark" x1="{x}" y1="{TOP}" x2="{x}" y2="{floor}"/>')
    for number, (kind, item) in enumerate(lines):
        y = TOP + ROW * number + ROW // 2
        if kind == "group":
            parts.append(f'<text class="group" x="4" y="{y + 4}">{escape(str(item))}</text>')
        else:
            parts += _dot(item, y, scale)
    axis = f'<text class="tick" x="{(LEFT + WIDTH) // 2}" y="{height - 4}" text-anchor="middle">'
    parts += [f"{axis}{escape(dots.title)}</text>", "</svg>"]
    return "\n".join(parts)


def _dot(dot: object, y: int, scale: "_Scale") -> list[str]:
    text = dot.label if len(dot.label) <= 48 else dot.label[:47] + "…"
    parts = [f'<text class="name" x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(text)}</text>']
    spread = ""
    if dot.low is not None:
        low, high = scale.x(dot.low), scale.x(dot.high)
        parts.append(f'<line class="span" x1="{low}" y1="{y}" x2="{high}" y2="{y}"/>')
        spread = f" ({dot.low:g} to {dot.high:g})"
    title = f"<title>{escape(dot.label)}: {dot.value:g}{spread}</title>"
    parts.append(f'<circle class="dot" cx="{scale.x(dot.value)}" cy="{y}" r="4.5">{title}</circle>')
    return parts


class _Scale:
    """From values to pixels."""

    def __init__(self, dots: Dots) -> None:
        self.log, self.mark = dots.plot.log, dots.plot.mark
        values = [v for d in dots.dots for v in (d.value, d.low, d.high) if v is not None]
        values += [] if self.mark is None else [self.mark]
        if self.log:
            values = [math.log10(v) for v in values if v > 0]
        low, high = min(values), max(values)
        room = PAD * (high - low or 1.0)
        self.low, self.high = low - room, high + room

    def x(self, value: float) -> float:
        """Pixels from the left."""
        place = math.log10(value) if self.log else value
        share = (place - self.low) / (self.high - self.low)
        return round(LEFT + share * (WIDTH - LEFT - 16), 1)

    def ticks(self) -> list[float]:
        """Round numbers inside the axis."""
        if self.log:
            span = range(math.floor(self.low), math.ceil(self.high) + 1)
            found = [m * 10.0**e for e in span for m in (1, 2, 5)]
            return [t for t in found if self.low <= math.log10(t) <= self.high]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / 3))
        step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (step * m) <= 8)
        first = math.ceil(self.low / step)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step) + 1)]


def _label(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
