"""Dynamic batching: one thread embeds the waiting images of all requests together.

The batcher does not look at the images: any value that the model accepts will do.
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

#: Seconds that shutdown waits for the batch in progress.
PATIENCE = 5.0
#: The error sentence of requests that are still waiting at shutdown.
ENDING = "the server is shutting down; try again when it is back"
Row = npt.NDArray[np.float32]
Image = TypeVar("Image")


class Busy(EmbeddingExpansionError):
    """The queue is full."""


class Stopped(EmbeddingExpansionError):
    """The server is shutting down."""


class Batcher(Generic[Image]):
    """Embeds images in batches, in a dedicated thread.

    When the model is free, all waiting images form the next batch, up to `batch_size`. The batch is delayed by at most
    `patience` seconds, and only while other requests have a place but have not delivered their image yet. A single
    image is never delayed.

    Args:
        embed: returns the vectors of 1 to `batch_size` images, and an exception for each image that has no vector. It
            is always called by the same thread.
        batch_size: the maximum number of images in a batch.
        places: the maximum number of images that are being received or are waiting. It also bounds the memory.
        patience: the longest delay of a batch, in seconds.
        observed: called with the size of each batch.
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
        """Reserves a place in the queue before the image is read.

        Yields:
            The function that submits the image and returns the future of its vector.

        Raises:
            Busy: the queue is full.
        """
        with self._changed:
            if self._taken >= self._places:
                raise Busy(f"{self._taken} images are waiting already, which is the limit; try again in a moment")
            self._taken += 1
        try:
            yield self._submit
        finally:
            with self._changed:
                self._taken -= 1
                self._changed.notify_all()

    @property
    def taken(self) -> int:
        """Number of places in use."""
        return self._taken

    def stop(self) -> None:
        """Stops after the batch in progress, or after `PATIENCE` seconds. Waiting images fail with `Stopped`."""
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
        """Waits for the next batch, without cancelled requests; empty once the batcher is stopped."""
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
        """Embeds a batch. If it fails, each image is tried alone, so that one image does not fail the others."""
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
