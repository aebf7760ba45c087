"""Work that threads do a bounded number of places ahead of whoever takes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(function: Callable[[T], R], items: Iterable[T], *, threads: int, most: int) -> Iterator[Future[R]]:
    """The outcome of a function for each item, in their order.

    Args:
        function: what the threads do.
        items: read as it goes.
        threads: how many work at once.
        most: how many outcomes may wait to be taken, or be under way.

    Example:
        >>> [done.result() for done in ahead(abs, [-3, 2, -1], threads=2, most=2)]
        [3, 2, 1]
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= most:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)
