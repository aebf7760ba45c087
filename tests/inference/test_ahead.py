"""Work ahead: in order, errors where they belong, never further ahead than allowed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from embedding_expansion.inference.ahead import ahead


def test_outcomes_come_in_order_and_an_error_is_that_of_its_item() -> None:
    found = list(ahead(lambda number: 6 // number, [3, 0, 2], threads=2, most=3))
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

    for number, outcome in enumerate(ahead(lambda item: item, items(), threads=3, most=5)):
        assert outcome.result() == number
        assert taken <= number + 5


def test_whoever_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    outcomes = ahead(lambda item: item, range(1000), threads=2, most=10)
    assert next(outcomes).result() == 0
    outcomes.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
