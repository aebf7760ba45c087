"""The figures of docs/evidence/, as SVG: differences with their intervals, and the course of the balance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from embedding_expansion.evidence.differences import ComparedArm, records_of, rows
from embedding_expansion.evidence.grid import BALANCED, UNTUNED, Regime
from embedding_expansion.evidence.results import Results
from embedding_expansion.files import write_atomically
from embedding_expansion.retrieval.comparison import Difference

_SHOWN = ("ms_mining", "n0", *UNTUNED, "selective")  # other arms are in the tables
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
)  # told apart by colour-blind readers
_LINE, _PANEL, _NAMES, _GAP, _TOP = 14.0, 220.0, 210.0, 44.0, 44.0  # pixels
_MEASURES = {"recall_at_1": "Recall@1", "map_at_r": "MAP@R"}


def write_plots(folder: Path, results: Results, known: Sequence[Regime]) -> None:
    """Writes forest-REGIME.svg and balance-REGIME.svg for every regime that has something to show."""
    for regime in known:
        shown = [row for row in rows(results, regime, "tuned") if row.arm in _SHOWN]
        for name, drawing in (("forest", forest(regime, shown)), ("balance", courses(regime, results))):
            if drawing:
                _write(folder / f"{name}-{regime.name}.svg", drawing)


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def forest(regime: Regime, found: Sequence[ComparedArm]) -> str:
    """A line for each loss and arm: the mean difference to the plain loss with its 95% interval, in two measures."""
    lines = [row for row in found if all(row.differences[name] is not None for name in _MEASURES)]
    if not lines:
        return ""
    height = _TOP + _LINE * len(lines) + 36
    width = _NAMES + len(_MEASURES) * (_PANEL + _GAP)
    parts = [_text(8.0, 18.0, f"{regime.title}: difference to the plain loss, in points", size=13)]
    for at, row in enumerate(lines):
        down = _TOP + _LINE * (at + 0.5)
        if at and row.loss != lines[at - 1].loss:
            parts.append(_line(8.0, down - _LINE / 2, width - 8, down - _LINE / 2, "#dddddd"))
        parts.append(_text(8.0, down + 4, f"{row.loss}, {row.arm}"))
    for column, (measure, title) in enumerate(_MEASURES.items()):
        left = _NAMES + column * (_PANEL + _GAP)
        parts += _panel(left, title, [(row, row.differences[measure]) for row in lines])
    return _svg(width, height, parts, f"Differences to the plain loss on {regime.title}")


def _panel(left: float, title: str, found: Sequence[tuple[ComparedArm, Difference | None]]) -> list[str]:
    known = [(row, each) for row, each in found if each is not None]
    limit = _limit([abs(value) for _, each in known for value in (each.mean, each.low, each.high)])
    bottom = _TOP + _LINE * len(found)

    def x(value: float) -> float:
        return left + _PANEL * (0.5 + max(-limit, min(limit, value)) / (2 * limit))

    parts = [_text(left + _PANEL / 2, _TOP - 8, title, anchor="middle"), _line(x(0.0), _TOP, x(0.0), bottom, "#888888")]
    ticks = (-limit, -limit / 2, 0.0, limit / 2, limit)
    parts += [_text(x(value), bottom + 16, f"{value:g}", anchor="middle", size=10) for value in ticks]
    for at, (row, each) in enumerate(known):
        down, colour = _TOP + _LINE * (at + 0.5), _COLOURS[_SHOWN.index(row.arm)]
        parts.append(_line(x(each.low), down, x(each.high), down, colour))
        said = f"{row.loss}, {row.arm}: {each.mean:+.1f} ({each.low:+.1f} to {each.high:+.1f})"
        dot = f'<circle cx="{x(each.mean):.1f}" cy="{down:.1f}" r="3.5" fill="{colour}">'
        parts.append(f"{dot}<title>{escape(said)}</title></circle>")
    return parts


def _limit(values: Sequence[float]) -> float:
    """A round number that covers the values, and at most 40: a longer interval is cut off."""
    largest = max((value for value in values if math.isfinite(value)), default=1.0)
    return next((float(limit) for limit in (1, 2, 4, 10, 20) if limit >= largest), 40.0)


def courses(regime: Regime, results: Results) -> str:
    """The mean share of the pull that the balanced forms keep over the training, a panel for each loss."""
    found = {
        loss: {arm: curve for arm in BALANCED if (curve := _course(results, regime, loss, arm))}
        for loss in regime.losses
    }
    panels = {loss: curves for loss, curves in found.items() if curves}
    if not panels:
        return ""
    wide, high, gap = 190.0, 90.0, 40.0
    across = min(3, len(panels))
    parts = [_text(8.0, 18.0, f"{regime.title}: the share of the pull that is kept, by step", size=13)]
    for place, (loss, curves) in enumerate(panels.items()):
        left, top = 34 + place % across * (wide + gap), 50 + place // across * (high + gap)
        parts += [_text(left, top - 6, loss), *_frame(left, top, wide, high)]
        for arm, curve in curves.items():
            points = " ".join(
                f"{left + wide * (at + 1) / len(curve):.1f},{top + high * (1 - value):.1f}"
                for at, value in enumerate(curve)
            )
            colour = _COLOURS[BALANCED.index(arm)]
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    down = 50 + math.ceil(len(panels) / across) * (high + gap)
    for at, arm in enumerate(BALANCED):
        parts.append(_text(34.0 + 150 * at, down, f"— {arm}", colour=_COLOURS[at]))
    width = 34 + max(across * (wide + gap), 150.0 * len(BALANCED))
    return _svg(width, down + 14, parts, f"The share of the pull that balanced forms keep on {regime.title}")


def _course(results: Results, regime: Regime, loss: str, arm: str) -> list[float]:
    """The mean over the seeds at each logged step."""
    curves = [each["share"] for each in records_of(results, regime, loss, arm, "tuned").values() if "share" in each]
    length = min(map(len, curves), default=0)
    return [sum(curve[at] for curve in curves) / len(curves) for at in range(length)]


def _frame(left: float, top: float, wide: float, high: float) -> list[str]:
    lines = [_line(left, top + high, left + wide, top + high, "#888888"), _line(left, top, left, top + high, "#888888")]
    return [
        *lines,
        _text(left - 6, top + 4, "1", anchor="end", size=10),
        _text(left - 6, top + high + 4, "0", "end", 10),
    ]


def _text(x: float, y: float, words: str, anchor: str = "start", size: int = 11, colour: str = "#222222") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{escape(words)}</text>"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" font-family="sans-serif">'
    )
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", background, *parts, "</svg>\n"])
