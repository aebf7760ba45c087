"""A trained model: what opening it loads, and the former places of its names."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize(
    ("former", "name", "now"),
    [
        ("training.config", "TrainConfig", "runs.options"),
        ("training.config", "DataConfig", "runs.options"),
        ("training.trained", "load_trained", "model.trained"),
        ("training.trained", "Trained", "model.trained"),
    ],
)
def test_a_name_that_has_moved_is_had_from_its_former_place_with_a_warning(former: str, name: str, now: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"import {name} from embedding_expansion.{now}"):
        found = getattr(importlib.import_module(f"embedding_expansion.{former}"), name)
    assert found is getattr(importlib.import_module(f"embedding_expansion.{now}"), name)


@pytest.mark.parametrize("former", ["training.config", "training.trained"])
def test_a_name_that_neither_place_has_is_an_attribute_error(former: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        importlib.import_module(f"embedding_expansion.{former}").no_such_name  # noqa: B018
