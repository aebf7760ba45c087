"""The command embex index."""

from __future__ import annotations

from pathlib import Path

import jsonargparse

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.backbone_options import MODEL, add_backbone_options, chosen_model, refuse_backbone_options
from embedding_expansion.app.next_step import print_next, search_in
from embedding_expansion.errors import InvalidInput

LABELS = (
    "where labels come from: folder (the image's folder, if it is a subfolder of a named folder), none, or a CSV or "
    "TSV file with the columns path, label and any others"
)


def run(arguments: list[str]) -> int:
    """Builds an index of images; returns the exit status, 1 if some images could not be read."""
    options = command(
        "index",
        "Embeds images into a searchable index and stores the model in it. If the command is interrupted, "
        "the index is as it was before; run the same command again to continue.",
    )
    options.add_argument("run", type=str, help=MODEL)
    options.add_argument("images", type=str, nargs="+", help="image files and folders, or one file of vectors")
    options.add_argument("--out", type=str, required=True, help="the index: a folder, or a postgresql:// URL")
    options.add_argument(
        "--kind", type=str | None, default=None, help="structure of the index: auto (the default), flat, hnsw or ivfpq"
    )
    options.add_argument(
        "--precision",
        type=str | None,
        default=None,
        help="precision of the stored vectors: float32 (the default) or float16",
    )
    options.add_argument("--labels", type=str, default="folder", help=LABELS)
    options.add_argument(
        "--flip", type=bool, default=False, help="average the embeddings of an image and its mirror image"
    )
    options.add_argument("--device", type=str, default="auto", help="device of the model: auto, cpu, cuda, cuda:1, ...")
    options.add_argument("--batch_size", type=int, default=64, help="images per batch")
    add_backbone_options(options)
    given = parse(options, arguments)

    from embedding_expansion.data.finding import is_vector_file

    if is_vector_file(*given.images):
        return _index_vectors(given)

    from embedding_expansion.app.loading import print_report, progress_bar
    from embedding_expansion.inference.indexing import index_images

    model = chosen_model(given.run, given, batch_size=given.batch_size)
    with progress_bar() as progress:
        report = index_images(
            model,
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
    status = print_report(report, given.out)
    print_next(search_in(given.out))
    return status


def _index_vectors(given: jsonargparse.Namespace) -> int:
    from embedding_expansion.app.loading import print_report
    from embedding_expansion.inference.indexing import IndexingReport
    from embedding_expansion.inference.vector_index import index_vectors

    refuse_backbone_options(given, given.images[0], "a file of vectors")
    if given.flip or given.labels != "folder":
        raise InvalidInput(
            "--flip and --labels are for images only; a file of vectors contains its own labels, so omit them"
        )
    changes = index_vectors(
        given.run,
        Path(given.images[0]),
        given.out,
        kind=given.kind,
        precision=given.precision,
        device=given.device,
    )
    status = print_report(IndexingReport(changes.new, changes.changed), given.out, "vectors")
    print_next(["embex", "search", given.out, given.images[0]])
    return status
