"""torch.compile without graph breaks: every module, and with it its function. Run by test_compile.py."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core import losses
from embedding_expansion.core.batch import Inputs
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES, PROXY_LOSSES, MultiSimilarityLoss
from embedding_expansion.core.losses.proxy import nearest_center
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import compare

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices

from . import oracles
from .batches import batch_for
from .proxies import SCOPES as PROXY_CASES
from .proxies import numbered_batch, proxy_loss, with_scope

# torch warns of its own code as it compiles; what ours warns of is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_compiles(loss: PairLoss, E: Tensor, labels: Tensor, backend: str = "aot_eager", **options: Any) -> None:
    found = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend=backend)):
        rows = E.clone().requires_grad_()
        value = function(rows, labels, **options)
        value.backward()
        found.append((value.detach(), rows.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


# Every function is compiled within its module below; alone, a few that read a table in different ways.
@pytest.mark.parametrize("name", ["multi_similarity", "lifted_structure", "fast_ap"])
def test_a_function_of_a_table_compiles_alone(name: str) -> None:
    E, labels = batch_for(None)
    pairs = compare(E, labels, metric=oracles.METRICS[name])
    function = getattr(losses, name)
    found = []
    for run in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        positive, negative = (x.clone().requires_grad_() for x in (pairs.positive, pairs.negative))
        terms = run(replace(pairs, positive=positive, negative=negative))
        found.append((terms.total.detach(), terms.weight, *torch.autograd.grad(terms.mean(), (positive, negative))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", list(PROXY_LOSSES))
def test_a_function_of_proxies_compiles_alone(name: str) -> None:
    kind, E = PROXY_LOSSES[name], torch.randn(8, 4, requires_grad=True)
    function = {
        "sub_center_arcface": lambda pairs: kind.function(nearest_center(pairs, 3)),
        "soft_triple": lambda pairs: kind.function(pairs, centers_per_class=10),
    }.get(name, kind.function)
    loss = kind(num_classes=3, embedding_size=4)
    batch = loss.batch(Inputs(E, torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])))
    pairs = super(kind, loss).compare(batch, statistics=False)
    compiled, expected = torch.compile(function, fullgraph=True, backend="aot_eager")(pairs), function(pairs)
    torch.testing.assert_close(compiled.total, expected.total)
    ours, theirs = (torch.autograd.grad(terms.mean(), E, retain_graph=True)[0] for terms in (compiled, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("triplet", {"mining": "semihard", "average": "active"}),
        ("triplet", {"mining": "easy_positive", "soft_margin": True}),
        ("margin", {"count": "triplets"}),
        ("smooth_ap", {"query_counts": True}),
    ],
)
def test_options_compile(name: str, parameters: dict[str, Any]) -> None:
    assert_compiles(LOSSES[name](**parameters), *batch_for(None))


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_plain_module_compiles(name: str) -> None:
    assert_compiles(LOSSES[name](), *batch_for(None), backend="eager")  # with operators of its own it is expanded below


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        *((name, "class_pair") for name in oracles.EXPANDABLE),
        *((name, "anchor") for name in ("multi_similarity", "lifted_structure", "histogram")),
        *((name, "negative") for name in ("multi_similarity", "lifted_structure")),
    ],
)
def test_every_expanded_module_compiles(name: str, scope: str) -> None:
    # Beyond the eager backend, differentiation is traced as well: that of the search, which the losses share.
    backend = "aot_eager" if name in ("multi_similarity", "lifted_structure", "histogram") else "eager"
    loss = EmbeddingExpansion(LOSSES[name](), n=2, scope=scope, statistics=True)
    assert_compiles(loss, *batch_for(scope), backend=backend)


# To the compiler, scope negative differs from anchor scope in nothing but a string.
@pytest.mark.parametrize(("name", "scope"), [case for case in PROXY_CASES if case[1] != "negative"])
def test_every_loss_on_proxies_compiles(name: str, scope: str | None) -> None:
    backend = "eager" if scope is None else "aot_eager"
    assert_compiles(with_scope(proxy_loss(name), scope), *numbered_batch(scope), backend=backend)


def test_balanced_terms_have_the_gradient_of_eager_code() -> None:
    E, labels = batch_for(None)
    loss, found = EmbeddingExpansion(LOSSES["triplet"](), balance=True), []
    for function in (loss.per_anchor, torch.compile(loss.per_anchor, backend="eager")):
        rows = E.clone().requires_grad_()
        found.append(torch.autograd.grad(function(rows, labels).mean(), rows)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)
    assert found[0].abs().max() > 0


def test_infinitely_many_points_compile() -> None:
    assert_compiles(EmbeddingExpansion(MultiSimilarityLoss(), n=math.inf), *batch_for(None))


@pytest.mark.parametrize(("name", "expanded"), [("lifted_structure", False), ("histogram", True)])
def test_options_of_the_call_compile(name: str, expanded: bool) -> None:
    E, labels = batch_for(None)
    past = torch.zeros(len(E), dtype=torch.bool)
    past[[1, 4]] = True
    calls: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"from_memory": past}),
        ({}, {"rows": torch.tensor([5, 0, 2])}),
        ({}, {"reference": E.flip(0) * 0.9, "reference_labels": labels.flip(0)}),
        ({"ignore_index": int(labels[0])}, {}),
        ({}, {"indices_tuple": tuple(rows[::2] for rows in get_all_pairs_indices(labels))}),
        ({"chunk": 6}, {}),
    ]
    for options, given in calls:
        torch.compiler.reset()
        loss = LOSSES[name](**options)
        backend = "aot_eager" if expanded else "eager"
        assert_compiles(EmbeddingExpansion(loss) if expanded else loss, E, labels, backend=backend, **given)


@pytest.mark.parametrize(
    ("scope", "name", "what"),
    [
        *(("class_pair", "multi_similarity", what) for what in ("no row", "all past", "no anchor", "all ignored")),
        *(("anchor", "lifted_structure", what) for what in ("no row", "no anchor", "all ignored")),
        ("class_pair", "fast_ap", "all past"),
        *((None, name, "all ignored") for name in ("hphn_triplet", "lifted_structure")),
    ],
)
def test_a_batch_without_anchors_is_0_when_compiled_as_well(scope: str | None, name: str, what: str) -> None:
    E, labels = batch_for(scope)
    if what == "no row":
        E, labels = E[:0], labels[:0]
    options = {"ignore_index": 3} if what == "all ignored" else {}
    labels = torch.full_like(labels, 3) if what == "all ignored" else labels
    given = {
        "all past": {"from_memory": torch.ones(len(E), dtype=torch.bool)},
        "no anchor": {"rows": torch.zeros(0, dtype=torch.int64)},
    }
    loss = LOSSES[name](**options)
    loss = loss if scope is None else EmbeddingExpansion(loss, scope=scope)
    assert loss(E, labels, **given.get(what, {})) == 0
    backend = "eager" if scope is None or what == "all ignored" else "aot_eager"
    assert_compiles(loss, E, labels, backend=backend, **given.get(what, {}))


@pytest.mark.parametrize(
    "loss", [MultiSimilarityLoss(), EmbeddingExpansion(MultiSimilarityLoss())], ids=["plain", "expanded"]
)
def test_the_default_compiler_takes_it(loss: PairLoss) -> None:
    assert_compiles(loss, *batch_for(None), backend="inductor")


def test_a_compiled_loss_takes_batches_of_other_classes_and_sizes() -> None:
    loss = EmbeddingExpansion(MultiSimilarityLoss())
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for seed in range(4):
        E, labels = batch_for("class_pair", seed)
        torch.testing.assert_close(compiled(E, labels), loss(E, labels))
