"""Shrinks the images of a data set once, so that no training decodes large files again in every epoch.

Each image is a file of its own that is written atomically and has the time of its original, so that a preparation that
was stopped at any moment goes on where it was, and a later one only works on what has changed.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from embedding_expansion import __version__
from embedding_expansion.checks import as_whole
from embedding_expansion.data.datasets import DATASETS, open_dataset
from embedding_expansion.data.decoding import decode
from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.data.loader import in_order
from embedding_expansion.data.prepared import (
    KIND,
    MANIFEST,
    VERSION,
    Prepared,
    PreparedSplit,
    is_prepared,
    read_manifest,
    write_manifest,
)
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.errors import DataError, InvalidInput, RunError

#: The defaults, chosen by measurement (docs/benchmarks.md).
SIZE, QUALITY = 256, 95
_AT_ONCE = 16  # images that a process shrinks before it reports
_PARTIAL = ".partial-"  # how the names of files begin that are being written
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")


@dataclass
class Preparation:
    """What a preparation has done.

    Attributes:
        prepared: the set.
        written: the number of images that were shrunk or copied.
        kept: the number of images that were there already.
        removed: the number of shrunk images whose originals are no longer in the data set.
        bytes_before: the size of the originals in the set.
        bytes_after: the size of their shrunk files.
    """

    prepared: Prepared
    written: int = 0
    kept: int = 0
    removed: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(frozen=True)
class _Task:
    """An image to shrink: its original, and the names of the shrunk file if it is copied or encoded anew."""

    original: Path
    copied: str
    encoded: str
    stamp: tuple[int, int] | None  # size and time of the original from which the file there was made, if known


@dataclass(frozen=True)
class _Done:
    """The outcome of a task. `broken` and `failed` are reasons: of an original that cannot be read, of a full disk."""

    file: str = ""
    stamp: tuple[int, int] = (0, 0)
    bytes: int = 0
    is_new: bool = False
    broken: str = ""
    failed: str = ""


@dataclass(frozen=True)
class _Source:
    """The data set to shrink: its images, the folder that holds them all, and their names below it."""

    dataset: Dataset
    base: str
    names: list[str] = field(default_factory=list)


def default_folder(data: str, size: int) -> Path:
    """`photos-256` beside the folder `photos` or the table `photos.csv`; for a data set by name, in this folder."""
    path = Path(data).expanduser()
    if data in DATASETS:
        return Path(f"{data}-{size}")
    path = path if path.name not in ("", "..") else path.resolve()
    return path.with_name(f"{path.name if path.is_dir() else path.stem}-{size}")


def prepare_images(
    data: str,
    out: Path,
    *,
    size: int = SIZE,
    quality: int = QUALITY,
    root: Path | None = None,
    part: bool = False,
    train_classes: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Preparation:
    """Shrinks the images of a data set into a folder, which can be used wherever the data set can.

    An image is decoded and turned upright as in training, resized to a short side of `size` and saved as JPEG. An image
    whose short side is not longer is copied as it is. Broken images are left out and named. The same call goes on after
    an interruption, and updates a complete set: it shrinks what was added or has changed, and removes what is gone.

    Args:
        data: the data set: a name or a path, as for `datasets.open_dataset`.
        out: the folder to make, or a folder that an earlier call has made with the same data, size and quality.
        size: the short side in pixels, 16 to 4,096.
        quality: of JPEG, 1 to 100.
        root: the folder in which to search for a named set.
        part: whether to accept a part of a named set.
        train_classes: for a folder of class folders, how many classes to train on; by default half.
        workers: the number of processes, 0 to work in this one; None for one per processor.
        progress: called with the number of images that are done and the number of all.

    Raises:
        InvalidInput: an option is out of its range, the images are in memory, or `out` is in the folder of the images.
        UnknownName, DataError: the data cannot be opened, is itself prepared, or has no image that can be read.
        RunError: `out` holds something else, or cannot be written.
    """
    size = as_whole(size, "size", least=16, most=4096)
    quality = as_whole(quality, "quality", least=1, most=100)
    workers = as_whole(workers, "workers", least=0) if workers is not None else os.cpu_count() or 1
    source = _opened(data, open_dataset(data, root=root, part=part, train_classes=train_classes))
    known = data if data in DATASETS else os.path.abspath(os.path.expanduser(data))
    _refuse_inside(out, known)
    before = _claim(out, known, size, quality)
    done = _shrink_all(_tasks(source, {} if before is None else before.stamps()), out, size, quality, workers, progress)
    prepared = _manifest(source, done, out, known, size, quality)
    prepared.write()
    gone = set[str]() if before is None else _files(before) - _files(prepared)
    for file in gone:
        (out / file).unlink(missing_ok=True)
    good = [one for one in done if not one.broken]
    written = sum(one.is_new for one in good)
    return Preparation(
        prepared,
        written=written,
        kept=len(good) - written,
        removed=len(gone),
        bytes_before=sum(one.stamp[0] for one in good),
        bytes_after=sum(one.bytes for one in good),
    )


def _manifest(source: _Source, done: list[_Done], out: Path, data: str, size: int, quality: int) -> Prepared:
    """The manifest of the finished set.

    Raises:
        DataError: a split has no image that can be read.
    """
    broken = {name: one.broken for name, one in zip(source.names, done, strict=True) if one.broken}
    if len(broken) == len(done):
        name, reason = next(iter(broken.items()))
        raise DataError(f"none of {len(done):,} images of {data} can be read; the first is {name}: {reason}")
    files = dict(zip(source.names, done, strict=True))
    train, test = _splits(source, files)
    for side, split in (("train", train), ("test", test)):
        if not split.labels:
            raise DataError(f"no {side} image of {data} can be read ({next(iter(broken.values()))}); replace them")
    dataset = source.dataset
    return Prepared(
        folder=out,
        package=__version__,
        data=data,
        base=source.base,
        size=size,
        quality=quality,
        name=dataset.name,
        recall_at=list(dataset.recall_at),
        transform=dataset.transform,
        train=train,
        test=test,
        broken=broken,
    )


def _opened(data: str, dataset: Dataset) -> _Source:
    if dataset.prepared is not None:
        raise DataError(f"{data} is already prepared, {dataset.prepared.described}; prepare the originals instead")
    if dataset.train.paths is None or dataset.test.paths is None:
        kind = "vectors" if dataset.train.holds_vectors else "small images, which are held in memory"
        raise InvalidInput(f"{data} has {kind}, so there is nothing to shrink; use it as it is")
    paths = [os.path.abspath(path) for path in (*dataset.train.paths, *dataset.test.paths)]
    base = os.path.commonpath([os.path.dirname(path) for path in paths])
    return _Source(dataset, base, [os.path.relpath(path, base) for path in paths])


def _refuse_inside(out: Path, folder: str) -> None:
    place, top = os.path.realpath(out), os.path.realpath(folder)
    if os.path.isdir(folder) and os.path.commonpath([place, top]) == top:
        raise InvalidInput(f"{out} is in {folder}, whose images it would join; pass another --out")


def _claim(out: Path, data: str, size: int, quality: int) -> Prepared | None:
    """Makes the folder, or checks that it is one of the same data, size and quality; returns a complete set there."""
    if is_prepared(out):
        there, wanted = read_manifest(out), {"data": data, "size": size, "quality": quality}
        if {name: there[name] for name in wanted} != wanted:
            raise RunError(
                f"{out} was prepared from {there['data']} with --size {there['size']} --quality {there['quality']}; "
                "pass another --out, or the same options"
            )
        return Prepared.read(out) if there["complete"] else None
    try:
        if os.path.lexists(out) and (not out.is_dir() or not _is_bare(out)):
            raise RunError(f"{out} exists and is no prepared set; pass another --out")
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{out} cannot be made ({error.strerror or error}); pass another --out") from error
    about = {"data": data, "size": size, "quality": quality, "package": __version__}
    write_manifest(out, {"kind": KIND, "version": VERSION, "complete": False} | about)
    return None


def _is_bare(folder: Path) -> bool:
    """Whether a folder has no more in it than a preparation that was killed at its start leaves."""
    return all(name.startswith(f"{MANIFEST}{_PARTIAL}") for name in os.listdir(folder))


def _tasks(source: _Source, stamps: dict[str, tuple[int, int]]) -> list[_Task]:
    taken, tasks = set(source.names), list[_Task]()
    for name in source.names:
        encoded = name
        if not name.lower().endswith(_JPEG):
            encoded += ".jpg"
            while encoded in taken:
                encoded += ".jpg"
        tasks.append(_Task(Path(source.base, name), name, encoded, stamps.get(name)))
    return tasks


def _shrink_all(
    tasks: list[_Task], out: Path, size: int, quality: int, workers: int, progress: Callable[[int, int], None]
) -> list[_Done]:
    """Shrinks all images in several processes, in order.

    Raises:
        RunError: an image cannot be written.
    """
    _remove_partial(out)
    done = list[_Done]()
    progress(0, len(tasks))
    shrink = partial(_shrink_some, tasks, out, size, quality)
    for some in in_order(shrink, range(0, len(tasks), _AT_ONCE), workers):
        done += some
        if failed := next((one.failed for one in some if one.failed), ""):
            raise RunError(
                f"{out} cannot be written ({failed}); make room for it, then run the same command again, which goes on "
                "where it stopped"
            )
        progress(len(done), len(tasks))
    return done


def _shrink_some(tasks: Sequence[_Task], out: Path, size: int, quality: int, first: int) -> list[_Done]:
    return [_shrink(task, out, size, quality) for task in tasks[first : first + _AT_ONCE]]


def _shrink(task: _Task, out: Path, size: int, quality: int) -> _Done:
    try:
        found = os.stat(task.original)
    except OSError as error:
        reason = f"{error.strerror or error}); restore it, or remove it from the set"
        return _Done(broken=f"the image {task.original} cannot be read ({reason}")
    stamp = found.st_size, found.st_mtime_ns
    if (there := _there(task, out, stamp)) is not None:
        return there
    try:
        content = shrunk(task.original, size, quality)
    except DataError as error:
        return _Done(broken=str(error))
    try:
        file = task.copied if content is None else task.encoded
        return _Done(file, stamp, _write(out / file, content, task.original, stamp[1]), is_new=True)
    except OSError as error:
        return _Done(failed=error.strerror or str(error))


def _there(task: _Task, out: Path, stamp: tuple[int, int]) -> _Done | None:
    """The shrunk file that an earlier preparation has made of this original, unless the original has changed."""
    if task.stamp not in (None, stamp):
        return None
    for file in dict.fromkeys((task.encoded, task.copied)):
        try:
            found = os.stat(out / file)
        except OSError:
            continue
        if found.st_mtime_ns == stamp[1] and found.st_size:
            return _Done(file, stamp, found.st_size)
    return None


def shrunk(original: Path, size: int, quality: int) -> bytes | None:
    """The content of a JPEG file with the image at a short side of `size` pixels; None if its own is not longer.

    Raises:
        DataError: the image cannot be decoded, or is too long for JPEG.
    """
    pixels = decode(original, least=Preprocessing(size).least)
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short <= size:
        return None
    image = Image.fromarray(pixels)
    # The model's transform resizes once more, bilinearly; Lanczos leaves more details for it (docs/benchmarks.md).
    smaller = image.resize((round(width * size / short), round(height * size / short)), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    try:
        smaller.save(content, "JPEG", quality=quality)
    except (OSError, ValueError) as error:
        raise DataError(f"the image {original} cannot be saved as JPEG ({error}); crop or remove it") from error
    return content.getvalue()


def _write(path: Path, content: bytes | None, original: Path, time: int) -> int:
    """Writes a file, or copies the original, with a modification time in nanoseconds; returns its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{_PARTIAL}{os.getpid()}")
    try:
        with unfinished.open("wb") as stream:
            if content is None:
                with original.open("rb") as whole:
                    shutil.copyfileobj(whole, stream)
            else:
                stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            written = stream.tell()
        os.utime(unfinished, ns=(time, time))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return written


