"""The page itself: everything that is shown, handed to the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embedding_expansion.app.pages.rendering import environment
from embedding_expansion.app.report import overview
from embedding_expansion.app.report.gallery import Album, Gallery
from embedding_expansion.app.report.hard_pairs import Selection, select
from embedding_expansion.errors import DataError
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.job import Tested

TEMPLATES = Path(__file__).parent / "templates"
PAIRS = 8  # hardest pairs shown
BROKEN = 50  # broken images named


def render(run: RunFolder, config: TrainConfig, tested: Tested | None, missing: str) -> str:
    """The report as HTML.

    Args:
        run: the folder, whose other files are read here.
        config: of the run.
        tested: its model on the test images, if there is one.
        missing: else why not, in a sentence.

    Raises:
        RunError: a file of the run is broken.
    """
    log, metrics = run.read_log(), run.read_metrics()
    before: dict[str, Any] = next((entry["before"] for entry in log if isinstance(entry.get("before"), dict)), {})
    data = metrics["data"] if metrics else Path(config.data.name).name if tested is None else tested.job.dataset.name
    broken = metrics["broken_images"] if metrics else []
    return (
        environment(TEMPLATES)
        .get_template("report.html")
        .render(
            name=run.path.resolve().name,
            title=overview.title(config, data),
            facts=overview.facts(config, metrics, log),
            metrics=metrics,
            missing=missing,
            changes=[] if tested is None else tested.job.changes,
            steps=(max((entry["step"] for entry in log), default=0), config.steps),
            optimistic=config.protocol == "paper",
            measures=overview.measures(before, metrics or {}),
            charts=overview.curves(log, metrics["selected_step"] if metrics else None),
            table=overview.table(log),
            expansion=config.expansion,
            config=(run.path / "config.yaml").read_text(encoding="utf-8"),
            surroundings=overview.surroundings(run.read_environment()),
            broken=broken[:BROKEN],
            broken_count=len(broken),
            gallery=None if tested is None else Gallery(tested),
            **_hard_pairs(tested),
        )
    )


def _hard_pairs(tested: Tested | None) -> dict[str, Any]:
    """The hardest pairs of a few training batches, their images, and whether the loss compares with proxies instead."""
    selection: Selection | None = None
    if tested is not None:
        try:
            selection = select(tested.job, PAIRS)
        except DataError:  # the training images have gone, the test images are there
            selection = None
    album = None if tested is None else Album(tested.job.train)
    return {"selection": selection, "album": album}
