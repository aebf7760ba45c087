"""sentence-transformers' batch losses expanded, against slow loops; and a pair loss in its trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.batches import PAIRED, UNEQUAL, batch
from core.explicit import points_of_class, points_of_row, rows_of_class
from embedding_expansion import (
    DistributedLoss,
    EmbeddingExpansion,
    HPHNTripletLoss,
    MultiSimilarityLoss,
    NTXentLoss,
    ProxyAnchorLoss,
    TripletLoss,
)
from embedding_expansion.core.adapters import adapter_of
from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.interop.sentence_transformers import ExpandedBatchLoss, SentenceLoss

from .sentences import features, losses, texts, tiny_model, train

Distances = losses.BatchHardTripletLossDistanceFunction
MARGIN = 0.7
LOSSES: dict[str, Callable[..., nn.Module]] = {
    "all": partial(losses.BatchAllTripletLoss, margin=MARGIN),
    "hard": partial(losses.BatchHardTripletLoss, margin=MARGIN),
    "soft": losses.BatchHardSoftMarginTripletLoss,
    "semihard": partial(losses.BatchSemiHardTripletLoss, margin=MARGIN),
}


def euclidean(x: Tensor, y: Tensor) -> Tensor:
    return ((x - y) ** 2).sum().sqrt()


def squared(x: Tensor, y: Tensor) -> Tensor:
    return ((x - y) ** 2).sum()


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return 1 - (x @ y) / (x.norm() * y.norm())


DISTANCES: dict[str, tuple[Any, Callable[[Tensor, Tensor], Tensor]]] = {
    "euclidean": (Distances.euclidean_distance, euclidean),
    "squared": (partial(Distances.euclidean_distance, squared=True), squared),
    "cosine": (Distances.cosine_distance, cosine),
}


class Stub(nn.Module):
    """A model that has computed already."""

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": given["embedding"]}


def oracle(
    name: str,
    E: Tensor,
    labels: Sequence[int],
    n: int,
    between: Callable[[Tensor, Tensor], Tensor],
    *,
    scope: str = "class_pair",
    normalize: bool = True,
) -> Tensor:
    """The loss with one negative a class, as loops over points that are built."""
    terms, hinged, b = [], [], len(labels)
    for i in range(b):
        own = points_of_class(E, labels, labels[i], n, normalize)
        if scope == "anchor":
            own = points_of_row(E, i, n, normalize)
        negatives = [
            torch.stack(
                [between(x.vector, y.vector) for x in own for y in points_of_class(E, labels, other, n, normalize)]
            ).min()
            for other in sorted(set(labels))
            if other != labels[i]
        ]
        positives = [between(E[i], E[p]) for p in rows_of_class(labels, labels[i]) if p != i]
        if name in ("hard", "soft"):
            gap = max(positives, default=E.new_zeros(()), key=Tensor.item) - min(negatives, key=Tensor.item)
            terms.append(torch.log1p(gap.exp()) if name == "soft" else (gap + MARGIN).clamp(min=0))
        for d in positives:
            outside = [x for x in negatives if x.item() > d.item()]
            semihard = min(outside, key=Tensor.item) if outside else max(negatives, key=Tensor.item)
            chosen = negatives if name == "all" else [semihard]
            hinged += [(d - x + MARGIN).clamp(min=0) for x in chosen]
    if name in ("hard", "soft"):
        return torch.stack(terms).mean()
    if name == "all":
        hinged = [x for x in hinged if x.item() > 0]
    return torch.stack(hinged).mean()


@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_points_that_are_built(name: str, distance: str, n: int) -> None:
    metric, between = DISTANCES[distance]
    E, labels = batch(UNEQUAL, d=5, seed=3, unit=distance != "cosine")
    E.requires_grad_()
    loss = ExpandedBatchLoss(LOSSES[name](Stub(), distance_metric=metric), n=n)
    ours = loss([{"embedding": E}], labels)
    unit = E / E.norm(dim=1, keepdim=True) if distance == "cosine" else E
    theirs = oracle(name, unit, labels.tolist(), n, between)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    (gradient,), (expected,) = (torch.autograd.grad(value, E) for value in (ours, theirs))
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


COUNTERPARTS: dict[tuple[str, str], tuple[Callable[[], nn.Module], float]] = {  # and how much larger our value is
    ("all", "euclidean"): (lambda: TripletLoss(MARGIN, squared=False, average="active"), 1),
    ("all", "squared"): (lambda: TripletLoss(MARGIN, average="active"), 1),
    ("all", "cosine"): (lambda: TripletLoss(2 * MARGIN, average="active"), 2),
    ("hard", "euclidean"): (lambda: HPHNTripletLoss(MARGIN), 1),
    ("soft", "euclidean"): (lambda: HPHNTripletLoss(soft_margin=True), 1),
}


@pytest.mark.parametrize("options", [{"balance": True}, {"balance": "sphere"}, {"selective": True}], ids=str)
@pytest.mark.parametrize("scope", ["class_pair", "negative"])
@pytest.mark.parametrize(("name", "distance"), COUNTERPARTS)
def test_balance_and_the_selective_pull_are_those_of_our_losses(
    name: str, distance: str, scope: Any, options: dict[str, Any]
) -> None:
    E, labels = batch((2, 3, 4), d=5, seed=3, unit=distance != "cosine")
    ours, factor = COUNTERPARTS[name, distance]
    loss = ExpandedBatchLoss(LOSSES[name](Stub(), distance_metric=DISTANCES[distance][0]), scope=scope, **options)
    expansion = EmbeddingExpansion(ours(), scope=scope, statistics=True, normalize=distance == "cosine", **options)
    rows = E.clone().requires_grad_()
    found = [torch.autograd.grad(of(rows, labels), rows)[0] for of in (loss.of_embeddings, expansion)]
    torch.testing.assert_close(factor * found[0], found[1], rtol=1e-5, atol=1e-7)
    if "balance" in options:
        share = expansion.last_statistics["balance"]
        torch.testing.assert_close(loss.last_statistics["balance"], share, rtol=1e-5, atol=1e-9)
        assert 0 < share < 1 or options["balance"] == "sphere"
        with torch.no_grad():
            unbalanced = ExpandedBatchLoss(loss.loss, scope=scope).of_embeddings(E, labels)
            assert loss.of_embeddings(E, labels) == unbalanced


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("labels", [[0] * 6, list(range(6)), [0, 0, 1, 1, 2, 2]], ids=str)
def test_balance_of_degenerate_batches_is_finite(name: str, labels: list[int]) -> None:
    E = torch.eye(6, dtype=torch.float64)[torch.tensor([0, 0, 1, 1, 2, 2])].requires_grad_()
    loss = ExpandedBatchLoss(LOSSES[name](Stub()), balance=True)
    value = loss.of_embeddings(E, labels)
    if value.requires_grad:
        assert torch.autograd.grad(value, E)[0].isfinite().all()
    assert value == ExpandedBatchLoss(LOSSES[name](Stub())).of_embeddings(E, labels)
    assert 0 <= loss.last_statistics["balance"] <= 1


@pytest.mark.parametrize("name", LOSSES)
def test_straight_segments_between_embeddings_of_any_norm(name: str) -> None:
    E, labels = batch(UNEQUAL, d=5, seed=4, unit=False)
    loss = ExpandedBatchLoss(LOSSES[name](Stub()), n=3, normalize_synthetic=False)
    expected = oracle(name, E, labels.tolist(), 3, euclidean, normalize=False)
    torch.testing.assert_close(loss.of_embeddings(E, labels), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_one_text_a_class_and_no_synthetic_points_is_the_librarys_value(name: str) -> None:
    """Pairs of equal texts: a class's hardest pair is then that of any two members."""
    E, _ = batch((1, 1, 1, 1), d=4, seed=2)
    E, labels = E.repeat_interleave(2, dim=0), torch.arange(8) // 2
    plain = LOSSES[name](Stub())
    theirs = plain([{"embedding": E}], labels)
    torch.testing.assert_close(ExpandedBatchLoss(plain, n=0).of_embeddings(E, labels), theirs)


