"""Images of many requests go through the model together: what waits is taken at once, by one thread.

What an image is, is for the model to say: here it is handed over as it comes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from embedding_expansion.errors import EmbeddingExpansionError

#: Seconds that the end of the server waits for the batch that is being embedded.
PATIENCE = 5.0
#: What is said to whoever still waits then.
ENDING = "the server is ending; try again when it is back"
Row = npt.NDArray[np.float32]
Image = TypeVar("Image")


class Busy(EmbeddingExpansionError):
    """As many images wait as may wait."""


class Stopped(EmbeddingExpansionError):
    """The server is ending."""


class Batcher(Generic[Image]):
    """Embeds images in batches, in a thread of its own.

    A batch is whatever waits when the model is free, up to `batch_size`. Only if others have a place but not yet an
    image does it wait for them, `patience` seconds at most; so an image alone is never kept waiting.

    Args:
        embed: gives the vectors of 1 to `batch_size` images, an exception in the place of one that has none; called by
            one thread.
        batch_size: the most images of a batch.
        places: images that are being received or wait, at most. It bounds the memory as well.
        patience: in seconds.
        observed: told the size of each batch.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[Image]], Sequence[Row | Exception]],
        *,
        batch_size: int,
        places: int,
        patience: float = 0.004,
        observed: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._embed, self._batch_size, self._places, self._patience = embed, batch_size, places, patience
        self._observed = observed
        self._waiting: deque[tuple[Image, Future[Row]]] = deque()
        self._taken, self._is_stopped = 0, False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="embex-model", daemon=True)
        self._thread.start()

    @contextmanager
    def place(self) -> Iterator[Callable[[Image], Future[Row]]]:
        """Takes a place before the image is read, and gives the function that hands the image over.

        Raises:
            Busy: all are taken.
        """
        with self._changed:
            if self._taken >= self._places:
                raise Busy(f"{self._taken} images wait already, and no more may; try again in a moment")
            self._taken += 1
        try:
            yield self._submit
        finally:
            with self._changed:
                self._taken -= 1
                self._changed.notify_all()

    @property
    def taken(self) -> int:
        """Places that are taken now."""
        return self._taken

    def stop(self) -> None:
        """Ends after the batch that is being embedded, unless that takes long; whoever waits is told so."""
        with self._changed:
            self._is_stopped = True
            while self._waiting:
                _settle(self._waiting.popleft()[1], Stopped(ENDING))
            self._changed.notify_all()
        self._thread.join(PATIENCE)

    def _submit(self, image: Image) -> Future[Row]:
        future: Future[Row] = Future()
        with self._changed:
            if self._is_stopped:
                raise Stopped(ENDING)
            self._waiting.append((image, future))
            self._changed.notify_all()
        return future

    def _work(self) -> None:
        while batch := self._next():
            images = [image for image, _ in batch]
            self._observed(len(images))
            for (_, future), result in zip(batch, self._results(images), strict=True):
                _settle(future, result)

    def _next(self) -> list[tuple[Image, Future[Row]]]:
        """The next batch, without those who have given up; empty when it is stopped."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._is_stopped)
                if self._is_stopped:
                    return []
                self._changed.wait_for(self._is_worth_starting, self._patience)
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._batch_size))]
                batch = [(image, future) for image, future in taken if future.set_running_or_notify_cancel()]
                if batch:
                    return batch

    def _is_worth_starting(self) -> bool:
        return self._is_stopped or len(self._waiting) >= min(self._taken, self._batch_size)

    def _results(self, images: list[Image]) -> Sequence[Row | Exception]:
        """Of a batch that fails as a whole each image is tried alone, so that one does not fail the others."""
        try:
            return self._embed(images)
        except Exception as error:
            if len(images) == 1:
                return [error]
        return [self._results([image])[0] for image in images]


def _settle(future: Future[Any], result: Row | Exception) -> None:
    if future.cancelled():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
