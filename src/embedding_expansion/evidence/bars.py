"""What the default has to keep, and whether it does: on the test classes, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embedding_expansion.evidence.choice import is_close
from embedding_expansion.evidence.differences import difference, records_of
from embedding_expansion.evidence.grid import PLAIN, Regime, Setting
from embedding_expansion.evidence.results import Results
from embedding_expansion.retrieval.comparison import Difference

_BOTH = ("recall_at_1", "map_at_r")
#: These losses gain at least `GAIN` points of Recall@1 at the parameters of their papers.
GAINS, GAIN = ("lifted_structure", "n_pair", "contrastive"), 2.0
#: No cell loses more points of Recall@1 than this.
WORST = -5.0
#: On glyphs with the given values: the least difference in Recall@1 of each loss.
GLYPHS = {"triplet": -3.0, "sup_con": -3.0, "multi_similarity": -3.0, "contrastive": 3.0}


@dataclass(frozen=True)
class Check:
    """A bar in one cell.

    Attributes:
        bar: the bar in words.
        regime: the regime.
        loss: the loss.
        setting: the setting.
        found: the difference in Recall@1; None if there are no runs.
        holds: whether the bar holds; None if there are no runs.
    """

    bar: str
    regime: str
    loss: str
    setting: Setting
    found: Difference | None
    holds: bool | None


def checks(results: Results, known: Sequence[Regime], form: str) -> Iterator[Check]:
    """All bars for a form of expansion."""
    for regime in known:
        for loss in regime.losses:
            if regime.tuned_in is not None:
                yield _as_good_as_plain(results, regime, loss, form)
            for setting in ("tuned", *regime.settings):
                found = _recall(results, regime, loss, form, setting)
                holds = None if found is None else found.mean >= WORST
                yield Check(f"no cell loses more than {-WORST:g}", regime.name, loss, setting, found, holds)
            if "default" in regime.settings:
                yield from _given_values(regime, loss, _recall(results, regime, loss, form, "default"))


def _as_good_as_plain(results: Results, regime: Regime, loss: str, form: str) -> Check:
    plain, own = (records_of(results, regime, loss, arm, "tuned") for arm in (PLAIN, form))
    both = [difference(plain, own, measure) for measure in _BOTH]
    known = [each for each in both if each is not None]
    holds = all(map(is_close, known)) if len(known) == len(_BOTH) else None
    return Check("as good as plain, tuned", regime.name, loss, "tuned", both[0], holds)


def _given_values(regime: Regime, loss: str, found: Difference | None) -> Iterator[Check]:
    bars = {f"gains {GAIN:g} at its paper's parameters": GAIN} if loss in GAINS else {}
    if regime.name == "glyphs" and loss in GLYPHS:
        bars[f"glyphs as given: at least {GLYPHS[loss]:+g}"] = GLYPHS[loss]
    for bar, least in bars.items():
        yield Check(bar, regime.name, loss, "default", found, None if found is None else found.mean >= least)


def _recall(results: Results, regime: Regime, loss: str, form: str, setting: Setting) -> Difference | None:
    plain, own = (records_of(results, regime, loss, arm, setting) for arm in (PLAIN, form))
    return difference(plain, own, "recall_at_1")


def confirmed(found: Sequence[Check]) -> bool | None:
    """Whether a form is as good as plain in every cell of the given checks; None while a run is missing."""
    of_bar = [check.holds for check in found if check.bar.startswith("as good")]
    return None if None in of_bar else all(of_bar)
