"""Losses of pytorch-metric-learning in EmbeddingExpansion: their values and gradients, and that they stay untouched."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion import EmbeddingExpansion, MarginLoss
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.errors import InvalidInput

from . import oracles
from .peer_losses import LOOPS, SAME, active, distance, explicit, mean, peer_batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import distances, reducers, regularizers
    from pytorch_metric_learning import losses as peers
    from pytorch_metric_learning.losses import histogram_loss


@pytest.fixture(autouse=True)
def its_histogram_indexes_with_a_tuple(monkeypatch: pytest.MonkeyPatch) -> None:
    """It indexes with a list of lists, of which torch warns."""
    found = histogram_loss.filter_pairs
    monkeypatch.setattr(histogram_loss, "filter_pairs", lambda *tensors: tuple(found(*tensors)))


SCOPES = [(name, scope) for name in SAME for scope in ("class_pair", "anchor", "negative")]
NOT_IN_ANCHOR_SCOPE = ("HistogramLoss", "SmoothAPLoss")  # refused; takes no paired batch


@pytest.mark.parametrize(
    ("name", "scope"), [case for case in SCOPES if case[1] == "class_pair" or case[0] not in NOT_IN_ANCHOR_SCOPE]
)
def test_value_and_gradient_are_those_of_our_loss_of_the_same_formula(name: str, scope: str) -> None:
    peer, ours, parameters, tolerance = SAME[name]
    E, labels = peer_batch(name, scope)
    E.requires_grad_()
    theirs = EmbeddingExpansion(peer, n=2, scope=scope)(E, labels)
    expected = EmbeddingExpansion(LOSSES[ours](**parameters), n=2, scope=scope)(E, labels)
    assert expected > 0
    torch.testing.assert_close(theirs.double(), expected, rtol=tolerance, atol=1e-8)
    (gradient,), (wanted,) = (torch.autograd.grad(value, E) for value in (theirs, expected))
    assert wanted.abs().max() > 0
    torch.testing.assert_close(gradient, wanted, rtol=10 * tolerance, atol=10 * tolerance * wanted.abs().max().item())


@pytest.mark.parametrize("name", list(SAME))
def test_value_is_that_of_loops_over_an_explicit_table(name: str) -> None:
    peer, ours, parameters, tolerance = SAME[name]
    E, labels = peer_batch(name, seed=1)
    table = explicit(E, labels, oracles.METRICS[ours])
    expected = oracles.mean(oracles.ORACLES[ours](table, **parameters))
    assert abs(expected - peer(E, labels)) > 1e-3
    torch.testing.assert_close(EmbeddingExpansion(peer)(E, labels).double(), expected, rtol=tolerance, atol=1e-8)


@pytest.mark.parametrize("name", list(LOOPS))
def test_value_and_gradient_are_those_of_loops_where_ours_have_no_double(name: str) -> None:
    peer, oracle = LOOPS[name]
    E, labels = peer_batch(name, seed=1)
    E.requires_grad_()
    value, expected = EmbeddingExpansion(peer())(E, labels), oracle(E, labels)
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)
    gradients = [torch.autograd.grad(v, E)[0] for v in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["PNPLoss"])
def test_in_anchor_scope_each_row_reads_its_own_hardest_pairs(name: str) -> None:
    peer, oracle = LOOPS[name]
    E, labels = peer_batch(name, "anchor", seed=1)
    value = EmbeddingExpansion(peer(), scope="anchor")(E, labels)
    torch.testing.assert_close(value, oracle(E, labels, "anchor"), rtol=1e-7, atol=1e-9)
    assert abs(value - EmbeddingExpansion(peer())(E, labels)) > 1e-6


def test_lifted_structure_in_anchor_scope_reads_both_ends_and_is_ours() -> None:
    E, labels = peer_batch("", "anchor", seed=1)
    theirs = EmbeddingExpansion(peers.LiftedStructureLoss(), scope="anchor")(E, labels)
    torch.testing.assert_close(theirs, EmbeddingExpansion(LOSSES["lifted_structure"](), scope="anchor")(E, labels))


DISTANCES: dict[str, tuple[Any, str, Callable[[Tensor], Tensor]]] = {
    "cosine": (distances.CosineSimilarity(), "inner", lambda s: s),
    "cosine to the third": (distances.CosineSimilarity(power=3), "inner", lambda s: s**3),
    "product of unit rows": (distances.DotProductSimilarity(), "inner", lambda s: s),
    "product": (distances.DotProductSimilarity(normalize_embeddings=False), "inner", lambda s: s),
    "distance": (distances.LpDistance(), "euclidean", distance),
    "distance of rows as they are": (distances.LpDistance(normalize_embeddings=False), "euclidean", distance),
    "square": (distances.LpDistance(power=2), "euclidean", lambda s: 2 - 2 * s),
    "root": (distances.LpDistance(power=0.5), "euclidean", lambda s: (2 - 2 * s) ** 0.25),
    "cube as they are": (
        distances.LpDistance(power=3, normalize_embeddings=False),
        "euclidean",
        lambda s: distance(s) ** 3,
    ),
}


@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize("name", list(DISTANCES))
def test_the_table_is_in_the_terms_of_the_losss_own_distance(name: str, n: int) -> None:
    own, metric, scale = DISTANCES[name]
    E, labels = peer_batch(name, seed=2)
    E.requires_grad_()
    rows = torch.nn.functional.normalize(E, dim=1) if own.normalize_embeddings else E
    table = oracles.expanded_table(rows, labels.tolist(), n, metric=metric)
    sign = -1 if metric == "inner" else 1
    expected = active(
        [
            torch.relu(sign * (scale(s) - scale(t)) + 0.3)
            for positives, negatives in zip(table.positives, table.negatives, strict=True)
            for s in positives
            for t in negatives
        ]
    )
    peer = peers.TripletMarginLoss(margin=0.3, distance=own)
    value = EmbeddingExpansion(peer, n=n)(E, labels)
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)
    gradients = [torch.autograd.grad(v, E)[0] for v in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


def hinges(E: Tensor, labels: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    table = explicit(E, labels, "euclidean")
    pull = [[distance(s) for s in positives] for positives in table.positives]
    push = [[torch.relu(1 - distance(s)) for s in negatives] for negatives in table.negatives]
    return pull, push


def flat(values: list[list[Tensor]]) -> list[Tensor]:
    return [v for of_anchor in values for v in of_anchor]


def per_anchor(values: list[list[Tensor]]) -> Tensor:
    return mean([mean(v) if v else torch.zeros((), dtype=torch.float64) for v in values])


WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
REDUCERS: dict[str, tuple[Any, Callable[[list[list[Tensor]], Tensor], Tensor]]] = {
    "mean": (reducers.MeanReducer(), lambda values, labels: mean(flat(values))),
    "sum": (reducers.SumReducer(), lambda values, labels: sum(flat(values))),
    "threshold": (
        reducers.ThresholdReducer(low=0.2),
        lambda values, labels: mean([v for v in flat(values) if v > 0.2]),
    ),
    "per anchor": (reducers.PerAnchorReducer(), lambda values, labels: per_anchor(values)),
    "per class": (
        reducers.ClassWeightedReducer(WEIGHTS),
        lambda values, labels: mean(
            [WEIGHTS[y] * v for y, of_anchor in zip(labels.tolist(), values, strict=True) for v in of_anchor]
        ),
    ),
}


@pytest.mark.parametrize("name", list(REDUCERS))
def test_the_value_goes_through_the_losss_own_reducer(name: str) -> None:
    reducer, expected = REDUCERS[name]
    E, labels = peer_batch(name, seed=2)
    value = EmbeddingExpansion(peers.ContrastiveLoss(reducer=reducer))(E, labels)
    torch.testing.assert_close(value, sum(expected(values, labels) for values in hinges(E, labels)))


def test_regularisers_are_of_the_rows_as_they_are() -> None:
    E, labels = peer_batch("", seed=2)
    penalty = regularizers.LpRegularizer()
    plain = EmbeddingExpansion(peers.ContrastiveLoss())(E, labels)
    regularised = peers.ContrastiveLoss(embedding_regularizer=penalty, embedding_reg_weight=0.5)
    value = EmbeddingExpansion(regularised)(E, labels)
    torch.testing.assert_close(value - plain, 0.5 * E.norm(dim=1).mean())


@pytest.mark.parametrize("classes", [None, 4])
def test_learnt_parameters_are_the_expansions_and_get_their_gradient(classes: int | None) -> None:
    E, labels = peer_batch("", seed=2)
    peer = peers.MarginLoss(learn_beta=True, num_classes=classes, nu=0.0).double()
    ours = MarginLoss(count="triplets", learn_beta=True, num_classes=classes).double()
    with torch.no_grad():
        for loss in (peer, ours):
            loss.beta.copy_(torch.linspace(0.8, 1.3, len(loss.beta)))
    expanded = EmbeddingExpansion(peer)
    assert [p is peer.beta for p in expanded.parameters()] == [True]
    values = expanded(E, labels), EmbeddingExpansion(ours)(E, labels)
    torch.testing.assert_close(*values, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(v, loss.beta)[0] for v, loss in zip(values, (peer, ours), strict=True)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


EVERY = [*(SAME[name][0] for name in SAME), *(make() for make, _ in LOOPS.values())]


@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: type(loss).__name__)
def test_the_loss_stays_as_it_is_when_it_is_wrapped_and_called(loss: Any) -> None:
    loss = copy.deepcopy(loss).eval()
    own, state, before = loss.distance, copy.deepcopy(loss.state_dict()), dict(vars(loss))
    random = torch.get_rng_state()
    expanded = EmbeddingExpansion(loss)
    assert torch.equal(torch.get_rng_state(), random)
    assert loss.distance is own
    assert all(vars(loss)[k] is v for k, v in before.items())
    E, labels = peer_batch(type(loss).__name__)
    expanded(E, labels)
    assert loss.distance is own
    assert not loss.training
    assert loss.state_dict().keys() == state.keys()
    torch.testing.assert_close(loss(E, labels), copy.deepcopy(loss)(E, labels))


def test_the_distance_is_put_back_after_an_error() -> None:
    loss = peers.MarginLoss(learn_beta=True, num_classes=3)
    own, expanded = loss.distance, EmbeddingExpansion(loss)
    E, labels = peer_batch("")
    with pytest.raises(IndexError):
        expanded(E, labels)  # of four classes
    assert loss.distance is own


class Remembering(peers.ContrastiveLoss):  # type: ignore[misc]
    """Keeps what the last call gave, with its graph."""

    last: Tensor | None = None

    def forward(self, *given: Any) -> Tensor:
        self.last = super().forward(*given)
        return self.last


def test_a_loss_that_holds_the_graph_of_a_call_is_to_be_a_fresh_instance() -> None:
    loss, (E, labels) = Remembering(), peer_batch("")
    EmbeddingExpansion(loss)
    loss(E.requires_grad_(), labels)
    with pytest.raises(InvalidInput, match=r"Remembering cannot be expanded.* pass a fresh instance"):
        EmbeddingExpansion(loss)


def test_a_loss_that_fails_in_its_second_step_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"DynamicSoftMarginLoss .* TripletLoss\(soft_margin=True\)"):
        EmbeddingExpansion(peers.DynamicSoftMarginLoss())


def test_expansion_of_a_foreign_loss_can_be_copied_printed_moved_and_saved() -> None:
    E, labels = peer_batch("")
    expanded = EmbeddingExpansion(peers.MarginLoss(learn_beta=True), n=3)
    again = copy.deepcopy(expanded).double()
    again.load_state_dict(expanded.state_dict())
    torch.testing.assert_close(again(E, labels), expanded(E, labels))
    assert "MarginLoss" in repr(expanded)
    assert "n=3" in repr(expanded)


def test_rows_with_the_ignored_label_take_no_part_and_the_share_of_synthetic_points_is_kept() -> None:
    E, labels = peer_batch("")
    expanded = EmbeddingExpansion(peers.MultiSimilarityLoss(), ignore_index=-1, statistics=True)
    value = expanded(torch.cat([E, E[:2]]), torch.cat([labels, torch.tensor([-1, -1])]))
    assert set(expanded.last_statistics) == {"synthetic_share"}
    torch.testing.assert_close(value, EmbeddingExpansion(peers.MultiSimilarityLoss())(E, labels))


@pytest.mark.filterwarnings("ignore::embedding_expansion.errors.DegenerateBatchWarning")
@pytest.mark.parametrize("loss", EVERY, ids=lambda loss: type(loss).__name__)
def test_batches_that_teach_nothing_are_finite(loss: Any) -> None:
    expanded = EmbeddingExpansion(loss)
    for labels in ([], [0], [0, 0, 0], [0, 1, 2]):
        if isinstance(loss, peers.NCALoss) and labels == [0, 1, 2]:
            continue  # of no positives at all it gives NaN by itself
        E = torch.randn(len(labels), 4, dtype=torch.float64, requires_grad=True)
        value = expanded(E, torch.tensor(labels, dtype=torch.int64))
        assert value.isfinite()
        (gradient,) = torch.autograd.grad(value, E, allow_unused=True)
        assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("n", [1, 5])
def test_half_precision_is_compared_in_float32(n: int) -> None:
    E, labels = peer_batch("")
    half = E.bfloat16()
    expanded = EmbeddingExpansion(peers.CircleLoss(gamma=2), n=n)
    value = expanded(half, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expanded(half.float(), labels))
    assert math.isfinite(float(value))
