"""Batches of image tensors: a stream of training steps, and one pass over a set for evaluation.

A broken image does not stop the stream. It is left out and entered in the dictionary `broken`, which the caller passes
and can report at the end with `broken_sentence`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from embedding_expansion.checks import as_whole
from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.reading import ReadingClock
from embedding_expansion.data.sampler import ClassBalancedSampler
from embedding_expansion.data.transforms import ImageTransform
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.failures import killed_loader

#: The images that could be read, their indices in the set, and path and reason of the others.
_Loaded = tuple[Tensor, npt.NDArray[Any], dict[Path, str]]
_T = TypeVar("_T")


def batches(
    images: ImageSet,
    sampler: ClassBalancedSampler,
    transform: ImageTransform,
    *,
    seed: int,
    start: int = 0,
    stop: int,
    rows: slice = slice(None),
    workers: int = 0,
    broken: dict[Path, str] | None = None,
    clock: ReadingClock | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields the training batches of the steps start, ..., stop - 1.

    The random transform of an image depends only on the seed, the step and the position in the batch, so the stream is
    the same for any number of workers and from any start. The global random state does not change.

    A broken image is replaced by the next image of its class, so that P x K batches keep their shape. A class without
    readable images is left out of the batch.

    Args:
        images: the training split.
        sampler: chooses the images of a step.
        transform: the transform of each image.
        seed: of the random transforms, 0 or more.
        start: the first step.
        stop: the step after the last one.
        rows: the positions of the batch to load, such as those of one rank of a distributed run.
        workers: the number of processes that decode images; 0 decodes in this process.
        broken: receives the path of every image that cannot be read, with the reason.
        clock: counts how long the steps wait for their images, and how long decoding takes.

    Yields:
        (step, uint8 images of shape (b, c, size, size), int64 labels of shape (b,)).

    Raises:
        DataError: no image of a step can be read.
        InvalidInput: the seed is negative.
    """
    seed = as_whole(seed, "seed", least=0)
    steps = range(start, stop)
    load = partial(_load_step, images, sampler, transform, seed, rows)
    for step, (pixels, chosen, failed) in zip(steps, _decoded(load, steps, workers, clock), strict=True):
        if broken is not None:
            broken.update(failed)
        if not len(chosen):
            raise DataError(
                f"step {step} has no readable image ({broken_sentence(failed)}); replace or remove the broken images"
            )
        yield step, pixels, torch.from_numpy(images.labels[chosen])


def evaluation_batches(
    images: ImageSet,
    transform: ImageTransform,
    batch_size: int = 128,
    *,
    workers: int = 0,
    broken: dict[Path, str] | None = None,
    clock: ReadingClock | None = None,
) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
    """Yields the batches of one pass over a set, in its order.

    Args:
        images: the set.
        transform: a transform that is not random.
        batch_size: the number of images in a batch; the last batch may be smaller.
        workers: the number of processes that decode images; 0 decodes in this process.
        broken: receives the path of every image that cannot be read, with the reason.
        clock: counts how long the pass waits for its images, and how long decoding takes.

    Yields:
        (indices of the images, int64 of shape (b,); uint8 images of shape (b, c, size, size)). Broken images are left
        out: use only the labels and the query and gallery marks at these indices.

    Raises:
        InvalidInput: the transform is random.
    """
    if transform.is_random:
        raise InvalidInput("the transform is random, which evaluation must not be; pass one of test_transform")
    load = partial(_load_slice, images, transform, batch_size)
    for pixels, chosen, failed in _decoded(load, range(0, len(images), batch_size), workers, clock):
        if broken is not None:
            broken.update(failed)
        if len(chosen):
            yield chosen, pixels


def broken_sentence(broken: dict[Path, str], limit: int = 5) -> str:
    """Describes the broken images that were left out: how many there were, and the first few paths."""
    if not broken:
        return "no image was broken"
    named = ", ".join(str(path) for path in list(broken)[:limit])
    more = f" and {len(broken) - limit} more" if len(broken) > limit else ""
    return f"{len(broken)} broken image{'s' if len(broken) > 1 else ''} left out: {named}{more}"


def _decoded(
    load: Callable[[int], _Loaded], arguments: Sequence[int], workers: int, clock: ReadingClock | None
) -> Iterator[_Loaded]:
    """Yields load(argument) for each argument in order, and counts the time."""
    clock = ReadingClock() if clock is None else clock
    for loaded, seconds in clock.waits(in_order(partial(_timed, load), arguments, workers)):
        clock.decoding += seconds
        yield loaded


def _timed(load: Callable[[int], _Loaded], argument: int) -> tuple[_Loaded, float]:
    """Calls load(argument); also returns the seconds of the processor that it took."""
    began = time.process_time()
    loaded = load(argument)
    if get_worker_info() is not None:
        # The queue would do so too, but there an error (/dev/shm is full) is lost and the reader waits forever.
        loaded[0].share_memory_()  # type: ignore[no-untyped-call]
    return loaded, time.process_time() - began


