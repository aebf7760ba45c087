"""The tables of docs/evidence/: a matrix for each regime, and all figures as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from embedding_expansion.evidence.bars import checks, confirmed
from embedding_expansion.evidence.differences import MEASURES, ComparedArm, records_of, rows
from embedding_expansion.evidence.grid import ARMS, PLAIN, Regime, Setting, arms
from embedding_expansion.evidence.results import Record, Results, is_same_as_default
from embedding_expansion.evidence.work import planned
from embedding_expansion.files import write_atomically
from embedding_expansion.retrieval.comparison import Difference

_SETTINGS: dict[Setting, str] = {
    "tuned": "tuned",
    "default": "default parameters",
    "fast": "default parameters, ten times the learning rate",
}
_MATRICES = {"recall_at_1": "Recall@1", "map_at_r": "MAP@R"}
_EMPTY = "–"
_INTRODUCTION = """# Tables

Made by `embex reproduce evidence`; [the page on the evidence](../evidence.md) explains them. `plain` is in percent on
the test classes, the mean over the seeds. The other columns are paired differences to it in points, with half the width
of the 95% interval. **Bold**: below 0.05 after Holm's correction over the table. An empty cell (–) has no runs yet.
"""


_COLLAPSE = """Means over the seeds, at the first logged step (10) and the last. Coinciding: seeds of `paper` with the
warning that all embeddings coincide. Synthetic: the share of synthetic points in the hardest pairs of `paper`. Share:
of the pull that `balanced` keeps. Push / pull: of the expanded and of the plain table in `balanced` at the first logged
step; where the expanded one is far below the plain one, expansion favours a collapse.

