"""embex embed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse

from embedding_expansion.app.arguments import parse
from embedding_expansion.errors import DataError

if TYPE_CHECKING:
    import numpy as np


def run(arguments: list[str]) -> int:
    """Embeds image files into an .npz; the exit status is 1 where some could not be read."""
    options = jsonargparse.ArgumentParser(
        prog="embex embed",
        exit_on_error=False,
        allow_abbrev=False,
        description="Embeds images. The .npz holds `embeddings` (n, d), L2-normalised float32, and `paths` (n).",
    )
    options.add_argument("run", type=str, help="run folder, or a folder that embex export made")
    options.add_argument("images", type=str, nargs="+", help="image files, and folders to look through")
    options.add_argument("--out", type=str, default="embeddings.npz", help="file to write")
    options.add_argument("--flip", type=bool, default=False, help="average in the embeddings of the mirror images")
    options.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, cuda:1, ...")
    given = parse(options, arguments)
    out, broken = Path(given.out), dict[Path, str]()

    from embedding_expansion.training.files import check_place

    check_place(out)
    embeddings, paths = _embed(Path(given.run), [Path(name) for name in given.images], given.device, given.flip, broken)
    _write(out, embeddings, paths)
    print(f"{len(paths)} images embedded into {embeddings.shape[1]} dimensions: {given.out}")
    for path, reason in broken.items():
        print(f"embex: left out {path}: {reason}", file=sys.stderr)
    return 1 if broken else 0


def _embed(
    folder: Path, names: list[Path], device: str, flip: bool, broken: dict[Path, str]
) -> tuple[np.ndarray, tuple[Path, ...]]:
    from embedding_expansion.inference.embedder import Embedder

    files = image_files(names)
    failed = dict[int, str]()
    vectors = Embedder.load(folder, device=device).embed(files, flip=flip, broken=failed)
    broken |= {files[position]: reason for position, reason in failed.items()}
    if len(failed) == len(files):
        raise DataError(f"not one of {len(files)} images can be read; the first: {failed[0]}")
    return vectors, tuple(file for position, file in enumerate(files) if position not in failed)


def image_files(names: list[Path]) -> list[Path]:
    """The files that are named, and the image files in the folders that are named, at any depth."""
    from embedding_expansion.data.images import IMAGE_SUFFIXES

    files: list[Path] = []
    for name in names:
        if name.is_dir():
            files += sorted(path for path in name.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        elif name.is_file():
            files.append(name)
        else:
            raise DataError(f"there is no file or folder {name}; pass images, or a folder that holds some")
    if not files:
        raise DataError(
            f"there is no image in {', '.join(map(str, names))}; image files end in .jpg, .png and the like"
        )
    return files


def _write(path: Path, embeddings: np.ndarray, paths: tuple[Path, ...]) -> None:
    import numpy as np

    from embedding_expansion.training.files import write_atomically

    def write(partial: Path) -> None:
        with partial.open("wb") as stream:
            np.savez(stream, embeddings=embeddings, paths=np.array([str(name) for name in paths]))

    write_atomically(path, write)
