"""embex index."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

from embedding_expansion.app.arguments import parse
from embedding_expansion.errors import InvalidInput

LABELS = (
    "folder: the name of the folder that an image lies in, if that is a subfolder of a named one; none; or a CSV or "
    "TSV file with the columns path, label and any others"
)


def run(arguments: list[str]) -> int:
    """Puts images into an index, with the model; the exit status is 1 where some could not be read."""
    options = jsonargparse.ArgumentParser(
        prog="embex index",
        exit_on_error=False,
        allow_abbrev=False,
        description="Embeds images into an index that can be searched, and puts the model into it. Killed, it leaves "
        "the old index, or an empty one, and the same command goes on where it stopped.",
    )
    options.add_argument("run", type=str, help="run folder, or a folder that embex export made")
    options.add_argument("images", type=str, nargs="+", help="image files and folders; of a run on vectors, one file")
    options.add_argument("--out", type=str, required=True, help="the index: a folder, or a postgresql:// URL")
    options.add_argument("--kind", type=str | None, default=None, help="auto (the default), flat, hnsw or ivfpq")
    options.add_argument("--precision", type=str | None, default=None, help="float32 (the default) or float16")
    options.add_argument("--labels", type=str, default="folder", help=LABELS)
    options.add_argument("--flip", type=bool, default=False, help="average in the embeddings of the mirror images")
    options.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    options.add_argument("--batch_size", type=int, default=64, help="images that go through the model at once")
    given = parse(options, arguments)

    from embedding_expansion.data.finding import is_vector_file

    if is_vector_file(*given.images):
        return _index_vectors(given)

    from embedding_expansion.app.loading import bar, say
    from embedding_expansion.inference.indexing import index_images

    with bar() as progress:
        report = index_images(
            given.run,
            given.images,
            given.out,
            kind=given.kind,
            precision=given.precision,
            labels=given.labels,
            flip=given.flip,
            device=given.device,
            batch_size=given.batch_size,
            progress=progress,
        )
    return say(report, given.out)


def _index_vectors(given: jsonargparse.Namespace) -> int:
    from embedding_expansion.app.loading import say
    from embedding_expansion.inference.indexing import Report
    from embedding_expansion.inference.vector_index import index_vectors

    if given.flip or given.labels != "folder":
        raise InvalidInput("--flip and --labels are for images; vectors have their labels in their file")
    changes = index_vectors(
        given.run,
        Path(given.images[0]),
        given.out,
        kind=given.kind,
        precision=given.precision,
        device=given.device,
    )
    return say(Report(changes.new, changes.changed), given.out, "vectors")
