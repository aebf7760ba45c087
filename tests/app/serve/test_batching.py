"""Batches of a slow model: who is embedded with whom, what fails alone, and how many may wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from app.serve.conftest import wait_for
from embedding_expansion.app.serve.batching import Batcher, Busy, Row, Stopped


class SlowModel:
    """Gives each image its length as a vector; holds every batch until it is let go. b"bad" breaks the whole batch."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.may_go = threading.Semaphore(0)

    def __call__(self, images: Sequence[bytes]) -> list[Row | Exception]:
        self.batches.append(list(images))
        self.may_go.acquire()
        if b"bad" in images:
            raise ValueError("bad")
        return [ValueError("odd") if image == b"odd" else np.array([len(image)], np.float32) for image in images]


@contextmanager
def batching(model: SlowModel, **options: Any) -> Iterator[tuple[Batcher, ExitStack]]:
    batcher = Batcher(model, **{"batch_size": 4, "places": 16, **options})
    with ExitStack() as places:
        yield batcher, places
        for _ in range(100):
            model.may_go.release()
        batcher.stop()


def submit(batcher: Batcher, places: ExitStack, image: bytes) -> Future[Row]:
    return places.enter_context(batcher.place())(image)


def test_what_waits_while_the_model_is_busy_goes_through_it_together() -> None:
    model = SlowModel()
    with batching(model) as (batcher, places):
        futures = [submit(batcher, places, b"x")]
        wait_for(lambda: len(model.batches) == 1)
        futures += [submit(batcher, places, b"x" * n) for n in range(2, 8)]
        for done in range(3):
            wait_for(lambda done=done: len(model.batches) > done)
            model.may_go.release()
        assert [float(future.result(60)[0]) for future in futures] == [1, 2, 3, 4, 5, 6, 7]
        assert [len(batch) for batch in model.batches] == [1, 4, 2]


def test_requests_of_many_threads_each_get_their_own_vector() -> None:
    model, sizes = SlowModel(), list[int]()
    for _ in range(1000):
        model.may_go.release()
    batcher = Batcher(model, batch_size=8, places=64, observed=sizes.append)

    def one(length: int) -> float:
        with batcher.place() as hand_over:
            return float(hand_over(b"x" * length).result(60)[0])

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(one, range(300))) == list(range(300))
    batcher.stop()
    assert sum(sizes) == 300
    assert max(sizes) <= 8


def test_it_waits_for_an_image_that_is_still_being_received_but_not_for_long() -> None:
    model = SlowModel()
    with batching(model, patience=60.0) as (batcher, places):
        late = places.enter_context(batcher.place())
        submit(batcher, places, b"x")
        late(b"xx")
        wait_for(lambda: len(model.batches) == 1)
        assert model.batches == [[b"x", b"xx"]]
    model = SlowModel()
    with batching(model) as (batcher, places):
        places.enter_context(batcher.place())
        submit(batcher, places, b"x")
        wait_for(lambda: model.batches == [[b"x"]])


def test_an_image_that_fails_does_not_fail_the_others_of_its_batch() -> None:
    model = SlowModel()
    with batching(model) as (batcher, places):
        first = submit(batcher, places, b"first")
        wait_for(lambda: len(model.batches) == 1)
        odd, fine, bad = (submit(batcher, places, image) for image in (b"odd", b"fine", b"bad"))
        for _ in range(10):
            model.may_go.release()
        assert (first.result(60)[0], fine.result(60)[0]) == (5, 4)
        with pytest.raises(ValueError, match="odd"):
            odd.result(60)
        with pytest.raises(ValueError, match="bad"):
            bad.result(60)
        assert model.batches[1:] == [[b"odd", b"fine", b"bad"], [b"odd"], [b"fine"], [b"bad"]]


def test_no_more_wait_than_may() -> None:
    model = SlowModel()
    with batching(model, places=2) as (batcher, _):
        with batcher.place() as first, batcher.place():
            assert batcher.taken == 2
            with pytest.raises(Busy, match="2 images are waiting already"), batcher.place():
                pass
            first(b"x")
        assert batcher.taken == 0
        with batcher.place():
            pass


def test_whoever_gives_up_is_not_embedded() -> None:
    model = SlowModel()
    with batching(model) as (batcher, places):
        submit(batcher, places, b"first")
        wait_for(lambda: len(model.batches) == 1)
        gone, stays = submit(batcher, places, b"gone"), submit(batcher, places, b"stays")
        gone.cancel()
        model.may_go.release()
        wait_for(lambda: len(model.batches) == 2)
        assert model.batches[1] == [b"stays"]
        model.may_go.release()
        assert stays.result(60)[0] == 5
        with pytest.raises(CancelledError):
            gone.result(60)


def test_stopping_ends_the_batch_and_tells_those_who_wait() -> None:
    model = SlowModel()
    batcher = Batcher(model, batch_size=1, places=8)
    with ExitStack() as places:
        running = submit(batcher, places, b"x")
        wait_for(lambda: len(model.batches) == 1)
        waiting = submit(batcher, places, b"xx")
        stopping = threading.Thread(target=batcher.stop)
        stopping.start()
        with pytest.raises(Stopped, match="the server is shutting down"):
            waiting.result(60)
        model.may_go.release()
        stopping.join(60)
        assert running.result(60)[0] == 1
        with pytest.raises(Stopped):
            submit(batcher, places, b"x")