def test_anchor_scope_looks_from_the_anchor_and_its_partner() -> None:
    E, labels = batch(PAIRED, d=5, seed=1, paired=True)
    for name in LOSSES:
        ours = ExpandedBatchLoss(LOSSES[name](Stub()), n=2, scope="anchor").of_embeddings(E, labels)
        per_row = oracle_of_pairs(name, E, labels.tolist())
        torch.testing.assert_close(ours, per_row, rtol=1e-6, atol=1e-9)


def oracle_of_pairs(name: str, E: Tensor, labels: list[int]) -> Tensor:
    """As `oracle`, where only partners are expanded: classes of 4 rows are two pairs, and have no points across."""
    from core.explicit import points_of_paired_class

    everything = {label: points_of_paired_class(E, labels, label, 2, True) for label in labels}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "points_of_class", lambda E, labels, label, n, normalize: everything[label])
        return oracle(name, E, labels, 2, euclidean, scope="anchor")


def test_a_large_class_weighs_no_more_in_the_mean_over_triplets() -> None:
    """As a class repeats a text, its negatives for the others stay one each; only its own anchors become more."""
    E, labels = batch((2, 2, 2), d=4, seed=5)
    anchors = labels == labels[0]
    loss = ExpandedBatchLoss(losses.BatchAllTripletLoss(Stub(), margin=5.0), n=2)
    table = loss.table(E, labels)
    active = table[anchors][:, ~anchors] < 1e30
    assert active.sum(dim=1).tolist() == [2, 2]