def _splits(source: _Source, files: dict[str, _Done]) -> Iterator[PreparedSplit]:
    """The columns of both splits, without broken images."""
    train, test = source.dataset.train, source.dataset.test
    for images, names in ((train, source.names[: len(train)]), (test, source.names[len(train) :])):
        rows = [row for row, name in enumerate(names) if not files[name].broken]
        chosen = [names[row] for row in rows]
        yield PreparedSplit(
            class_names=list(images.class_names),
            labels=images.labels[rows].tolist(),
            originals=chosen,
            files=[files[name].file for name in chosen],
            bytes=[files[name].stamp[0] for name in chosen],
            times=[files[name].stamp[1] for name in chosen],
            **_marks(images, rows),
        )


def _marks(images: ImageSet, rows: list[int]) -> dict[str, list[bool] | None]:
    both = {"is_query": images.is_query, "is_gallery": images.is_gallery}
    return {name: None if marks is None else marks[rows].tolist() for name, marks in both.items()}


def _files(prepared: Prepared) -> set[str]:
    return {file for _, file in prepared.images()}


def _remove_partial(out: Path) -> None:
    """Removes what killed processes were writing."""
    for folder, _, names in os.walk(out):
        for name in names:
            if name.startswith(_PARTIAL):
                Path(folder, name).unlink(missing_ok=True)
