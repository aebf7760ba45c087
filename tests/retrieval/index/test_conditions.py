"""Filtered searches against comparing with every item, for conditions of any shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.errors import InvalidType, UnknownName
from embedding_expansion.retrieval.index import Index, Item, create_index
from retrieval.index.brute_force import Expected, fulfils, same, vectors

# Few values of each kind, so that conditions often hold; neighbours of one another in every way that could be mixed up.
NAMES = ["a", "a/", "a/b", "b", "", "\udcff", "\udcff\udcff", "%", "a_", "ü", "日"]
VALUES = [0, 1, 1.0, 1.5, True, False, "1", "true", "", "a", "ü\udcff", "x\x00", None, [1], {"a": 1}, 10**30, -(2**63)]
ASKED = [value for value in VALUES if not isinstance(value, (list, dict))]
KEYS = ["k", "label", "ü", ""]


@pytest.fixture
def empty(place: str) -> Iterator[Index]:
    with create_index(place, 8) as index:
        yield index


def one_or_more(values: list[Any]) -> st.SearchStrategy[Any]:
    single = st.sampled_from(values)
    return single | st.lists(single, max_size=3)


ITEMS = st.builds(
    Item,
    path=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join),
    label=st.sampled_from([*NAMES, None]),
    metadata=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)),
)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "label": one_or_more([*NAMES, None]),
        "path": one_or_more(NAMES),
        "path_prefix": st.sampled_from(NAMES),
        "path_contains": st.sampled_from([*NAMES, "A", "B/"]),
        "label_contains": st.sampled_from([*NAMES, "A", "A_", "/", "Ü"]),
        "metadata": st.dictionaries(st.sampled_from(KEYS), one_or_more(ASKED), max_size=2),
    },
)


@given(
    rows=st.lists(ITEMS, max_size=25, unique_by=lambda item: item.path), conditions=st.lists(CONDITIONS, min_size=20)
)
def test_a_condition_means_what_it_says(rows: list[Item], conditions: list[dict[str, Any]], empty: Index) -> None:
    empty.remove({"path_prefix": ""})
    expected = Expected()
    expected.add(empty, rows, vectors(len(rows)))
    query = vectors(1, seed=1)
    for where in conditions:
        same(empty.search(query, 4, where)[0], expected.search(query[0], 4, where))
        assert empty.count(where) == sum(fulfils(row, where) for row in rows)


def with_rare(place: str, kind: str) -> Index:
    index = create_index(place, 8, kind=kind)
    index.add([Item(str(i), "rare" if i % 100 == 0 else "common") for i in range(1500)], vectors(1500))
    return index


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_filtered_search_finds_k_wherever_k_match(place: str, kind: str) -> None:
    with with_rare(place, kind) as index:
        for query in vectors(10, seed=2):
            found = index.search(query[None], 15, {"label": "rare"})[0]
            assert len({match.item.id for match in found}) == 15
            assert {match.item.label for match in found} == {"rare"}
        assert len(index.search(vectors(1), 1500)[0]) == 1500


def test_a_list_may_be_longer_than_a_database_takes_parameters(place: str) -> None:
    with create_index(place, 8) as index:
        index.add([Item(str(i)) for i in range(3)], vectors(3))
        assert index.count({"path": [str(i) for i in range(100_000)]}) == 3


def test_quotes_and_sql_in_values_are_values(place: str) -> None:
    evil = "'; DROP TABLE items; --"
    with create_index(place, 8) as index:
        index.add([Item(evil, evil, {evil: evil}), Item("b")], vectors(2))
        assert index.count({"path": evil, "label": evil, "metadata": {evil: evil}, "path_prefix": "';"}) == 1
        assert index.count() == 2


def test_a_condition_of_unknown_shape_is_refused(place: str) -> None:
    with create_index(place, 8) as index:
        with pytest.raises(UnknownName, match="there is no key of where named 'lable'; did you mean 'label'"):
            index.count({"lable": "a"})
        with pytest.raises(InvalidType, match="where is a str; pass a dict"):
            index.count("label = 'a'")
        with pytest.raises(InvalidType, match=r"where\['label'\] is a int; pass a str"):
            index.count({"label": 3})
        with pytest.raises(InvalidType, match=r"where\['metadata'\]\['a'\] is a dict; pass a text"):
            index.count({"metadata": {"a": {"b": 1}}})
        with pytest.raises(InvalidType, match=r"where\['metadata'\] is a str"):
            index.count({"metadata": "a"})