class _Calls(Dataset[_T], Generic[_T]):
    """Wraps a function of a whole number as the data set that DataLoader needs to call it in its processes."""

    def __init__(self, function: Callable[[int], _T]) -> None:
        self.function = function

    def __getitem__(self, argument: int) -> _T:
        return self.function(argument)


def in_order(function: Callable[[int], _T], arguments: Sequence[int], workers: int) -> Iterator[_T]:
    """Yields function(argument) for each argument in order, computed in advance in `workers` processes.

    The processes end with this one, however it ends. With 0 workers, this process calls the function.

    Raises:
        ResourceError: one of the processes was killed.
    """
    # batch_size=None, because `load` makes a whole batch. With a separate generator, because DataLoader draws a number
    # when it starts, which must not come from the global generator.
    loader = DataLoader(
        _Calls(function),
        sampler=arguments,
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
        collate_fn=_unchanged,
    )
    others = multiprocessing.active_children()
    started = list[BaseProcess]()
    try:
        stream = iter(loader)
        started += [process for process in multiprocessing.active_children() if process not in others]
        yield from stream
    except (OSError, EOFError, RuntimeError) as error:  # reading from a dead process fails in many ways
        if dead := _killed(started):
            raise killed_loader(", ".join(str(process.pid) for process in dead)) from error
        raise


def _killed(processes: list[BaseProcess], patience: float = 1.0) -> list[BaseProcess]:
    """The processes that a signal has ended, or ends within `patience` seconds."""
    deadline, dead = time.monotonic() + patience, list[BaseProcess]()
    while processes and not dead and time.monotonic() < deadline:
        with contextlib.suppress(RuntimeError):  # torch raises it for the same dead process
            time.sleep(0.02)
            dead = [process for process in processes if (process.exitcode or 0) < 0]
    return dead


def _unchanged(loaded: Any) -> Any:
    return loaded


def _load_slice(images: ImageSet, transform: ImageTransform, batch_size: int, first: int) -> _Loaded:
    return _load(images, np.arange(first, min(first + batch_size, len(images))), transform, None)


def _load_step(
    images: ImageSet, sampler: ClassBalancedSampler, transform: ImageTransform, seed: int, rows: slice, step: int
) -> _Loaded:
    """Loads the images of a step, and replaces broken ones by others of the same class."""
    whole = sampler.batch(step)
    chosen = whole[rows]
    seeds = np.random.SeedSequence([seed, step]).generate_state(len(whole), np.uint64)[rows].tolist()
    pixels, readable, broken = _load(images, chosen, transform, seeds)
    if not broken:
        return pixels, readable, broken
    bad = set(np.setdiff1d(chosen, readable).tolist())
    used, replaced = set(readable.tolist()), []
    for index in chosen.tolist():
        substitute = _substitute(images, index, bad, used, broken) if index in bad else index
        if substitute is not None:
            replaced.append(substitute)
            used.add(substitute)
    pixels, readable, _ = _load(images, np.array(replaced, dtype=np.int64), transform, seeds)
    return pixels, readable, broken


def _substitute(images: ImageSet, index: int, bad: set[int], used: set[int], broken: dict[Path, str]) -> int | None:
    """The next readable image of the class of `index`, in cyclic order of the set; None if there is none.

    An image that is already in the batch is used only if there is no other.
    """
    mates = np.flatnonzero(images.labels == images.labels[index])
    turn = np.roll(mates, -int(np.searchsorted(mates, index))).tolist()
    for mate in sorted(turn, key=used.__contains__):
        if mate in bad:
            continue
        try:
            images.load(mate)
        except DataError as error:
            bad.add(mate)
            broken[images.path(mate)] = str(error)
            continue
        return int(mate)
    return None


def _load(
    images: ImageSet,
    chosen: npt.NDArray[np.int64],
    transform: ImageTransform,
    seeds: list[int] | None,
) -> _Loaded:
    """Reads and transforms images; the random transform at position i uses the i-th seed."""
    if images.pixels is not None and not transform.is_random:
        return transform(torch.from_numpy(images.pixels[chosen])), chosen, {}
    rows, readable, broken = [], [], {}
    state = torch.get_rng_state()
    try:
        for position, index in enumerate(chosen.tolist()):
            try:
                image = images.load(index, transform.least)
            except DataError as error:
                broken[images.path(index)] = str(error)
                continue
            if seeds is not None:  # only the generator of the CPU: torch.manual_seed would also reset those of GPUs
                torch.default_generator.manual_seed(seeds[position])
            rows.append(transform(image))
            readable.append(index)
    finally:
        torch.set_rng_state(state)
    empty = torch.empty(0, images.channels, transform.size, transform.size, dtype=torch.uint8)
    return torch.stack(rows) if rows else empty, np.array(readable, dtype=np.int64), broken
