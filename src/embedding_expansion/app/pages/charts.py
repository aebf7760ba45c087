"""Computes the geometry of line charts, which the template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360.0, 190.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 10.0, 24.0  # margins around the plot
LONGEST = 6  # characters of a label that fit into the left margin
POINTS = 200  # maximum number of points per line

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    path: str  # the `d` of an SVG path
    dots: list[tuple[float, float, str]]  # x, y and tooltip; empty for a line with many points
    summary: str  # describes the line in a sentence


@dataclass(frozen=True)
class Chart:
    """A chart in SVG coordinates."""

    title: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    mark: float | None  # x of the step whose weights were selected

    @property
    def summary(self) -> str:
        """The chart in words."""
        return " ".join(line.summary for line in self.lines)


def chart(
    title: str,
    series: Mapping[str, Points],
    *,
    bounds: tuple[float, float] | None = None,
    mark: int | None = None,
    at: str = "step {}",
) -> Chart | None:
    """Makes a chart of named series of (step, value).

    Args:
        title: the title of the chart.
        series: the series by name. Empty series and values that are not finite are skipped.
        bounds: the range of the y axis; None takes that of the values.
        mark: a step to mark with a vertical line.
        at: how a text names an x, such as "{} seconds".

    Returns:
        The chart, or None if there is nothing to draw.
    """
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in series.items()}
    drawn = {name: thin(points) for name, points in finite.items() if points}
    if not drawn:
        return None
    steps = [step for points in drawn.values() for step, _ in points]
    values = [value for points in drawn.values() for _, value in points]
    y_marks = ticks(*(bounds or (min(values), max(values))))
    x_marks = [tick for tick in ticks(min(steps), max(steps)) if min(steps) <= tick <= max(steps)]
    x = _scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    y = _scale(y_marks[0], y_marks[-1], HEIGHT - BOTTOM, TOP)
    return Chart(
        title,
        [_line(name, points, x, y, at) for name, points in drawn.items()],
        [(round(x(tick), 1), f"{tick:g}") for tick in x_marks],
        [(round(y(tick), 1), label) for tick, label in zip(y_marks, labels(y_marks), strict=True)],
        None if mark is None or not min(steps) <= mark <= max(steps) else round(x(mark), 1),
    )


def _line(name: str, points: Points, x: Callable[[float], float], y: Callable[[float], float], at: str) -> Line:
    xy = [(round(x(step), 1), round(y(value), 1)) for step, value in points]
    path = "M" + "L".join(f"{across:g} {down:g}" for across, down in xy)
    said = [at.format(f"{step:g}") for step, _ in points]
    dots = [(*dot, f"{where}: {name} {value:.3g}") for dot, where, (_, value) in zip(xy, said, points, strict=True)]
    summary = f"{name} goes from {points[0][1]:.3g} at {said[0]} to {points[-1][1]:.3g} at {said[-1]}."
    return Line(name, path, dots if len(dots) <= POINTS // 2 else [], summary)


def thin(points: Points, limit: int = POINTS) -> list[tuple[float, float]]:
    """At most `limit` of the points, evenly spaced, including the first and the last."""
    if len(points) <= limit:
        return list(points)
    return [points[round(k * (len(points) - 1) / (limit - 1))] for k in range(limit)]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that cover the range from `low` to `high`.

    Example:
        >>> ticks(0.13, 0.82)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = (low - 1, high + 1) if low == 0 else (min(0.0, 2 * low), max(0.0, 2 * high))
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.6g}") for k in range(first, last + 1)]


def labels(marks: Sequence[float]) -> list[str]:
    """The numbers as texts that fit into the left margin, all in the same form.

    Example:
        >>> labels([0.0, 0.00005, 0.0001])
        ['0', '5e-5', '1e-4']
    """
    texts = [f"{mark:g}" for mark in marks]
    if max(map(len, texts)) <= LONGEST and not any("e" in text for text in texts):
        return texts
    parts = [f"{mark:.5e}".split("e") for mark in marks]
    return [f"{float(digits):g}e{int(power)}" if float(digits) else "0" for digits, power in parts]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    width = high - low
    return lambda value: (start + end) / 2 if width == 0 else start + (value - low) / width * (end - start)
