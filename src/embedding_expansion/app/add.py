"""embex add."""

from __future__ import annotations

import jsonargparse

from embedding_expansion.app.arguments import parse


def run(arguments: list[str]) -> int:
    """Puts further images into an index; the exit status is 1 where some could not be read."""
    from embedding_expansion.app.index import LABELS

    options = jsonargparse.ArgumentParser(
        prog="embex add",
        exit_on_error=False,
        allow_abbrev=False,
        description="Embeds images with the index's own model and adds them, all at once at the end. Files that have "
        "not changed since they were added are skipped. Killed, the same command goes on where it stopped.",
    )
    options.add_argument("index", type=str, help="the index: a folder, or a postgresql:// URL")
    options.add_argument("images", type=str, nargs="+", help="image files, and folders to look through")
    options.add_argument(
        "--labels",
        type=str | None,
        default=None,
        help=f"{LABELS}; default: images that are there keep what is said of them, new ones are labelled as the index "
        "was, by a table excepted",
    )
    options.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    options.add_argument("--batch_size", type=int, default=64, help="images that go through the model at once")
    given = parse(options, arguments)

    from embedding_expansion.app.loading import bar, say
    from embedding_expansion.inference.indexing import add_images

    with bar() as progress:
        report = add_images(
            given.index,
            given.images,
            labels=given.labels,
            device=given.device,
            batch_size=given.batch_size,
            progress=progress,
        )
    return say(report, given.index)
