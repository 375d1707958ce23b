"""Numbers → one SVG: lines, or stacked bars. Pure; colours are the page's, by class.

A plot shows finite numbers; what is none of them is left out, as is what was never told (None).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from tools.report.axis import Axis, Words, axis_of, log_axis_of, plain
from tools.report.markup import text

WIDTH, HEIGHT = 640, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 14, 14, 44
_INNER_WIDTH = WIDTH - _LEFT - _RIGHT
_INNER_HEIGHT = HEIGHT - _TOP - _BOTTOM

# [px] Bars that would be thinner stand for the mean of several places.
_LEAST_BAR = 3.0

# A place on the x axis, and the value there.
Point = tuple[float, float | None]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one layer of the bars.

    Attributes:
        name: What the legend calls it.
        style: The CSS class that gives it its colour.
        points: Ascending in x.
        spread: (x, low, high) of a line's shade, ascending in x.
    """

    name: str
    style: str
    points: tuple[Point, ...]
    spread: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Labels:
    """What stands at a plot.

    Attributes:
        title: Its accessible name.
        about: What it shows, in a sentence, for who cannot see it.
        x: The x axis's name.
        y: The y axis's name.
        format: How y values read.
        x_format: How x values read.
    """

    title: str
    about: str
    x: str
    y: str
    format: Words = plain
    x_format: Words = plain


def line_plot(
    series: Sequence[Series],
    labels: Labels,
    *,
    identity: str,
    from_zero: bool = False,
    logarithmic: bool = False,
) -> str:
    """Return an SVG with one line per series, marked where points are few.

    Args:
        series: What to draw.
        labels: What it says.
        identity: A name for its parts that no other plot on the page has.
        from_zero: The y axis begins at 0 whatever the values.
        logarithmic: The x axis is; what is not above 0 is left out.
    """
    if logarithmic:
        series = [_positive(each) for each in series]
    lines = [(each, _finite(each.points)) for each in series]
    points = [point for _, several in lines for point in several]
    if not points:
        return _frame("", labels, identity=identity)
    spreads = [_finite_spread(each.spread) for each in series]
    xs = [x for x, _ in points]
    ys = [y for _, y in points] + ([0.0] if from_zero else [])
    ys += [y for spread in spreads for _, *bounds in spread for y in bounds]
    x_axis = (
        log_axis_of(min(xs), max(xs))
        if logarithmic
        else axis_of(min(xs), max(xs), most=9, whole=True)
    )
    y_axis = axis_of(min(ys), max(ys))
    drawn = [_grid(y_axis, labels.format), _x_ticks(x_axis, labels.x_format)]
    drawn += [
        _shade(each, spread, x_axis, y_axis)
        for each, spread in zip(series, spreads, strict=True)
        if len(spread) > 1
    ]
    for each, several in lines:
        places = [(_across(x_axis, x), _up(y_axis, y)) for x, y in several]
        if len(places) > 1:
            drawn.append(f'<path class="line {each.style}" d="{path(places)}"/>')
        drawn += _marks(each, several, places, labels)
    return _frame("".join(drawn), labels, identity=identity)


