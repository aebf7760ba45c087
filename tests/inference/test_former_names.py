"""Names of inference that have changed work for one release, with a warning."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(
    ("former", "name", "now", "new"),
    [
        ("of_vectors", "VectorEmbedder", "vector_embedder", "VectorEmbedder"),
        ("indexing", "Report", "indexing", "IndexingReport"),
        ("client", "Found", "client", "ClientMatch"),
        ("client", "Result", "client", "ClientAnswer"),
    ],
)
def test_a_former_name_warns_and_is_the_new_one(former: str, name: str, now: str, new: str) -> None:
    room = "embedding_expansion.inference"
    with pytest.warns(DeprecationWarning, match=new):
        found = getattr(importlib.import_module(f"{room}.{former}"), name)
    assert found is getattr(importlib.import_module(f"{room}.{now}"), new)


@pytest.mark.parametrize("module", ["of_vectors", "indexing", "client"])
def test_a_name_that_never_was_is_an_attribute_error(module: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        importlib.import_module(f"embedding_expansion.inference.{module}").no_such_name  # noqa: B018