def test_the_librarys_loss_is_left_as_it_was() -> None:
    E, labels = batch(UNEQUAL, d=5, seed=3)
    plain = losses.BatchHardTripletLoss(Stub(), margin=MARGIN)
    before = plain([{"embedding": E}], labels)
    ExpandedBatchLoss(plain, n=2).of_embeddings(E, labels)
    assert plain.distance_metric is Distances.euclidean_distance
    assert torch.equal(plain([{"embedding": E}], labels), before)


@pytest.mark.parametrize("name", LOSSES)
def test_equal_texts_and_half_precision_give_finite_gradients(name: str) -> None:
    E = torch.nn.functional.normalize(torch.ones(6, 4), dim=1).bfloat16().requires_grad_()
    value = ExpandedBatchLoss(LOSSES[name](Stub(), distance_metric=Distances.cosine_distance)).of_embeddings(
        E, torch.arange(6) // 2
    )
    value.backward()
    assert E.grad is not None
    assert bool(E.grad.isfinite().all())


def test_what_cannot_be_expanded_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"MultipleNegativesRankingLoss cannot be expanded.*BatchAllTripletLoss"):
        ExpandedBatchLoss(losses.MultipleNegativesRankingLoss(tiny_model()))
    with pytest.raises(InvalidType, match="pass an instance, BatchAllTripletLoss"):
        ExpandedBatchLoss(losses.BatchAllTripletLoss)
    with pytest.raises(InvalidInput, match=r"distance of BatchHardTripletLoss is 'manhattan'.*use euclidean_distance"):
        ExpandedBatchLoss(losses.BatchHardTripletLoss(Stub(), distance_metric=manhattan))
    with pytest.raises(InvalidInput, match="distance of BatchHardTripletLoss is 'broken'"):
        ExpandedBatchLoss(losses.BatchHardTripletLoss(Stub(), distance_metric=broken))
    cosine_loss = losses.BatchHardTripletLoss(Stub(), distance_metric=Distances.cosine_distance)
    with pytest.raises(InvalidInput, match=r"cosine distance.*leave normalize_synthetic at True"):
        ExpandedBatchLoss(cosine_loss, normalize_synthetic=False)
    E, labels = batch(UNEQUAL, d=5, seed=3, unit=False)
    with pytest.raises(InvalidInput, match=r"has norm .* end the model with Normalize"):
        ExpandedBatchLoss(losses.BatchHardTripletLoss(Stub())).of_embeddings(E, labels)


def manhattan(embeddings: Tensor) -> Tensor:
    return (embeddings[:, None] - embeddings).abs().sum(dim=2)


def broken(embeddings: Tensor) -> Tensor:
    raise RuntimeError("no distance")


def test_the_librarys_losses_are_told_from_ours() -> None:
    class Derived(losses.BatchHardTripletLoss):
        pass

    for loss in (losses.BatchAllTripletLoss(Stub()), Derived(Stub())):
        with pytest.raises(InvalidType, match=r"takes texts; use .*\.ExpandedBatchLoss\(loss"):
            EmbeddingExpansion(loss)
    assert adapter_of(TripletLoss()) is None
    assert ExpandedBatchLoss(Derived(Stub())).known.method == "batch_hard_triplet_loss"


