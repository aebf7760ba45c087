from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.data.sampler import ClassBalancedSampler
from embedding_expansion.errors import InvalidInput

SIZES = st.lists(st.integers(1, 7), min_size=2, max_size=9)


def labels_of(sizes: list[int]) -> npt.NDArray[np.int64]:
    """Labels with gaps, in no order."""
    labels = np.repeat(3 * np.arange(len(sizes)) + 5, sizes)
    return np.random.default_rng(0).permutation(labels)


@given(SIZES, st.integers(1, 9), st.integers(1, 8), st.integers(0, 3))
def test_every_batch_has_p_classes_with_k_images_side_by_side(sizes: list[int], p: int, k: int, seed: int) -> None:
    labels, p = labels_of(sizes), min(p, len(sizes))
    sampler = ClassBalancedSampler(labels, p, k, seed)
    for step in range(30):
        rows = sampler.batch(step).reshape(p, k)
        classes = labels[rows]
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0].tolist())) == p
        for row in rows:  # no repeats where the class has enough; otherwise as even as can be
            size = int((labels == labels[row[0]]).sum())
            counts = Counter(row.tolist())
            assert max(counts.values()) - (min(counts.values()) if len(counts) == size else 0) <= 1
            assert len(counts) == min(size, k)


@given(SIZES, st.integers(1, 9), st.integers(0, 3))
def test_every_class_is_seen_once_per_round_before_one_comes_again(sizes: list[int], p: int, seed: int) -> None:
    labels, p = labels_of(sizes), min(p, len(sizes))
    sampler = ClassBalancedSampler(labels, p, 1, seed)
    seen = np.concatenate([labels[sampler.batch(step)] for step in range(4 * len(sizes))])
    for start in range(0, len(seen), len(sizes)):
        assert len(set(seen[start : start + len(sizes)].tolist())) == len(sizes)


@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 3))
def test_every_image_of_a_class_is_seen_once_per_round_before_one_comes_again(size: int, k: int, seed: int) -> None:
    sampler = ClassBalancedSampler(np.zeros(size, dtype=np.int64), 1, min(k, size), seed)
    seen = np.concatenate([sampler.batch(step) for step in range(3 * size)])
    for start in range(0, len(seen), size):
        assert set(seen[start : start + size].tolist()) == set(range(size))


@given(SIZES, st.integers(0, 3))
def test_a_batch_depends_on_the_seed_and_the_step_alone(sizes: list[int], seed: int) -> None:
    labels = labels_of(sizes)
    forwards = ClassBalancedSampler(labels, 2, 3, seed)
    stream = [forwards.batch(step) for step in range(25)]
    backwards = ClassBalancedSampler(labels, 2, 3, seed)
    for step in reversed(range(25)):
        assert np.array_equal(backwards.batch(step), stream[step])
    assert np.array_equal(ClassBalancedSampler(labels, 2, 3, seed).batch(17), stream[17])


def test_another_seed_gives_other_batches() -> None:
    labels = np.repeat(np.arange(20), 10)
    assert not np.array_equal(
        ClassBalancedSampler(labels, 8, 4, 0).batch(3), ClassBalancedSampler(labels, 8, 4, 1).batch(3)
    )


def test_rounds_and_images_are_shuffled_and_not_in_the_order_of_the_set() -> None:
    sampler = ClassBalancedSampler(np.repeat(np.arange(50), 20), 50, 20, 0)
    first, second = (sampler.batch(step) for step in (0, 1))
    assert not np.array_equal(first, np.arange(1000))
    assert not np.array_equal(first, second)
    assert np.array_equal(np.sort(first), np.arange(1000))


def test_what_cannot_be_sampled_is_refused() -> None:
    labels = np.array([0, 0, 1, 1])
    with pytest.raises(InvalidInput, match="3 classes per batch were asked for but the images have 2 classes"):
        ClassBalancedSampler(labels, 3, 2, 0)
    with pytest.raises(InvalidInput, match="images_per_class is 0; pass a whole number of at least 1"):
        ClassBalancedSampler(labels, 2, 0, 0)
    with pytest.raises(InvalidInput, match="seed is -1; pass a whole number of at least 0"):
        ClassBalancedSampler(labels, 2, 2, -1)
