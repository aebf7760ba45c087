"""A loss is a function, a class in a registry, an oracle and a row of docs/losses.md: none may be missing.

The rows are compared in tests/test_docs.py.
"""

from __future__ import annotations

import inspect

from embedding_expansion.core import losses
from embedding_expansion.core.losses import LOSSES, PROXY_LOSSES

from . import oracles
from .oracles import proxy


def test_every_loss_has_an_oracle_and_no_oracle_is_left_over() -> None:
    assert set(oracles.ORACLES) == set(LOSSES)
    assert set(proxy.ORACLES) == set(PROXY_LOSSES)


def test_the_oracles_read_the_similarities_that_the_losses_read() -> None:
    assert {name: loss.metric for name, loss in LOSSES.items()} == oracles.METRICS
    assert {name for name, loss in LOSSES.items() if loss.not_expandable} == oracles.NOT_EXPANDABLE


def test_every_function_from_a_table_to_terms_has_a_class() -> None:
    functions = {
        name
        for name, function in vars(losses).items()
        if inspect.isfunction(function) and inspect.signature(function).return_annotation == "Terms"
    }
    of_proxies = {loss.function.__name__ for loss in PROXY_LOSSES.values()}
    assert functions == set(LOSSES) | of_proxies