OURS: dict[str, Callable[[], nn.Module]] = {
    "plain": MultiSimilarityLoss,
    "expanded": lambda: EmbeddingExpansion(TripletLoss(), n=2),
    "distributed": lambda: DistributedLoss(EmbeddingExpansion(MultiSimilarityLoss(), n=2)),
    "proxies": lambda: ProxyAnchorLoss(num_classes=4, embedding_size=8),
}


@pytest.mark.parametrize("name", OURS)
def test_a_sentence_loss_is_the_loss_of_the_embeddings(name: str) -> None:
    model, loss = tiny_model(), OURS[name]()
    sentences, labels = texts(4)
    given = features(model, sentences)
    value = SentenceLoss(model, loss)([given], torch.tensor(labels))
    expected = loss(model(features(model, sentences))["sentence_embedding"], labels)
    torch.testing.assert_close(value, expected)


def test_texts_of_a_row_are_of_one_class_and_rows_without_labels_are_classes() -> None:
    model, loss = tiny_model(), EmbeddingExpansion(NTXentLoss(), n=2, scope="anchor")
    sentences, _ = texts(2)
    anchors, positives = sentences[::2], sentences[1::2]
    value = SentenceLoss(model, loss)([features(model, anchors), features(model, positives)], None)
    embeddings = model(features(model, sentences))["sentence_embedding"]
    torch.testing.assert_close(value, loss(embeddings, torch.arange(8) // 2))


def test_what_is_no_loss_for_the_trainer_is_refused() -> None:
    model = tiny_model()
    with pytest.raises(InvalidType, match="pass an instance, TripletLoss"):
        SentenceLoss(model, TripletLoss)
    with pytest.raises(InvalidType, match="loss is a function"):
        SentenceLoss(model, manhattan)
    with pytest.raises(InvalidInput, match="reduction='mean'"):
        SentenceLoss(model, TripletLoss(reduction="none"))
    with pytest.raises(InvalidInput, match="add a label column"):
        SentenceLoss(model, TripletLoss())([features(model, ["wing"])], None)


def trained(loss_of: Callable[[Any], nn.Module], folder: Path) -> tuple[list[float], str]:
    model = tiny_model()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    sentences, labels = texts()
    values = train(model, loss_of(model), {"sentence": sentences, "label": labels}, folder)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(math.isfinite(value) for value in values)
    model.save(str(folder / "model"))
    return values, (folder / "model" / "README.md").read_text(encoding="utf-8")


def test_the_trainer_trains_with_a_pair_loss_and_the_card_names_it(tmp_path: Path) -> None:
    values, card = trained(lambda model: SentenceLoss(model, EmbeddingExpansion(TripletLoss(), n=2)), tmp_path)
    assert values[-1] < 0.5 * values[0]
    assert "EmbeddingExpansion( n=2" in card


@pytest.mark.parametrize("name", LOSSES)
def test_the_trainer_trains_with_an_expanded_batch_loss_and_the_card_names_it(name: str, tmp_path: Path) -> None:
    values, card = trained(lambda model: ExpandedBatchLoss(LOSSES[name](model), n=2), tmp_path)
    assert values[-1] < values[0]
    assert '"scope": "class_pair"' in card


def test_the_trainer_trains_proxies_with_the_model(tmp_path: Path) -> None:
    loss = ProxyAnchorLoss(num_classes=4, embedding_size=8)
    before = [parameter.detach().clone() for parameter in loss.parameters()]
    trained(lambda model: SentenceLoss(model, loss), tmp_path)
    assert before
    assert all(not torch.equal(a, b) for a, b in zip(before, loss.parameters(), strict=True))


def test_the_trainer_trains_pairs_of_texts_without_labels(tmp_path: Path) -> None:
    model = tiny_model()
    sentences, _ = texts()
    loss = SentenceLoss(model, EmbeddingExpansion(NTXentLoss(), n=2))
    values = train(model, loss, {"anchor": sentences[::2], "positive": sentences[1::2]}, tmp_path, steps=2)
    assert all(math.isfinite(value) for value in values)
