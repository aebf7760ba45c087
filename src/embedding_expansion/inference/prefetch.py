"""Prefetching: threads compute results in advance, a bounded number of them at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def prefetch(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, most: int
) -> Iterator[Iterator[Future[R]]]:
    """Computes a function of each item in threads, and yields the results in order. The threads end with the block.

    Args:
        function: the function, which is called in the threads.
        items: the items, read lazily.
        threads: the number of threads.
        most: the maximum number of results that are in progress or are waiting to be taken.

    Example:
        >>> with prefetch(abs, [-3, 2, -1], threads=2, most=2) as results:
        ...     [result.result() for result in results]
        [3, 2, 1]
    """
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield _results(pool, function, items, most)
        finally:
            pool.shutdown(cancel_futures=True)


def _results(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], most: int
) -> Iterator[Future[R]]:
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= most:
            yield waiting.popleft()
    yield from waiting
