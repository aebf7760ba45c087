"""From a run folder to the file: what is there is gathered, shown and written."""

from __future__ import annotations

from pathlib import Path

from embedding_expansion.app.report.page import render
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.training.files import check_place, write_atomically
from embedding_expansion.training.job import Tested
from embedding_expansion.training.run_folder import RunFolder
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
        RunError: the folder is no run, a file of it is broken, or the report cannot be written.
    """
    out = run.report if out is None else out
    config = run.read_config()
    check_place(out)
    missing = ""
    if tested is None:
        tested, missing = _tested(run)
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
