"""The search in C and the search in torch: the same winners, values and gradients, whatever the search is for."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import expand, hardest
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.search import native

from .batches import batch, batch_for

SCOPES = ["class_pair", "anchor", "negative"]
POINTS = [0, 1, 2, 8]
every_scope = pytest.mark.parametrize("scope", SCOPES)
every_n = pytest.mark.parametrize("n", POINTS)


@pytest.fixture(autouse=True)
def both_are_there() -> None:
    """A machine with a compiler has both; one without has nothing to compare."""
    if not native.available():
        pytest.skip("the package was installed without its native kernel, or EMBEX_NATIVE is 0")


def both(E: Tensor, labels: Tensor, n: float, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Values, and the gradient of a random combination of them, of either search."""
    found = []
    for search in (expand, torch_search):
        rows = E.clone().requires_grad_()
        pairs = search(rows, labels, n, **options)
        mask = pairs.negative_mask
        weights = torch.linspace(-1, 2, int(mask.sum()), dtype=E.dtype)
        value = (pairs.negative[mask] * weights).sum() + pairs.positive[pairs.positive_mask].sum()
        found.append([pairs.negative[mask].detach(), torch.autograd.grad(value, rows)[0]])
    return found[0], found[1]


def torch_search(*given: Any, **options: Any) -> Pairs:
    with native.disabled():
        return expand(*given, **options)


def assert_same(E: Tensor, labels: Tensor, n: float, **options: Any) -> None:
    ours, theirs = both(E, labels, n, **options)
    rounding = {"rtol": 1e-9, "atol": 1e-10} if E.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **rounding)


@every_scope
@pytest.mark.parametrize("n", [*POINTS, math.inf])  # infinity: the gradients only
@pytest.mark.parametrize("metric", ["euclidean", "inner"])
@pytest.mark.parametrize("normalize", [True, False])
def test_values_and_gradients_are_the_same(normalize: bool, metric: str, n: float, scope: str) -> None:
    for seed, d in enumerate([3, 5, 8, 40] if n == math.inf else [2, 3, 8, 40]):  # in a plane arcs meet: no one winner
        E, labels = batch_for(scope, seed, d=d, unit=normalize)
        assert_same(E, labels, n, scope=scope, normalize_synthetic=normalize, metric=metric)


@every_scope
@every_n
def test_winners_are_the_same(n: float, scope: str) -> None:
    E, labels = batch((8, 8, 6, 6, 2, 2) if scope == "anchor" else (9, 1, 5, 5, 2), d=16, paired=scope == "anchor")
    ours = hardest(E, labels, n, scope=scope)
    with native.disabled():
        theirs = hardest(E, labels, n, scope=scope)
    classes, of_row = torch.unique(labels, return_inverse=True)
    rows = of_row if scope != "class_pair" else torch.arange(len(classes))
    other = rows[:, None] != torch.arange(len(classes))
    assert (ours.ends[other] == theirs.ends[other]).all()
    assert (ours.is_synthetic[other] == theirs.is_synthetic[other]).all()
    torch.testing.assert_close(ours.weights[other], theirs.weights[other])


@every_scope
@every_n
def test_single_precision_differs_by_rounding(n: float, scope: str) -> None:
    E, labels = batch_for(scope, 3, d=16)
    single = E.float()
    ours, _ = both(single, labels, n, scope=scope)
    exact, _ = both(E, labels, n, scope=scope)
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-5, atol=1e-5)


@every_n
def test_in_a_larger_batch_pruning_loses_nothing(n: float) -> None:
    for unclustered in (True, False):
        generator = torch.Generator().manual_seed(7)
        labels = torch.arange(32).repeat_interleave(4)
        E = torch.randn(128, 24, generator=generator, dtype=torch.float64)
        E = E if unclustered else E[::4].repeat_interleave(4, dim=0) + 0.3 * E
        assert_same(E / E.norm(dim=1, keepdim=True), labels, n)


@every_n
@pytest.mark.parametrize(
    "options", [{"max_segments": 1}, {"max_segments": 3}, {"rows": torch.tensor([7, 0, 3])}], ids=str
)
def test_with_fewer_segments_or_anchors(options: dict[str, Any], n: float) -> None:
    E, labels = batch_for("class_pair", 2)
    assert_same(E, labels, n, **options)


@every_scope
@every_n
def test_with_a_memory(n: float, scope: str) -> None:
    E, labels = batch_for(scope, 4)
    past = torch.zeros(len(labels), dtype=torch.bool)
    past[[1, 2, 3, 6]] = True
    assert_same(E, labels, n, scope=scope, from_memory=past)


@every_scope
@every_n
def test_against_a_reference(n: float, scope: str) -> None:
    E, labels = batch_for(scope, 4)
    reference, reference_labels = batch_for(scope, 9)
    assert_same(E, labels, n, scope=scope, reference=reference, reference_labels=reference_labels, partners=False)


def test_ties_have_the_same_winner_in_both() -> None:
    E = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 1, 0, 1, 2, 3]]
    for n in (0, 1, 2):
        ours = hardest(E, [0, 0, 1, 1, 2, 2, 3, 3], n)
        with native.disabled():
            theirs = hardest(E, [0, 0, 1, 1, 2, 2, 3, 3], n)
        off = ~torch.eye(4, dtype=torch.bool)
        assert (ours.ends[off] == theirs.ends[off]).all()


def test_a_variable_turns_the_native_search_off() -> None:
    code = "from embedding_expansion.core.search import native; print(native.available(), native.describe())"
    for value, expected in (("0", "False torch (no native kernel)"), ("1", "True native")):
        ran = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"EMBEX_NATIVE": value}, capture_output=True, text=True
        )
        assert ran.stdout.startswith(expected), ran.stderr


def test_several_threads_find_what_one_does() -> None:
    labels = torch.arange(400).repeat_interleave(2)
    E = torch.nn.functional.normalize(torch.randn(800, 16), dim=1)
    loss = EmbeddingExpansion(LOSSES["multi_similarity"](), n=2)
    threads = torch.get_num_threads()
    try:
        values = []
        for count in (1, 4):
            torch.set_num_threads(count)
            values.append(loss(E, labels))
        assert values[0] == pytest.approx(float(values[1]), rel=1e-6)
    finally:
        torch.set_num_threads(threads)


def test_a_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    native.library.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(native, "_NativeProblem", native._NativeSide)
        assert native.library() is None
    native.library.cache_clear()
    assert native.available()


def test_threads_of_python_search_at_once() -> None:
    E, labels = batch((4, 4, 4, 4), d=8)
    expected = expand(E, labels, 3).negative
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: expand(E, labels, 3).negative, range(40)):
            assert torch.equal(found, expected)
