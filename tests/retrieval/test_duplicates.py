"""Near-duplicates against two plain loops: pairs, groups, the closest row, limits, and squares that cut a group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.retrieval import duplicates
from embedding_expansion.retrieval.duplicates import near_duplicates

Rows = npt.NDArray[np.float32]


def drawn(seed: int, n: int, d: int = 5, copies: int = 12) -> Rows:
    """Rows at random, some of them copied with a little noise, and some copied as they are."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((n, d))
    for _ in range(copies if n else 0):
        one, two = random.integers(0, n, 2)
        rows[one] = rows[two] * random.uniform(0.5, 2) + random.choice([0, 0.05]) * random.standard_normal(d)
    return np.asarray(rows, np.float32)


def by_loops(rows: Rows, threshold: float) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Pairs in the order of their rows, and groups by walking from row to row."""
    units = np.asarray(rows, np.float64)
    units = (units / np.linalg.norm(units, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    n = len(rows)
    near = {(i, j) for i in range(n) for j in range(n) if i != j and float(units[i] @ units[j]) >= threshold}
    groups, seen = [], set[int]()
    for start in range(n):
        group, ahead = set[int](), [start]
        while ahead:
            row = ahead.pop()
            if row not in group:
                group.add(row)
                ahead += [j for i, j in near if i == row]
        if start not in seen and len(group) > 1:
            groups.append(sorted(group))
        seen |= group
    return sorted((i, j) for i, j in near if i < j), sorted(groups, key=lambda group: (-len(group), group[0]))


@given(seed=st.integers(0, 10**6), n=st.integers(0, 45), threshold=st.sampled_from([0.3, 0.9, 0.98, 0.9999]))
def test_pairs_and_groups_are_those_of_two_loops(seed: int, n: int, threshold: float) -> None:
    rows = drawn(seed, n)
    pairs, groups = by_loops(rows, threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "SIDE", 7)  # so that groups reach over several squares
        patch.setattr(duplicates, "NUMBERS", 20)
        found = near_duplicates(rows, threshold)
    assert sorted(map(tuple, found.pairs.tolist())) == pairs
    assert found.number_of_pairs == len(pairs)
    assert [group.tolist() for group in found.groups] == groups
    order = list(zip((-found.similarities).tolist(), found.pairs.tolist(), strict=True))
    assert order == sorted(order)


@given(seed=st.integers(0, 10**6))
def test_how_the_table_is_cut_changes_nothing(seed: int) -> None:
    rows = drawn(seed, 60)
    whole = near_duplicates(rows, 0.95)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "SIDE", 11)
        cut = near_duplicates(rows, 0.95)
    for name in ("pairs", "similarities", "closest", "similarity"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))
    assert [group.tolist() for group in cut.groups] == [group.tolist() for group in whole.groups]


def test_the_closest_row_is_the_most_similar_duplicate_and_of_equal_ones_the_first() -> None:
    rows = np.array([[1, 0], [1, 0], [0, 1], [1, 0.002], [1, 0]], np.float32)
    found = near_duplicates(rows, 0.9)
    assert found.closest.tolist() == [1, 0, -1, 0, 0]
    assert np.isnan(found.similarity).tolist() == [False, False, True, False, False]
    assert found.similarity[3] < 1 == found.similarity[0]


def test_a_group_is_a_chain_and_its_ends_need_not_be_alike() -> None:
    turns = np.arange(40) * 0.1
    rows = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    found = near_duplicates(rows, 0.99)
    assert [group.tolist() for group in found.groups] == [list(range(40))]
    assert found.number_of_pairs == 39


def test_the_most_similar_pairs_are_kept_and_groups_are_of_all() -> None:
    rows = drawn(3, 50, copies=40)
    whole = near_duplicates(rows, 0.5)
    assert whole.number_of_pairs > 10
    few = near_duplicates(rows, 0.5, most_pairs=10)
    assert few.number_of_pairs == whole.number_of_pairs
    np.testing.assert_array_equal(few.pairs, whole.pairs[:10])
    assert [group.tolist() for group in few.groups] == [group.tolist() for group in whole.groups]


def test_where_all_rows_are_equal_there_is_one_group_of_all() -> None:
    found = near_duplicates(np.ones((300, 8), np.float32), 0.98, most_pairs=5)
    assert [group.tolist() for group in found.groups] == [list(range(300))]
    assert found.number_of_pairs == 300 * 299 // 2
    assert found.pairs.tolist() == [[0, 1], [0, 2], [0, 3], [0, 4], [0, 5]]


def test_a_cosine_of_just_the_threshold_is_a_duplicate() -> None:
    rows = np.array([[1, 1, 1, 1], [1, 1, 1, -1]], np.float32)  # their cosine is 1/2, exactly
    assert near_duplicates(rows, 0.5).pairs.tolist() == [[0, 1]]
    assert near_duplicates(rows, np.nextafter(0.5, 1)).pairs.tolist() == []
    (similarity,) = near_duplicates(drawn(0, 2, copies=0) + 3, 0.01).similarities  # and one like any other
    assert near_duplicates(drawn(0, 2, copies=0) + 3, similarity).number_of_pairs == 1
    assert near_duplicates(drawn(0, 2, copies=0) + 3, np.nextafter(similarity, 1)).number_of_pairs == 0


@pytest.mark.parametrize(("angle", "equal"), [(1.40e-3, True), (1.43e-3, False)])
def test_a_cosine_from_0_999999_on_is_a_duplicate_at_1(angle: float, equal: bool) -> None:
    rows = np.array([[1, 0], [np.cos(angle), np.sin(angle)]])  # the cosine is 0.999999 at an angle of 1.414e-3
    found = near_duplicates(rows, 1)
    assert (found.number_of_pairs, found.similarities.tolist()) == ((1, [1.0]) if equal else (0, []))


def test_pairs_that_wait_to_be_sorted_take_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    side, most, held = 8, 10, []
    sort = duplicates._most_similar
    monkeypatch.setattr(duplicates, "SIDE", side)
    monkeypatch.setattr(
        duplicates, "_most_similar", lambda parts, most: held.append(sum(len(p) for p, _ in parts)) or sort(parts, most)
    )
    found = near_duplicates(np.ones((40, 3)), most_pairs=most)
    assert found.number_of_pairs == 40 * 39 // 2
    # What is kept, and the pairs of the last square; sorted only where there is more than twice what is asked for.
    assert max(held) <= 2 * most + side**2
    assert min(held[:-1]) > 2 * most


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_rows_have_no_duplicates(n: int) -> None:
    found = near_duplicates(np.ones((n, 3)))
    assert (found.groups, found.number_of_pairs, found.closest.tolist()) == ([], 0, [-1] * n)


@pytest.mark.parametrize("threshold", [0, -0.5, 1.0001, float("nan"), float("inf")])
def test_a_threshold_that_is_no_cosine_is_refused(threshold: float) -> None:
    with pytest.raises(InvalidInput, match="threshold is"):
        near_duplicates(np.eye(3), threshold)


def test_other_bad_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(InvalidType, match="threshold is 'high'"):
        near_duplicates(np.eye(3), "high")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="most_pairs is 0"):
        near_duplicates(np.eye(3), most_pairs=0)
    with pytest.raises(InvalidInput, match=r"shape \(3,\)"):
        near_duplicates(np.ones(3))
    with pytest.raises(InvalidInput, match="row 1 of vectors has only zeros"):
        near_duplicates(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(InvalidType, match="int64"):
        near_duplicates(np.eye(3, dtype=np.int64))
