"""The search in Triton, run by Triton's interpreter on the CPU, against the other two forms; see `test_triton.py`.

A process of its own runs this file, as Triton reads TRITON_INTERPRET once, when it is loaded.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime import interpreter

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import expand, hardest
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.search import native, triton

from .batches import batch

# NumPy, which the interpreter uses, warns of divisions by 0 whose results no lane takes.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
SCOPES = ("class_pair", "anchor", "negative")
POINTS = (0, 1, 2, 8, math.inf)
LOWEST = (2, 13)  # of torch, for compiled code
SIZES = {"class_pair": (4, 1, 2), "anchor": (4, 2), "negative": (2, 1, 2)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter adapts `triton.language` for every call inside a kernel, which takes most of its time."""
    adapt, launch, adapted = interpreter._patch_lang, interpreter.GridExecutor.__call__, set()

    def once(function: Any) -> Any:
        if function not in adapted:
            adapted.add(function)
            return adapt(function)
        return None

    def launched(self: Any, *given: Any, **named: Any) -> None:
        adapted.clear()
        launch(self, *given, **named)

    monkeypatch.setattr(interpreter, "_patch_lang", once)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launched)


def with_gradient(E: Tensor, labels: Tensor, n: float, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Values, and the gradient of a random combination of them; for a reference, that of the reference too."""
    rows = E.clone().requires_grad_()
    reference = options.get("reference", E[:0]).clone().requires_grad_()
    pairs = expand(rows, labels, n, **(options | {"reference": reference} if "reference" in options else options))
    mask = pairs.negative_mask
    value = (pairs.negative[mask] * torch.linspace(-1, 2, int(mask.sum()), dtype=E.dtype)).sum()
    gradients = torch.autograd.grad(value + pairs.positive.sum(), [rows, reference], allow_unused=True)
    return pairs.negative[mask].detach(), gradients[0], reference if gradients[1] is None else gradients[1]


def assert_same(E: Tensor, labels: Tensor, n: float, **options: Any) -> None:
    with native.disabled():
        assert triton.available(E.device)
        ours = with_gradient(E, labels, n, **options)
    with triton.disabled():
        in_c = with_gradient(E, labels, n, **options)
        with native.disabled():
            in_torch = with_gradient(E, labels, n, **options)
    rounding = {"rtol": 1e-9, "atol": 1e-10} if E.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for ours_of, *others in zip(ours, in_c, in_torch, strict=True):
        for theirs in others:
            torch.testing.assert_close(ours_of, theirs, **rounding)


def made(scope: str, seed: int = 0, dtype: torch.dtype = torch.float64, *, unit: bool = True) -> tuple[Tensor, Tensor]:
    E, labels = batch(SIZES[scope], 6, seed, paired=scope == "anchor", unit=unit)
    return E.to(dtype), labels


@pytest.mark.parametrize("n", POINTS)
@pytest.mark.parametrize("scope", SCOPES)
def test_values_and_gradients_are_the_same(scope: str, n: float) -> None:
    E, labels = made(scope)
    assert_same(E, labels, n, scope=scope)


@pytest.mark.parametrize("n", [2, math.inf])
@pytest.mark.parametrize("metric", ["euclidean", "inner"])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_rule(normalize: bool, metric: str, n: float) -> None:
    for dtype in (torch.float64, torch.float32):
        E, labels = made("negative", 1, dtype, unit=normalize)
        assert_same(E, labels, n, normalize_synthetic=normalize, metric=metric)


@pytest.mark.parametrize("n", [1, math.inf])
@pytest.mark.parametrize("scope", ["class_pair", "negative"])
def test_rows_from_a_memory_and_few_segments(scope: str, n: float) -> None:
    E, labels = made(scope, 4)
    past = torch.zeros(len(labels), dtype=torch.bool)
    past[[1, 2, 3]] = True
    assert_same(E, labels, n, scope=scope, from_memory=past, max_segments=2)


@pytest.mark.parametrize("n", [2, math.inf])
def test_a_reference(n: float) -> None:
    E, labels = made("class_pair", 4)
    reference, of_reference = made("negative", 9)
    assert_same(E, labels, n, reference=reference, reference_labels=of_reference, partners=False)


@pytest.mark.parametrize("n", [1, 2, math.inf])
def test_duplicates_opposite_points_and_holes(n: float) -> None:
    """The middle of opposite rows has no direction; rows that are nearly opposite leave a hole in their arc."""
    E, labels = batch((3, 2, 2), 3, 3)
    E[1] = E[0]
    E[4] = -E[3]
    E[6] = -E[5] + 1e-6 * E[2]
    E = torch.nn.functional.normalize(E, dim=1)
    assert_same(E, labels, n)


def test_groups_of_one_image() -> None:
    E, labels = batch((1, 1, 1), d=4)
    for n in (2, math.inf):
        assert_same(E, labels, n)


@pytest.mark.parametrize("n", [2, math.inf])
def test_several_tiles(n: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """More points and groups than one program works on."""
    monkeypatch.setattr(triton, "blocks", lambda points, groups: triton.Blocks(4, 2, 1))
    E, labels = batch((3, 3, 2), 5, 5)
    assert_same(E, labels, n)
    assert_same(E, labels, n, scope="negative")


def test_of_equal_pairs_the_first_wins() -> None:
    E = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 1, 2, 3]]
    for n in (0, 1):
        with native.disabled():
            ours = hardest(E, [0, 0, 1, 1, 3, 3], n)
            with triton.disabled():
                theirs = hardest(E, [0, 0, 1, 1, 3, 3], n)
        off = ~torch.eye(3, dtype=torch.bool)
        assert (ours.ends[off] == theirs.ends[off]).all()
        torch.testing.assert_close(ours.weights[off], theirs.weights[off])


@pytest.mark.parametrize("balance", [False, True])
def test_a_loss_uses_it(balance: bool) -> None:
    E, labels = made("negative", dtype=torch.float32)
    loss = EmbeddingExpansion(LOSSES["multi_similarity"](), n=1, balance=balance)
    with triton.disabled():
        expected = loss(E, labels)
    with native.disabled():
        torch.testing.assert_close(loss(E, labels), expected)


@pytest.mark.skipif(tuple(map(int, torch.__version__.split(".")[:2])) < LOWEST, reason="no fullgraph before torch 2.13")
def test_compiled_code_uses_it() -> None:
    E, labels = made("negative", dtype=torch.float32)
    loss = EmbeddingExpansion(LOSSES["multi_similarity"](), n=1)
    with triton.disabled():
        expected = loss(E, labels)
    with native.disabled():
        torch.testing.assert_close(torch.compile(loss, backend="eager")(E, labels), expected)
