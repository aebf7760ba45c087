"""From a run folder to the file: what is there is gathered, shown and written."""

from __future__ import annotations

import sys
from pathlib import Path

from embedding_expansion.app.report.page import render
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.files import check_place, write_atomically
from embedding_expansion.training.job import Tested
from embedding_expansion.training.run_folder import RunFolder
from embedding_expansion.training.run_lock import writing_into
from embedding_expansion.training.trained import reopen


def write_report(run: RunFolder, *, tested: Tested | None = None, out: Path | None = None) -> Path:
    """Writes the report of a run, complete or not; the same run gives the same bytes.

    Args:
        run: the folder.
        tested: its final model and what it makes of the test images, where the caller has them; else both are made
            again.
        out: the file; by default report.html in the folder.

    Returns:
        The file.

    Raises:
        RunError: the folder is no run, a file of it is broken, or the report cannot be written, as while the run is
            being trained.
    """
    out = run.report if out is None else out
    config = run.read_config()
    check_place(out)
    missing = ""
    with writing_into(out):
        if tested is None:
            tested, missing = _tested(run)
        for change in [] if tested is None else tested.job.changes:
            print(f"embex: since {run.path} was started: {change}", file=sys.stderr)
        page = render(run, config, tested, missing).encode("utf-8", "replace")  # the name of a file may be no text
        write_atomically(out, lambda partial: partial.write_bytes(page))
    return out


def _tested(run: RunFolder) -> tuple[Tested | None, str]:
    """The final model on the test images; or None, and why there is none."""
    if not run.model.exists():
        return None, "The run has no final weights yet, so its answers cannot be shown."
    try:
        return reopen(run.path).tested(), ""
    except (DataError, InvalidInput) as error:  # the images have moved, or there is no such device here
        return None, f"The model could not be run on its test images here: {' '.join(str(error).split())}."
