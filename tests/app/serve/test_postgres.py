"""An index in a real PostgreSQL is served as one in a folder is, and what changes in it is seen."""

from __future__ import annotations

from pathlib import Path

from app.serve.conftest import fill, item_of, serving, wait_for
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.retrieval.index import open_index
from retrieval.index.conftest import postgres_place, server

__all__ = ["postgres_place", "server"]


def test_an_index_in_postgresql_is_served(
    postgres_place: str, model: Path, embedder: Embedder, photos: list[Path]
) -> None:
    fill(postgres_place, model, embedder, photos[:8]).close()
    with serving(postgres_place) as running, open_index(postgres_place) as index:
        about = running.get("/api/about").json()
        assert (about["name"], about["count"]) == (postgres_place.rpartition("=")[2], 8)
        wait_for(lambda: len(running.get("/api/map").json()["ids"]) == 8)
        states = [index.state]
        index.add([item_of(photos[0], "renamed")], embedder.embed(photos[0]))
        states.append(index.state)
        assert running.search(photos[0].read_bytes()).json()["matches"][0]["label"] == "renamed"
        wait_for(lambda: "renamed" in running.get("/api/map").json()["labels"])
        index.remove(paths=[str(photos[0])])
        states.append(index.state)
        wait_for(lambda: len(running.get("/api/map").json()["ids"]) == 7)
        assert len(set(states)) == 3
