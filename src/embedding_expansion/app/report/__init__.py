"""The command embex report, and the report itself: one self-contained HTML file about a run."""

from __future__ import annotations

from pathlib import Path

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.next_step import after_run, print_next


def run(arguments: list[str]) -> int:
    """Writes the report of a run; returns the exit status."""
    options = command(
        "report",
        "Writes the report of a run: one HTML file with its metrics, curves, example images and settings.",
    )
    options.add_argument("run", type=str, help="the run folder")
    options.add_argument("--out", type=str | None, default=None, help="file to write; default: RUN/report.html")
    given = parse(options, arguments)

    from embedding_expansion.app.outputs import outputs
    from embedding_expansion.app.report.page import write_report
    from embedding_expansion.runs.run_folder import RunFolder

    with outputs(out=given.out):
        written = write_report(RunFolder(Path(given.run)), out=None if given.out is None else Path(given.out))
        print(f"report: {written}")
        print_next(after_run(given.run))
    return 0
