"""The command embex add."""

from __future__ import annotations

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.next_step import print_next, search_in


def run(arguments: list[str]) -> int:
    """Adds images to an index; returns the exit status, 1 if some images could not be read."""
    from embedding_expansion.app.index import LABELS

    options = command(
        "add",
        "Embeds images with the model of the index and adds them to it, all in one step at the end. "
        "Files that have not changed since they were added are skipped. If the command is interrupted, run it again "
        "to continue.",
    )
    options.add_argument("index", type=str, help="the index: a folder, or a postgresql:// URL")
    options.add_argument("images", type=str, nargs="+", help="image files, and folders that are searched for images")
    options.add_argument(
        "--labels",
        type=str | None,
        default=None,
        help=f"{LABELS}; default: indexed images keep their labels, and new images are labelled as the index was "
        "built, except by a table",
    )
    options.add_argument("--device", type=str, default="auto", help="device of the model: auto, cpu, cuda, cuda:1, ...")
    options.add_argument("--batch_size", type=int, default=64, help="images per batch")
    given = parse(options, arguments)

    from embedding_expansion.app.loading import print_report, progress_bar
    from embedding_expansion.inference.indexing import add_images

    with progress_bar() as progress:
        report = add_images(
            given.index,
            given.images,
            labels=given.labels,
            device=given.device,
            batch_size=given.batch_size,
            progress=progress,
        )
    status = print_report(report, given.index)
    print_next(search_in(given.index))
    return status
