"""Work ahead: in order, errors where they belong, never further ahead than allowed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from embedding_expansion.inference.prefetch import prefetch


def test_outcomes_come_in_order_and_an_error_is_that_of_its_item() -> None:
    with prefetch(lambda number: 6 // number, [3, 0, 2], threads=2, most=3) as outcomes:
        found = list(outcomes)
    assert (found[0].result(), found[2].result()) == (2, 3)
    with pytest.raises(ZeroDivisionError):
        found[1].result()


def test_no_more_items_are_taken_than_may_wait() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    with prefetch(lambda item: item, items(), threads=3, most=5) as outcomes:
        for number, outcome in enumerate(outcomes):
            assert outcome.result() == number
            assert taken <= number + 5


def test_threads_work_at_the_same_time_and_ahead_of_who_takes_the_results() -> None:
    both = threading.Barrier(2, timeout=20)  # broken where one item ends before the next one begins
    with prefetch(lambda _: both.wait(), range(4), threads=2, most=4) as outcomes:
        for outcome in outcomes:
            outcome.result()


def test_whoever_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with prefetch(lambda item: item, range(1000), threads=2, most=10) as outcomes:
        assert next(outcomes).result() == 0
    assert threading.active_count() == before