def bar_plot(
    layers: Sequence[Series], labels: Labels, *, identity: str, line: Series | None = None
) -> str:
    """Return an SVG with one bar per place, stacked in the order of the layers.

    Args:
        layers: Each has a value ≥ 0 at the same places.
        labels: What it says.
        identity: A name for its parts that no other plot on the page has.
        line: Drawn over the bars, where its values are.
    """
    columns, each = _columns(layers)
    if not columns:
        return _frame("", labels, identity=identity)
    over = _finite(line.points) if line else []
    most = max([sum(values) for _, values in columns] + [y for _, y in over])
    y_axis = axis_of(0.0, most)
    xs = [x for x, _ in columns]
    pitch = each if len(xs) > 1 else 1.0
    x_axis = Axis(min(xs) - pitch / 2, max(xs) + pitch / 2, ())
    ticks = axis_of(min(xs), max(xs), most=9, whole=True).ticks if len(xs) > 1 else (xs[0],)
    shown = tuple(tick for tick in ticks if x_axis.low <= tick <= x_axis.high)
    shown_axis = Axis(x_axis.low, x_axis.high, shown)
    drawn = [_grid(y_axis, labels.format), _x_ticks(shown_axis, labels.x_format)]
    width = max(1.0, min(48.0, 0.8 * _INNER_WIDTH * pitch / (x_axis.high - x_axis.low)))
    bars = _Bars(layers, labels, x_axis, y_axis, width)
    drawn += [bars.bar(x, values) for x, values in columns]
    if line and over:
        places = [(_across(x_axis, x), _up(y_axis, y)) for x, y in over]
        drawn.append(f'<path class="line {line.style}" d="{path(places)}"/>')
        drawn += _marks(line, over, places, labels)
    return _frame("".join(drawn), labels, identity=identity)


def band(parts: Sequence[tuple[str, str, float]], *, title: str, about: str, identity: str) -> str:
    """Return an SVG of one bar that is cut into shares: (name, style, value ≥ 0) each."""
    known = [(name, style, value) for name, style, value in parts if _is_drawn(value)]
    total = sum(value for _, _, value in known)
    height, drawn, left = 34, [], 0.0
    for name, style, value in known:
        width = WIDTH * value / total
        hint = f"<title>{text(name)}: {value / total:.1%}</title>"
        drawn.append(
            f'<rect class="bar {style}" x="{_n(left)}" y="0" width="{_n(width)}" '
            f'height="{height}">{hint}</rect>'
        )
        left += width
    return _svg("".join(drawn), title, about, identity=identity, height=height)


def path(places: Sequence[tuple[float, float]]) -> str:
    """Return the `d` of a line through these places, in pixels."""
    return " ".join(
        f"{'L' if number else 'M'}{_n(x)} {_n(y)}" for number, (x, y) in enumerate(places)
    )


def bundled(count: int) -> int:
    """Return how many places share a bar, so that bars can be seen."""
    return max(1, math.ceil(count * _LEAST_BAR / _INNER_WIDTH))


def _columns(layers: Sequence[Series]) -> tuple[list[tuple[float, list[float]]], float]:
    """Return (x, value per layer) of each bar, and how far bars are apart.

    Where there are too many, a bar is the mean of its neighbours.
    """
    at: dict[float, list[float]] = {}
    for number, layer in enumerate(layers):
        for x, y in _finite(layer.points):
            at.setdefault(x, [0.0] * len(layers))[number] = max(0.0, y)
    columns = sorted(at.items())
    together = bundled(len(columns))
    bars = []
    for start in range(0, len(columns), together):
        part = columns[start : start + together]
        means = [sum(several) / len(part) for several in zip(*(v for _, v in part), strict=True)]
        bars.append((sum(x for x, _ in part) / len(part), means))
    gaps = [after[0] - before[0] for before, after in pairwise(bars)]
    return bars, min(gaps, default=1.0)


@dataclass(frozen=True, slots=True)
class _Bars:
    """How all bars of a plot are drawn."""

    layers: Sequence[Series]
    labels: Labels
    x_axis: Axis
    y_axis: Axis
    width: float

    def bar(self, x: float, values: Sequence[float]) -> str:
        left = _across(self.x_axis, x) - self.width / 2
        words, parts = [f"{self.labels.x} {plain(x, 1)}"], []
        for layer, value, top in zip(self.layers, values, accumulate(values), strict=True):
            words.append(f"{layer.name}: {self.labels.format(value, value)}")
            high, low = _up(self.y_axis, top), _up(self.y_axis, top - value)
            if value > 0:
                parts.append(
                    f'<rect class="bar {layer.style}" x="{_n(left)}" y="{_n(high)}" '
                    f'width="{_n(self.width)}" height="{_n(low - high)}"/>'
                )
        return f"<g><title>{text(chr(10).join(words))}</title>{''.join(parts)}</g>"


