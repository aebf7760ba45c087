"""Compares runs on the same test images, query by query."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedding_expansion.data.images import ImageSet
from embedding_expansion.errors import DataError
from embedding_expansion.retrieval.comparison import Difference, paired
from embedding_expansion.retrieval.metrics import retrieval_values
from embedding_expansion.runs.options import DataConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.job import Tested
from embedding_expansion.training.trained import embed_test

#: What is compared, by the names of `retrieval_values`.
MEASURES = {"recall_at_1": "Recall@1", "r_precision": "R-precision", "map_at_r": "MAP@R"}


@dataclass(frozen=True)
class Compared:
    """A run and its values for each query.

    Attributes:
        name: the run as it was named.
        tested: its embeddings of the test images.
        values: the value of each query, by measure.
        differences: the differences to the first run, in the unit of the values; empty for the first run itself.
    """

    name: str
    tested: Tested
    values: dict[str, np.ndarray]
    differences: dict[str, Difference]

    def mean(self, measure: str) -> float:
        """The mean over the queries that have a value."""
        return float(np.nanmean(self.values[measure]))

    def shown(self, measure: str) -> str:
        """The difference in points with its interval; empty for the first run."""
        found = self.differences.get(measure)
        return "" if found is None else f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def compare_runs(runs: Sequence[str], data: str | None, changes: Mapping[str, Any]) -> list[Compared]:
    """Embeds the test images with each run, and compares the values of the queries.

    Args:
        runs: the run folders, the baseline first.
        data: another data set, by name or path; None for that of each run.
        changes: other fields of the data's configuration, such as its root.

    Raises:
        RunError: a folder is not a run, or has no final weights yet.
        DataError: the runs have other test images, or the data cannot be opened.
    """
    found = list[Compared]()
    for name in runs:
        chosen = RunFolder(Path(name)).read_config().data if data is None else DataConfig(name=data)
        tested = embed_test(Path(name), dataclasses.replace(chosen, **changes))
        images = tested.images
        if found:
            _check_same(found[0], name, tested)
        sides: dict[str, Any] = {"is_query": images.is_query, "is_gallery": images.is_gallery}
        values = retrieval_values(tested.vectors, images.labels, (1,), **sides)
        kept = {measure: np.asarray(values[measure]) for measure in MEASURES}
        differences = {}
        for measure, own_values in kept.items() if found else ():
            both = [
                {at: float(one) for at, one in enumerate(each) if not np.isnan(one)}
                for each in (found[0].values[measure], own_values)
            ]
            if (difference := paired(*both)) is not None:
                differences[measure] = difference
        found.append(Compared(name, tested, kept, differences))
    return found


def _check_same(first: Compared, name: str, tested: Tested) -> None:
    """Refuses a run that was tested on other images than the first one."""
    ours, theirs = ([_identity(each.images, at) for at in range(len(each.images))] for each in (first.tested, tested))
    if ours != theirs:
        raise DataError(
            f"{name} and {first.name} have different test images ({len(theirs):,} and {len(ours):,}); pass runs of the "
            "same data and split, or another set with --data"
        )


def _identity(images: ImageSet, at: int) -> tuple[str, str]:
    return images.called(at), images.class_names[int(images.labels[at])]