| loss | coinciding | synthetic, first | last | share, first | last | push / pull, expanded | plain |
|---|---|---|---|---|---|---|---|
"""


def write_tables(folder: Path, results: Results, known: Sequence[Regime]) -> None:
    """Writes tables.md and differences.csv."""
    found = {(regime.name, setting): rows(results, regime, setting) for regime in known for setting in _SETTINGS}
    parts = [_INTRODUCTION, _progress(results, known), _bars(results, known)]
    for regime in known:
        for setting, words in _SETTINGS.items():
            if shown := found[regime.name, setting]:
                parts.append(_section(regime, words, shown, results))
        if explained := _collapse(regime, results):
            parts.append(explained)
    _write(folder / "tables.md", "\n".join(parts))
    _write(folder / "differences.csv", _csv([row for each in found.values() for row in each]))


def _bars(results: Results, known: Sequence[Regime]) -> str:
    """What the chosen default keeps of its bars, on the test classes."""
    form = results.choice.get("default", PLAIN)
    if form == PLAIN:
        return ""
    found = list(checks(results, known, form))
    words = {True: "yes", False: "**no**", None: _EMPTY}
    lines = [
        f"## The bars of the default, `{form}`\n",
        f"As good as plain in every cell: {words[confirmed(found)]}. Differences in Recall@1, test classes.\n",
        "| bar | regime | loss | | difference | holds |\n|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.bar} | `{each.regime}` | `{each.loss}` | {_SETTINGS[each.setting]} | "
        f"{_EMPTY if each.found is None else spelt(each.found)} | {words[each.holds]} |"
        for each in found
    ]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _progress(results: Results, known: Sequence[Regime]) -> str:
    lines = ["| regime | | runs | of |", "|---|---|---|---|"]
    for regime in known:
        wanted = list(planned(regime, results))
        done = sum(results.of(cell) is not None or is_same_as_default(cell, regime, results) for cell in wanted)
        of = f"{len(wanted):,}" if wanted else "after the choice"
        lines.append(f"| `{regime.name}` | {regime.title} | {done:,} | {of} |")
    return "\n".join(lines) + "\n"


def _section(regime: Regime, words: str, found: list[ComparedArm], results: Results) -> str:
    by_place = {(row.loss, row.arm): row for row in found}
    columns = [arm for arm in ARMS if any(arm == row.arm for row in found)]
    lines = [f"## {regime.title}, {words}\n"]
    for measure, title in _MATRICES.items():
        lines += [f"{title}, up to {regime.seeds} seeds:\n", f"| loss | {' | '.join(columns)} |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        for loss in regime.losses:
            of_loss = arms(regime, loss, results.chosen)
            entries = [_entry(by_place.get((loss, arm)), measure, arm in of_loss) for arm in columns]
            lines.append(f"| `{loss}` | {' | '.join(entries)} |")
        lines.append("")
    return "\n".join(lines)


def _collapse(regime: Regime, results: Results) -> str:
    """What the form "paper" and its balance did, at the default parameters if these were run, otherwise tuned."""
    setting: Setting = "default" if "default" in regime.settings else "tuned"
    lines = []
    for loss in regime.losses:
        paper, balanced = (
            list(records_of(results, regime, loss, arm, setting).values()) for arm in ("paper", "balanced")
        )
        if paper and balanced:
            coinciding = sum("coincides" in each for each in paper)
            figures = [*_ends(paper, "synthetic"), *_ends(balanced, "share")]
            forces = [each["forces"] for each in balanced if "forces" in each]
            overlap = [each["push"] / each["pull"] for each in forces if each["pull"] > 0]
            plain = [each["plain_push"] / each["plain_pull"] for each in forces if each["plain_pull"] > 0]
            figures += [f"{sum(each) / len(each):.2f}" if each else _EMPTY for each in (overlap, plain)]
            lines.append(f"| `{loss}` | {coinciding} of {len(paper)} | {' | '.join(figures)} |")
    if not lines:
        return ""
    head = f"### {regime.title}: why it collapses, or not ({_SETTINGS[setting]})\n\n{_COLLAPSE}"
    return head + "\n".join(lines) + "\n"


def _ends(records: Sequence[Record], name: str) -> list[str]:
    """The mean of the first and of the last value of a curve."""
    curves = [each[name] for each in records if each.get(name)]
    if not curves:
        return [_EMPTY, _EMPTY]
    return [f"{sum(curve[at] for curve in curves) / len(curves):.2f}" for at in (0, -1)]


def _entry(row: ComparedArm | None, measure: str, is_planned: bool) -> str:
    if row is None:
        return _EMPTY if is_planned else ""
    if row.arm == PLAIN:
        return f"{row.means[measure]:.1f}"
    found = row.differences[measure]
    if found is None:
        return _EMPTY
    text = spelt(found)
    is_sure = measure == "recall_at_1" and row.corrected is not None and row.corrected < 0.05
    return f"**{text}**" if is_sure else text


def spelt(found: Difference) -> str:
    """A difference as text, such as "+1.2 ± 0.8"."""
    return f"{found.mean:+.1f}" + ("" if found.pairs == 1 else f" ± {found.half_width:.1f}")


def _csv(found: Sequence[ComparedArm]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}{part}" for name in MEASURES for part in ("", "_difference", "_low", "_high", "_p")]
    writer.writerow(
        [
            "regime",
            "loss",
            "arm",
            "setting",
            "seeds",
            *columns,
            "recall_at_1_holm",
            "classes_low",
            "classes_high",
            "seconds",
            "diverged",
            "coincided",
            "lr",
            "loss_parameter",
        ]
    )
    for row in found:
        figures: list[object] = []
        for name in MEASURES:
            each = row.differences[name]
            figures += [f"{row.means[name]:.2f}"]
            figures += (
                ["", "", "", ""]
                if each is None
                else [f"{each.mean:.2f}", f"{each.low:.2f}", f"{each.high:.2f}", f"{each.p:.3g}"]
            )
        classes = ("", "") if row.classes is None else tuple(f"{value:.2f}" for value in row.classes)
        corrected = "" if row.corrected is None else f"{row.corrected:.3g}"
        writer.writerow(
            [
                row.regime,
                row.loss,
                row.arm,
                row.setting,
                row.seeds,
                *figures,
                corrected,
                *classes,
                f"{row.seconds:.2f}",
                row.diverged,
                row.coincided,
                *row.values.values(),
            ]
        )
    return text.getvalue()
