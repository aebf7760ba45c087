"""Work that threads do a bounded number of places ahead of whoever takes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int, most: int) -> Iterator[Iterator[Future[R]]]:
    """The outcome of a function for each item, in their order. The threads end with the block.

    Args:
        function: what the threads do.
        items: read as it goes.
        threads: how many work at once.
        most: how many outcomes may wait to be taken, or be under way.

    Example:
        >>> with ahead(abs, [-3, 2, -1], threads=2, most=2) as outcomes:
        ...     [done.result() for done in outcomes]
        [3, 2, 1]
    """
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield _outcomes(pool, function, items, most)
        finally:
            pool.shutdown(cancel_futures=True)


def _outcomes(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], most: int
) -> Iterator[Future[R]]:
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= most:
            yield waiting.popleft()
    yield from waiting