def _marks(
    each: Series,
    points: Sequence[tuple[float, float]],
    places: Sequence[tuple[float, float]],
    labels: Labels,
) -> list[str]:
    """Return a dot per point with what it says; small ones where there are many."""
    radius = 3.5 if len(points) <= 60 else 1.5  # noqa: PLR2004  # they would touch
    return [
        f'<circle class="dot {each.style}" cx="{_n(left)}" cy="{_n(top)}" r="{radius}">'
        f"<title>{text(_said(each, labels, x, y))}</title></circle>"
        for (x, y), (left, top) in zip(points, places, strict=True)
    ]


def _said(each: Series, labels: Labels, x: float, y: float) -> str:
    at = labels.x_format(x, max(1.0, abs(x)))
    return f"{each.name}, {labels.x} {at}: {labels.format(y, y)}"


def _shade(
    each: Series, spread: Sequence[tuple[float, float, float]], x_axis: Axis, y_axis: Axis
) -> str:
    """Return the area between a line's low and high."""
    high = [(_across(x_axis, x), _up(y_axis, y)) for x, _, y in spread]
    low = [(_across(x_axis, x), _up(y_axis, y)) for x, y, _ in reversed(spread)]
    return f'<path class="shade {each.style}" d="{path([*high, *low])}"/>'


def _grid(axis: Axis, words: Words) -> str:
    parts = []
    largest = max(abs(axis.low), abs(axis.high))
    for tick in axis.ticks:
        top = _n(_up(axis, tick))
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{top}" y2="{top}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{top}" dy="0.32em" text-anchor="end">'
            f"{text(words(tick, largest))}</text>"
        )
    return "".join(parts)


def _x_ticks(axis: Axis, words: Words) -> str:
    base = HEIGHT - _BOTTOM
    return "".join(
        f'<text class="tick" x="{_n(_across(axis, tick))}" y="{base + 17}" text-anchor="middle">'
        f"{text(words(tick, tick if axis.logarithmic else 1))}</text>"
        for tick in axis.ticks
    )


def _frame(drawn: str, labels: Labels, *, identity: str) -> str:
    middle, base = _LEFT + _INNER_WIDTH / 2, HEIGHT - _BOTTOM
    if not drawn:
        drawn = (
            f'<text class="none" x="{middle}" y="{HEIGHT / 2}" text-anchor="middle">'
            "nothing to show</text>"
        )
    axes = (
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>'
        f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{text(labels.x)}</text>"
        f'<text class="label" transform="translate(13 {_TOP + _INNER_HEIGHT / 2}) rotate(-90)" '
        f'text-anchor="middle">{text(labels.y)}</text>'
    )
    return _svg(drawn + axes, labels.title, labels.about, identity=identity, height=HEIGHT)


def _svg(drawn: str, title: str, about: str, *, identity: str, height: int) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-labelledby="{identity}-title {identity}-about">'
        f'<title id="{identity}-title">{text(title)}</title>'
        f'<desc id="{identity}-about">{text(about)}</desc>{drawn}</svg>'
    )


def _finite(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if y is not None and math.isfinite(y) and math.isfinite(x)]


def _positive(each: Series) -> Series:
    """Return a series without what a logarithmic axis has no place for."""
    return replace(
        each,
        points=tuple(point for point in each.points if point[0] > 0),
        spread=tuple(bounds for bounds in each.spread if bounds[0] > 0),
    )


def _finite_spread(
    spread: Sequence[tuple[float, float, float]],
) -> list[tuple[float, float, float]]:
    return [bounds for bounds in spread if all(map(math.isfinite, bounds))]


def _is_drawn(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _across(axis: Axis, x: float) -> float:
    return _LEFT + _INNER_WIDTH * axis.share(x)


def _up(axis: Axis, y: float) -> float:
    return _TOP + _INNER_HEIGHT * (1 - axis.share(y))


def _n(pixels: float) -> str:
    """Return pixels with two decimals at the most."""
    return f"{pixels:.2f}".rstrip("0").rstrip(".")
