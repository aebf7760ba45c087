"""Writes the report of a run: gathers its contents, renders the template and writes the file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from embedding_expansion.app.pages.rendering import environment
from embedding_expansion.app.report import overview
from embedding_expansion.app.report.gallery import Album, Gallery
from embedding_expansion.app.report.hard_pairs import Selection, select
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.files import check_place, write_atomically
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.runs.run_lock import writing_into
from embedding_expansion.training.job import Tested
from embedding_expansion.training.trained import reopen

TEMPLATES = Path(__file__).parent / "templates"
PAIRS = 8  # number of hard pairs shown
BROKEN = 50  # maximum number of broken images named


def write_report(run: RunFolder, *, tested: Tested | None = None, out: Path | None = None) -> Path:
    """Writes the report of a run, complete or not. The same run gives the same bytes.

    Args:
        run: the run folder.
        tested: the final model with its test embeddings; None loads the model and embeds the test images.
        out: the file to write; None means report.html in the run folder.

    Returns:
        The written file.

    Raises:
        RunError: the folder is not a run, one of its files is broken, or the report cannot be written, for example
            because the run is being trained.
    """
    out = run.report if out is None else out
    config = run.read_config()
    check_place(out)
    missing = ""
    with writing_into(out):
        if tested is None:
            tested, missing = _tested(run)
        for change in [] if tested is None else tested.job.changes:
            print(f"embex: changed since {run.path} was started: {change}", file=sys.stderr)
        # File names may contain undecodable bytes.
        page = render(run, config, tested, missing).encode("utf-8", "replace")
        write_atomically(out, lambda partial: partial.write_bytes(page))
    return out


def _tested(run: RunFolder) -> tuple[Tested | None, str]:
    """The final model with its test embeddings, or None and the reason."""
    if not run.read_config().measure_test:
        return None, "This run never reads the test classes, so the report has no retrieval results."
    if not run.model.exists():
        return None, "The run has no final weights yet, so the report has no retrieval results."
    try:
        return reopen(run.path).tested(), ""
    except (DataError, InvalidInput) as error:  # images that have moved, or a device that is not available
        return None, f"The model could not embed the test images: {' '.join(str(error).split())}."


def render(run: RunFolder, config: TrainConfig, tested: Tested | None, missing: str) -> str:
    """Renders the report as HTML.

    Args:
        run: the run folder.
        config: the configuration of the run.
        tested: the model with its test embeddings, or None.
        missing: a sentence on why `tested` is None; empty otherwise.

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
            warnings=overview.warnings(log),
            optimistic=config.protocol == "paper",
            judged="test classes, which training never sees" if config.measure_test else "held-out training classes",
            verdict=(metrics or {}).get("verdict", {}).get("sentence", ""),
            waiting=(metrics or {}).get("reading", {}).get("sentence", ""),
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
    """The hardest pairs of a few training batches and their pictures."""
    selection: Selection | None = None
    if tested is not None:
        try:
            selection = select(tested.job, PAIRS)
        except DataError:  # training images are missing, while test images exist
            selection = None
    album = None if tested is None else Album(tested.job.train)
    return {"selection": selection, "album": album}
