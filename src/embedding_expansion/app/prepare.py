"""The command embex data prepare."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.loading import progress_bar
from embedding_expansion.data.sources import SOURCES
from embedding_expansion.errors import UnknownName

if TYPE_CHECKING:
    from embedding_expansion.data.preparing import Preparation

DESCRIPTION = """Shrinks the images of a data set once, into a folder that is used in place of the data set: with
--data,
and by embex embed, index, add and cluster. Large photographs then cost no time in training. The folder keeps classes,
splits and the names of the originals. The same command goes on after an interruption, and later brings the folder up to
date."""


def run(arguments: list[str]) -> int:
    """Shrinks the images of a data set; returns the exit status, 1 if some images could not be read."""
    options = command("data prepare", DESCRIPTION)
    options.add_argument("data", type=str, help="the data set, by name or path")
    options.add_argument("--size", type=int, default=256, help="short side of the images in pixels")
    options.add_argument("--out", type=str | None, default=None, help="folder to make; default: DATA-SIZE beside DATA")
    options.add_argument("--quality", type=int, default=95, help="quality of the JPEG files, 1 to 100")
    options.add_argument("--workers", type=int | None, default=None, help="processes; default: one per processor")
    options.add_argument("--root", type=str | None, default=None, help="folder that contains the data set")
    options.add_argument("--part", action="store_true", help="accept an incomplete data set")
    options.add_argument(
        "--train_classes",
        type=int | None,
        default=None,
        help="for a folder of class folders: how many classes to train on; default: half of them",
    )
    given = parse(options, arguments)
    path = Path(given.data).expanduser()
    if given.data not in SOURCES and not path.exists() and not path.suffix and len(path.parts) == 1:
        raise UnknownName("data set (nor a folder of class folders)", given.data, SOURCES)

    from embedding_expansion.data.preparing import default_folder, prepare_images

    out = default_folder(given.data, given.size) if given.out is None else Path(given.out)
    with progress_bar(stopped="the shrunk images are kept") as progress:
        done = prepare_images(
            given.data,
            out,
            size=given.size,
            quality=given.quality,
            root=None if given.root is None else Path(given.root),
            part=given.part,
            train_classes=given.train_classes,
            workers=given.workers,
            progress=progress,
        )
    _print(done)
    for reason in done.prepared.broken.values():  # which names the file
        print(f"embex: left out: {reason}", file=sys.stderr)
    return 1 if done.prepared.broken else 0


def _print(done: Preparation) -> None:
    prepared = done.prepared
    sides = [f"{side} {len(split.labels):,}" for side, split in (("train", prepared.train), ("test", prepared.test))]
    counts = [f"{done.written:,} shrunk", *([f"{done.kept:,} were there"] if done.kept else [])]
    counts += [f"{done.removed:,} removed"] if done.removed else []
    print(f"{prepared.folder}: {prepared.name}, images: {', '.join(sides)}; {', '.join(counts)}")
    before, after = (f"{size / 1e6:,.1f} MB" for size in (done.bytes_before, done.bytes_after))
    print(f"{prepared.described}; {before} became {after}")
    print(f"to train on it: embex train --data {shlex.quote(str(prepared.folder))}")
