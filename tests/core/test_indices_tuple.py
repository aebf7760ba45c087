"""Losses called as pytorch-metric-learning calls its own, loss(embeddings, labels, indices_tuple, ref_emb, ref_labels).

The oracles are tables whose masks are set pair by pair, and that library's losses where ours are equal to them.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion import (
    BatchHardMiner,
    CrossBatchMemory,
    DistanceWeightedMiner,
    DistributedLoss,
    EasyPositiveMiner,
    EmbeddingExpansion,
    MultiSimilarityLoss,
    MultiSimilarityMiner,
    Pairs,
    TripletLoss,
)
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import EmbeddingExpansionError, InvalidInput, InvalidType

from .batches import batch, batch_for
from .proxies import SCOPES as PROXY_CASES
from .proxies import numbered_batch, proxy_loss
from .proxies import with_scope as proxies_with_scope

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import losses as peers
    from pytorch_metric_learning import miners
    from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices

SCOPES = [None, "class_pair", "anchor", "negative"]
CASES = [(name, scope) for name in LOSSES for scope in SCOPES if scope is None or not LOSSES[name].not_expandable]
WITH_REFERENCE = [case for case in CASES if not (case[1] in ("anchor", "negative") and LOSSES[case[0]].reads_partner)]
every_case = pytest.mark.parametrize(("name", "scope"), CASES)
Chosen = tuple[set[tuple[int, int]], set[tuple[int, int]]]


def with_scope(loss: PairLoss, scope: str | None, **options: Any) -> PairLoss:
    return loss if scope is None else EmbeddingExpansion(loss, n=2, scope=scope, **options)


def some_pairs(labels: list[int], others: list[int] | None = None, seed: int = 0) -> Chosen:
    """About half of the positive and of the negative pairs."""
    draw, among = random.Random(seed), labels if others is None else others
    there = [(i, j) for i in range(len(labels)) for j in range(len(among)) if others is not None or i != j]
    chosen = [pair for pair in there if draw.random() < 0.5]
    return {(i, j) for i, j in chosen if labels[i] == among[j]}, {(i, j) for i, j in chosen if labels[i] != among[j]}


def as_tuple(chosen: Chosen) -> tuple[Tensor, ...]:
    return tuple(torch.tensor([pair[k] for pair in sorted(side)], dtype=torch.int64) for side in chosen for k in (0, 1))


def by_hand(
    pairs: Pairs, chosen: Chosen, labels: list[int], scope: str | None, others: list[int] | None = None, kept: int = 0
) -> Pairs:
    """The table with masks set pair by pair; pairs with the last `kept` rows stay."""
    among, classes = labels if others is None else others, sorted(set(labels if others is None else others))
    positive_mask, negative_mask = pairs.positive_mask.clone(), pairs.negative_mask.clone()
    end = len(among) - kept
    for i in range(len(pairs.positive)):
        own = [j for j in range(len(among)) if among[j] == labels[i] and (others is not None or j != i)]
        for k, j in enumerate(own):
            positive_mask[i, k] = (i, j) in chosen[0] or j >= end
        far = {j for j in range(len(among)) if among[j] != labels[i] and ((i, j) in chosen[1] or j >= end)}
        columns = far if scope is None else {classes.index(among[j]) for j in far}
        for c in range(negative_mask.shape[1]):
            negative_mask[i, c] = c in columns
    return replace(pairs, positive_mask=positive_mask, negative_mask=negative_mask)


def value_by_hand(loss: PairLoss, E: Tensor, L: Tensor, chosen: Chosen, scope: str | None, **reference: Any) -> Tensor:
    pairs, anchor_labels = loss.table(E, L, **reference)
    others = reference["reference_labels"].tolist() if reference else None
    return loss.terms(by_hand(pairs, chosen, L.tolist(), scope, others), anchor_labels).mean()


@every_case
def test_a_tuple_leaves_the_pairs_that_it_names(name: str, scope: str | None) -> None:
    E, L = batch_for(scope, 3)
    E.requires_grad_()
    loss, chosen = with_scope(LOSSES[name](), scope), some_pairs(L.tolist())
    expected = value_by_hand(loss, E, L, chosen, scope)
    (gradient,) = torch.autograd.grad(expected, E)
    for value in (loss(E, L, as_tuple(chosen)), loss(E, L, indices_tuple=list(as_tuple(chosen)))):
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(torch.autograd.grad(value, E)[0], gradient)
    if name not in ("histogram", "recall_at_k", "smooth_ap", "fast_ap"):  # whose values may not move
        assert not torch.allclose(expected, loss(E, L))
    torch.testing.assert_close(
        loss(E, L, as_tuple((chosen[0], set()))), loss(E, L, [*as_tuple(chosen)[:2], *2 * [L[:0]]])
    )


@pytest.mark.parametrize(("name", "scope"), WITH_REFERENCE)
def test_with_a_reference_positives_and_negatives_are_its_rows(name: str, scope: str | None) -> None:
    E, L = batch_for(scope, 3)
    R, M = batch_for(scope, 5)
    M = M.flip(0) if scope is None else M
    loss, chosen = with_scope(LOSSES[name](), scope), some_pairs(L.tolist(), M.tolist())
    expected = value_by_hand(loss, E, L, chosen, scope, reference=R, reference_labels=M)
    torch.testing.assert_close(loss(E, L, as_tuple(chosen), R, M), expected)
    torch.testing.assert_close(loss(E, L, as_tuple(chosen), ref_emb=R, ref_labels=M), expected)
    torch.testing.assert_close(loss(E, L, as_tuple(chosen), reference=R, reference_labels=M), expected)
    torch.testing.assert_close(loss(E, L, None, R, M), loss(E, L, reference=R, reference_labels=M))


@every_case
def test_with_a_memory_it_names_rows_of_the_batch_and_the_queue_stays(name: str, scope: str | None) -> None:
    E, L = batch_for(scope, 3)
    inner = with_scope(LOSSES[name](), scope)
    memory = CrossBatchMemory(inner, embedding_size=4, size=6).double()
    assert torch.equal(memory(E, L, None), inner(E, L))
    queue, queued = memory.queue()
    b, chosen = len(L), some_pairs(L.tolist())
    past = torch.arange(b + len(queued)) >= b
    pairs, anchor_labels = inner.table(torch.cat([E, queue]), torch.cat([L, queued]), from_memory=past)
    pairs = by_hand(pairs, chosen, torch.cat([L, queued]).tolist(), scope, kept=len(queued))
    expected = inner.terms(pairs, anchor_labels).mean()
    torch.testing.assert_close(memory(E, L, as_tuple(chosen)), expected)


@pytest.mark.parametrize("scope", SCOPES)
def test_triplets_are_the_pairs_that_occur_in_some(scope: str | None) -> None:
    E, L = batch_for(scope, 2)
    a, p, n = miners.TripletMarginMiner(margin=0.3)(E, torch.unique(L, return_inverse=True)[1])
    chosen = set(zip(a.tolist(), p.tolist(), strict=True)), set(zip(a.tolist(), n.tolist(), strict=True))
    for name in ("triplet", "multi_similarity", "lifted_structure"):
        loss = with_scope(LOSSES[name](), scope)
        torch.testing.assert_close(loss(E, L, (a, p, n)), value_by_hand(loss, E, L, chosen, scope))


EQUAL: list[tuple[Any, str, dict[str, Any]]] = [
    (peers.TripletMarginLoss(), "triplet", {"margin": 0.05, "squared": False, "average": "active"}),
    (peers.ContrastiveLoss(), "contrastive", {"squared": False, "average": "active"}),
    (peers.MultiSimilarityLoss(), "multi_similarity", {}),
    (peers.CircleLoss(), "circle", {}),
    (peers.NTXentLoss(), "nt_xent", {}),
]


@pytest.mark.parametrize(("peer", "name", "parameters"), EQUAL, ids=[name for _, name, _ in EQUAL])
def test_the_values_are_those_of_the_other_library(peer: Any, name: str, parameters: dict[str, Any]) -> None:
    E, L = batch((3, 4, 2, 3), d=5, seed=6)
    R, M = batch((2, 4, 3, 2), d=5, seed=7)
    ours = LOSSES[name](**parameters)
    for miner in (miners.MultiSimilarityMiner(), miners.BatchHardMiner(), miners.PairMarginMiner(0.1, 1.2)):
        torch.testing.assert_close(ours(E, L, miner(E, L)), peer(E, L, miner(E, L)))
        mined = miner(E, L, R, M)
        torch.testing.assert_close(ours(E, L, mined, R, M), peer(E, L, mined, R, M))


@pytest.mark.parametrize(
    "peer",
    [peers.TripletMarginLoss(), peers.ContrastiveLoss(), peers.MultiSimilarityLoss(), peers.LiftedStructureLoss()],
    ids=lambda peer: type(peer).__name__,
)
def test_losses_of_the_other_library_expanded_take_it_as_they_take_a_miner(peer: Any) -> None:
    E, L = batch((3, 4, 2, 3), d=5, seed=6)
    miner = miners.MultiSimilarityMiner()
    loss = EmbeddingExpansion(peer)
    torch.testing.assert_close(loss(E, L, miner(E, L)), EmbeddingExpansion(peer, miner=miner)(E, L))
    assert torch.equal(loss(E, L, None), loss(E, L))
    with pytest.raises(InvalidInput, match="reference is given, but"):
        loss(E, L, None, E, L)


@pytest.mark.parametrize(("name", "scope"), PROXY_CASES)
def test_losses_on_proxies_take_none_and_no_pairs(name: str, scope: str | None) -> None:
    E, L = numbered_batch(scope)
    loss = proxies_with_scope(proxy_loss(name), scope)
    assert torch.equal(loss(E, L, None), loss(E, L))
    assert torch.equal(DistributedLoss(loss)(E, L, indices_tuple=None), loss(E, L))
    with pytest.raises(InvalidInput, match=r"indices_tuple is given, but \w+Loss compares images with proxies"):
        loss(E, L, get_all_pairs_indices(L))
    with pytest.raises(InvalidInput, match="compares with its own proxies"):
        loss(E, L, None, E, L)


@every_case
def test_all_pairs_and_none_are_the_plain_call(name: str, scope: str | None) -> None:
    E, L = batch_for(scope, 1)
    loss = with_scope(LOSSES[name](), scope)
    for taken in (loss, DistributedLoss(loss)):
        assert torch.equal(taken(E, L, None), loss(E, L))
        torch.testing.assert_close(taken(E, L, get_all_pairs_indices(L)), loss(E, L))


@pytest.mark.parametrize("scope", [None, "class_pair"])
def test_ignored_rows_are_left_out_of_the_pairs_as_well(scope: str | None) -> None:
    E, L = batch((3, 4, 2, 3), seed=6)
    R, M = batch((2, 4, 3, 2), seed=7)
    ignored = int(L[0])
    loss, plain = (with_scope(MultiSimilarityLoss(ignore_index=k), scope) for k in (ignored, None))
    keep, keep_reference = ignored != L, ignored != M
    for reference in (False, True):
        others = M if reference else L
        chosen = some_pairs(L.tolist(), M.tolist() if reference else None)
        of_row = {int(i): k for k, i in enumerate(keep.nonzero())}
        of_other = {int(i): k for k, i in enumerate((others != ignored).nonzero())}
        positives, negatives = (
            {(of_row[i], of_other[j]) for i, j in side if i in of_row and j in of_other} for side in chosen
        )
        given = (R, M) if reference else (None, None)
        left = (R[keep_reference], M[keep_reference]) if reference else (None, None)
        expected = plain(E[keep], L[keep], as_tuple((positives, negatives)), *left)
        torch.testing.assert_close(loss(E, L, as_tuple(chosen), *given), expected)


@pytest.mark.parametrize("name", ["multi_similarity", "lifted_structure", "histogram"])
@pytest.mark.parametrize("scope", [None, "class_pair"])
def test_blocks_and_rows_go_with_it(name: str, scope: str | None) -> None:
    E, L = batch_for(scope, 3)
    chosen = some_pairs(L.tolist())
    loss, in_blocks = (with_scope(LOSSES[name](chunk=chunk), scope) for chunk in (None, 3))
    torch.testing.assert_close(in_blocks(E, L, as_tuple(chosen)), loss(E, L, as_tuple(chosen)))
    if not loss.has_statistic:
        rows, each = torch.tensor([4, 0, 7]), with_scope(LOSSES[name](), scope)
        some, whole = (each.per_anchor(E, L, as_tuple(chosen), rows=given) for given in (rows, None))
        torch.testing.assert_close(some.total, whole.total[:, rows])


def test_a_miner_of_the_loss_chooses_among_them() -> None:
    E, L = batch((3, 4, 2, 3), seed=6)
    pairs = miners.MultiSimilarityMiner()(E, L)
    table, anchor_labels = TripletLoss().table(E, L)
    chosen = tuple(set(zip(pairs[k].tolist(), pairs[k + 1].tolist(), strict=True)) for k in (0, 2))
    narrowed = BatchHardMiner()(by_hand(table, chosen, L.tolist(), None))  # type: ignore[arg-type]
    loss = TripletLoss(miner=BatchHardMiner())
    torch.testing.assert_close(loss(E, L, pairs), loss.terms(narrowed, anchor_labels).mean())


@pytest.mark.filterwarnings("ignore::embedding_expansion.errors.DegenerateBatchWarning")
@pytest.mark.parametrize("scope", SCOPES)
def test_no_pairs_at_all_are_0_with_a_gradient(scope: str | None) -> None:
    E, L = batch_for(scope, 3)
    nothing = L[:0], torch.zeros(0), L[:0]
    for name in LOSSES:
        if (name, scope) in CASES and name not in ("hphn_triplet", "margin"):
            rows = E.clone().requires_grad_()
            loss = with_scope(LOSSES[name](), scope)
            value = loss(rows, L, nothing)
            assert value == 0
            value.backward()
            assert rows.grad is not None
            assert not rows.grad.any()
            assert loss(E[:0], L[:0], nothing) == 0


E4, L4 = batch((2, 2), seed=1)
ROWS = torch.arange(4)
BAD: list[tuple[Any, type[EmbeddingExpansionError], str]] = [
    ("all", InvalidType, r"indices_tuple is a str; pass triplets .* or pairs .*, or None for all pairs"),
    ((ROWS, ROWS), InvalidType, "is a tuple of 2 entries; pass triplets"),
    (5 * (ROWS,), InvalidType, "is a tuple of 5 entries; pass triplets"),
    ((ROWS, [1, 0], ROWS), InvalidType, "the positives of indices_tuple are a list; pass a 1-D tensor"),
    ((ROWS, ROWS, ROWS.double()), InvalidType, "the negatives of indices_tuple are of dtype torch.float64; pass whole"),
    ((ROWS > 1, ROWS, ROWS), InvalidType, "the anchors of indices_tuple are of dtype torch.bool"),
    ((ROWS, ROWS[None], ROWS), InvalidInput, r"the positives of indices_tuple are of shape \(1, 4\); pass a 1-D"),
    ((ROWS, ROWS.to("meta"), ROWS), InvalidType, "the positives of indices_tuple are on the meta device"),
    (
        (ROWS, ROWS, ROWS[:2]),
        InvalidInput,
        "indices_tuple has 4 positives but 2 negatives; pass tensors of equal length",
    ),
    ((ROWS[:1], ROWS, ROWS), InvalidInput, "indices_tuple has 1 anchors but 4 positives"),
    ((ROWS, ROWS, ROWS[:1], ROWS), InvalidInput, "indices_tuple has 1 anchors but 4 negatives"),
    ((ROWS + 1, ROWS, ROWS), InvalidInput, "the anchors of indices_tuple run from 1 to 4; the batch has rows 0 to 3"),
    ((ROWS, ROWS - 1, ROWS), InvalidInput, "the positives of indices_tuple run from -1 to 2; the batch has rows"),
    ((ROWS[:0], ROWS[:0], ROWS, ROWS + 2), InvalidInput, "the negatives of indices_tuple run from 2 to 5"),
    ((ROWS, ROWS, ROWS[:0], ROWS[:0]), InvalidInput, "indices_tuple pairs row 0 with itself"),
    ((ROWS, 3 - ROWS, ROWS, 3 - ROWS), InvalidInput, r"has row \d among the \w+ of anchor \d, but their labels are"),
    (MultiSimilarityMiner(), InvalidType, r"indices_tuple is a MultiSimilarityMiner; pass what it chooses, Multi"),
    (miners.BatchHardMiner(), InvalidType, r"indices_tuple is a BatchHardMiner; .* miner=BatchHardMiner\(...\) when"),
]


@pytest.mark.parametrize(("given", "error", "sentence"), BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("wrap", [lambda loss: loss, EmbeddingExpansion, DistributedLoss], ids=["plain", "exp", "dist"])
def test_what_is_no_tuple_of_pairs_gets_a_sentence(
    wrap: Callable[[PairLoss], Any], given: Any, error: type[EmbeddingExpansionError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        wrap(TripletLoss())(E4, L4, given)


def test_rows_of_a_reference_have_a_range_and_labels_of_their_own() -> None:
    loss, R = TripletLoss(), torch.eye(4, dtype=torch.float64)[:3]
    pair, nothing = (torch.tensor([3]), torch.tensor([3])), (ROWS[:0], ROWS[:0])
    with pytest.raises(
        InvalidInput, match="the positives of indices_tuple run from 3 to 3; the reference has rows 0 to 2"
    ):
        loss(E4, L4, (*pair, *nothing), R, L4[:3])
    same = torch.tensor([0]), torch.tensor([0])
    assert loss(E4, L4, (*same, *nothing), R, L4[:3]).isfinite()  # of the batch and of the reference: two rows
    for given, sentence in (
        ({"ref_emb": R, "reference": R, "ref_labels": L4[:3]}, "ref_emb and reference are both given"),
        (
            {"ref_labels": L4[:3], "reference": R, "reference_labels": L4[:3]},
            "ref_labels and reference_labels are both",
        ),
        ({"ref_emb": R}, "reference_labels is missing"),
    ):
        for wrapped in (loss, DistributedLoss(loss), EmbeddingExpansion(loss)):
            with pytest.raises(InvalidInput, match=sentence):
                wrapped(E4, L4, **given)
    with pytest.raises(InvalidType, match="labels is None; pass one whole number per row"):
        loss(E4, indices_tuple=(ROWS, ROWS, ROWS))


def test_losses_of_whole_tables_take_no_pairs() -> None:
    loss = EmbeddingExpansion(peers.NCALoss())
    assert torch.equal(loss(E4, L4, None), loss(E4, L4))
    with pytest.raises(InvalidInput, match="NCALoss takes no pairs: it reads its whole table; leave it out"):
        loss(E4, L4, get_all_pairs_indices(L4))


MINERS = {
    "MultiSimilarityMiner": (MultiSimilarityMiner(epsilon=0.1), miners.MultiSimilarityMiner(epsilon=0.1)),
    "BatchHardMiner": (BatchHardMiner(), miners.BatchHardMiner()),
    "EasyPositiveMiner": (EasyPositiveMiner(), miners.BatchEasyHardMiner("easy", "all")),
}


def pairs_of(chosen: tuple[Tensor, ...]) -> Chosen:
    a, p, *rest = (rows.tolist() for rows in chosen)
    other, n = rest if len(rest) == 2 else (a, rest[0])
    return set(zip(a, p, strict=True)), set(zip(other, n, strict=True))


@pytest.mark.parametrize("name", list(MINERS))
def test_our_miners_called_with_rows_choose_what_the_other_library_s_do(name: str) -> None:
    ours, theirs = MINERS[name]
    E, L = batch((3, 4, 2, 3), d=5, seed=6, unit=False)
    R, M = batch((2, 4, 3, 2), d=5, seed=7, unit=False)
    assert pairs_of(ours(E, L)) == pairs_of(theirs(E, L))
    assert pairs_of(ours(E, L, R, M)) == pairs_of(theirs(E, L, R, M))
    assert all(len(rows) == 0 for rows in ours(E[:0], L[:0]))
    for loss in (MultiSimilarityLoss(), peers.MultiSimilarityLoss()):
        torch.testing.assert_close(loss(E, L, ours(E, L)), loss(E, L, theirs(E, L)))
    torch.testing.assert_close(TripletLoss(miner=ours)(E, L), TripletLoss()(E, L, ours(E, L)))


def test_our_miner_that_draws_gives_as_many_negatives_as_positives() -> None:
    E, L = batch((3, 4, 2, 3), d=5, seed=6)
    a, p, other, n = DistanceWeightedMiner(5)(E, L)
    assert torch.equal(a.bincount(), other.bincount())
    assert (L[a] == L[p]).all()
    assert (L[other] != L[n]).all()


def test_a_miner_of_ours_in_the_place_of_pairs_gets_a_sentence_in_their_losses() -> None:
    E, L = batch((3, 4, 2, 3), d=5, seed=6)
    for loss in (peers.TripletMarginLoss(), peers.ContrastiveLoss(), peers.NCALoss(), peers.ProxyAnchorLoss(4, 5)):
        with pytest.raises(
            InvalidType, match=r"indices_tuple is a BatchHardMiner; pass what it chooses, BatchHardMiner"
        ):
            loss(E, torch.unique(L, return_inverse=True)[1], BatchHardMiner())
    with pytest.raises(InvalidType, match="BatchHardMiner is called with a Tensor alone; pass Pairs, or"):
        BatchHardMiner()(E)
