"""Several processes on one index: one writes, the others read."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from embedding_expansion.errors import StoreError
from embedding_expansion.retrieval.index import Item, create_index, open_index
from retrieval.index.brute_force import items, vectors

READER = """
import sys
import numpy as np
from embedding_expansion.retrieval.index import open_index
with open_index(sys.argv[1]) as index:
    print("ready", flush=True)
    seen = set()
    while True:
        labels = {match.item.label for match in index.search(np.ones((1, 8)), 50)[0]}
        seen.add(frozenset(labels))
        if labels == {"end"}:
            break
    print(sorted(sorted(labels) for labels in seen))
"""


def test_readers_see_every_change_whole_while_another_process_writes(place: str) -> None:
    with create_index(place, 8) as index:
        names = [f"{i}.jpg" for i in range(50)]
        index.add([Item(name, "0") for name in names], vectors(50))
        readers = [
            subprocess.Popen([sys.executable, "-c", READER, place], stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
        for step in [*range(1, 15), "end"]:
            index.add([Item(name, str(step)) for name in names], vectors(50, seed=len(str(step))))
        for reader in readers:
            out, _ = reader.communicate(timeout=60)
            assert reader.returncode == 0
            assert "['end']" in out
            assert all("," not in labels for labels in out.strip("[]\n").split("], ["))  # one label at a time


def test_a_second_writer_is_told_so(place: str) -> None:
    with create_index(place, 8) as index, open_index(place) as second:
        with index.loading("photos") as load:
            load.add(items(2), vectors(2))
            for write in (
                lambda: second.add(items(1), vectors(1)),
                lambda: second.remove({"label": "x"}),
                lambda: second.set_note("a", 1),
                lambda: second.build(),
            ):
                with pytest.raises(StoreError, match="is being written by another process; wait for it to end"):
                    write()
            assert second.count() == 0
            assert second.search(vectors(1), 3) == [[]]
        assert second.count() == 2
        second.add(items(3, start=5), vectors(3))
        assert index.count() == 5
        assert len(index.search(vectors(1), 9)[0]) == 5


def test_threads_share_an_index(place: str) -> None:
    with create_index(place, 8) as index:
        index.add(items(30), vectors(30))
        wanted = [index.search(vectors(4, seed=1), 5, {"path_prefix": prefix}) for prefix in ("a", "b")]
        found: list[object] = []

        def work(number: int) -> None:
            for step in range(5):
                index.add([Item(f"far {number} {step}")], -vectors(1, seed=1))
                found.append(index.search(vectors(4, seed=1), 5, {"path_prefix": "a"}))
                found.append(index.search(vectors(4, seed=1), 5, {"path_prefix": "b"}))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 30
        assert all(one in wanted for one in found)
        assert index.count() == 45
