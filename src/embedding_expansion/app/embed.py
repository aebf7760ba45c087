"""The command embex embed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.backbone_options import (
    MODEL,
    add_backbone_options,
    given_options,
    opened_model,
    refuse_backbone_options,
)
from embedding_expansion.app.next_step import index_of, print_next
from embedding_expansion.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from embedding_expansion.data.finding import ImageFile
    from embedding_expansion.inference.embedder import Embedder


def run(arguments: list[str]) -> int:
    """Embeds images into an .npz file; returns the exit status, 1 if some images could not be read."""
    options = command(
        "embed",
        "Embeds images with a trained model or a backbone as it comes. The .npz "
        "file contains `embeddings` (n, d), L2-normalised float32, and `paths` "
        "(n). A run that was trained on vectors embeds a file of vectors; the .npz file then contains the labels, "
        "names and split of that file instead of paths.",
    )
    options.add_argument("run", type=str, help=MODEL)
    options.add_argument("images", type=str, nargs="+", help="image files and folders, or one file of vectors")
    options.add_argument("--out", type=str, default="embeddings.npz", help="file to write")
    options.add_argument(
        "--flip", type=bool, default=False, help="average the embeddings of an image and its mirror image"
    )
    options.add_argument("--device", type=str, default="auto", help="device of the model: auto, cpu, cuda, cuda:1, ...")
    add_backbone_options(options)
    given = parse(options, arguments)
    out, broken = Path(given.out), dict[Path, str]()

    import numpy as np

    from embedding_expansion.app.outputs import outputs
    from embedding_expansion.data.finding import find_images, is_vector_file

    with outputs(out=given.out):
        if is_vector_file(*given.images):
            refuse_backbone_options(given, given.images[0], "a file of vectors")
            return _embed_vectors(Path(given.run), Path(given.images[0]), out, given.device)
        found = find_images(given.images)
        embeddings, paths = _embed(opened_model(given.run, given), found.files, given.flip, broken)
        _write(out, embeddings=embeddings, paths=np.array([str(name) for name in paths]))
        print(f"{len(paths)} images embedded into {embeddings.shape[1]} dimensions: {given.out}")
        print_next(index_of(given.run, given.images, given_options(given)))
    if str(found.left_out):
        print(f"embex: {found.left_out}", file=sys.stderr)
    for path, reason in broken.items():
        print(f"embex: skipped {path}: {reason}", file=sys.stderr)
    return 1 if broken else 0


def _embed(
    embedder: Embedder, files: list[ImageFile], flip: bool, broken: dict[Path, str]
) -> tuple[np.ndarray, tuple[Path, ...]]:
    failed = dict[int, str]()
    vectors = embedder.embed([file.read for file in files], flip=flip, broken=failed)
    broken |= {files[position].path: reason for position, reason in failed.items()}
    if len(failed) == len(files):
        raise DataError(f"none of {len(files)} images can be read; the first error: {failed[0]}")
    return vectors, tuple(file.path for position, file in enumerate(files) if position not in failed)


def _embed_vectors(folder: Path, file: Path, out: Path, device: str) -> int:
    from embedding_expansion.data.vectors import read_rows
    from embedding_expansion.inference.vector_embedder import VectorEmbedder

    rows, others = read_rows(file)
    embeddings = VectorEmbedder.load(folder, device=device).embed(rows)
    _write(out, embeddings=embeddings, **others)
    print(f"{len(rows)} vectors embedded into {embeddings.shape[1]} dimensions: {out}")
    print_next(["embex", "evaluate", out] if "labels" in others else [])
    return 0


def _write(path: Path, **arrays: np.ndarray) -> None:
    import numpy as np

    from embedding_expansion.files import write_atomically

    def write(partial: Path) -> None:
        with partial.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    write_atomically(path, write)
