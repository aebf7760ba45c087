"""Options and parameters that cannot be used: refused when a loss is made, with what would do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from embedding_expansion.core.distributed import DistributedLoss
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import expand, hardest
from embedding_expansion.core.losses import (
    LOSSES,
    AngularLoss,
    HPHNTripletLoss,
    MultiSimilarityLoss,
    NPairLoss,
    RankedListLoss,
    TripletLoss,
)
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import compare
from embedding_expansion.errors import InvalidInput, InvalidType, UnknownName

from .test_bad_input import LABELS, E, message


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (AngularLoss(angle=90), "angle is 90.0; pass degrees between 0 and 90"),
        (RankedListLoss(imbalance=2), "imbalance is 2.0; pass a number from 0 to 1"),
    ],
    ids=str,
)
def test_parameters_out_of_their_range_are_refused(loss: PairLoss, words: str) -> None:
    assert words in message(InvalidInput, loss, E, LABELS)


@pytest.mark.parametrize(
    "given", [MultiSimilarityLoss, "multi_similarity", None, torch.nn.Linear(2, 2), print], ids=str
)
def test_expansion_wants_an_instance_of_a_loss(given: Any) -> None:
    text = message(InvalidType, EmbeddingExpansion, given)
    if given is MultiSimilarityLoss:
        assert "MultiSimilarityLoss()" in text


def test_expansion_of_an_expansion_is_refused() -> None:
    message((InvalidInput, InvalidType), EmbeddingExpansion, EmbeddingExpansion(MultiSimilarityLoss()))


def test_distributed_wants_an_instance_of_a_loss() -> None:
    message(InvalidType, DistributedLoss, MultiSimilarityLoss)


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: expand(E, LABELS, 2, scope="class-pair"), "class_pair"),
        (lambda: expand(E, LABELS, 2, scope="anchors"), "anchor"),
        (lambda: EmbeddingExpansion(MultiSimilarityLoss(), scope="anchr"), "anchor"),
        (lambda: hardest(E, LABELS, 2, scope="ancor", normalize_synthetic=True, metric="inner"), "anchor"),
        (lambda: hardest(E, LABELS, 2, scope="anchor", normalize_synthetic=True, metric="iner"), "inner"),
        (lambda: compare(E, LABELS, metric="euclidian"), "euclidean"),
        (lambda: expand(E, LABELS, 2, metric="inner_product"), "inner"),
        (lambda: MultiSimilarityLoss(reduction="means"), "mean"),
        (lambda: EmbeddingExpansion(MultiSimilarityLoss(), reduction="non"), "none"),
    ],
)
def test_a_mistyped_name_is_refused_with_the_nearest(call: Callable[[], Any], nearest: str) -> None:
    assert repr(nearest) in message(UnknownName, call)


@pytest.mark.parametrize(
    ("name", "given", "nearest"),
    [
        ("contrastive", "margn", "margin"),
        ("triplet", "Margin", "margin"),
        ("hphn_triplet", "softmargin", "soft_margin"),
        ("n_pair", "scales", "scale"),
        ("lifted_structure", "margins", "margin"),
        ("multi_similarity", "alfa", "alpha"),
        ("multi_similarity", "normalise", "normalize"),
    ],
)
def test_a_mistyped_parameter_is_refused_with_the_nearest(name: str, given: str, nearest: str) -> None:
    assert repr(nearest) in message(UnknownName, LOSSES[name], **{given: 2.0})


def test_a_mistyped_option_of_the_expansion_is_refused_with_the_nearest() -> None:
    text = message(UnknownName, lambda: EmbeddingExpansion(MultiSimilarityLoss(), statistic=True))
    assert "'statistics'" in text


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TripletLoss(margin="a"), "a number"),
        (lambda: TripletLoss(margin=math.nan), "finite"),
        (lambda: HPHNTripletLoss(soft_margin=1), "True or False"),
        (lambda: MultiSimilarityLoss(alpha=0), "above 0"),
        (lambda: MultiSimilarityLoss(beta=-1.0), "above 0"),
        (lambda: NPairLoss(scale=True), "a number"),
        (lambda: TripletLoss(ignore_index="a"), "ignore_index"),
        (lambda: TripletLoss(ignore_index=0.5), "ignore_index"),
    ],
)
def test_a_parameter_of_the_wrong_kind_is_refused_when_the_loss_is_made(make: Callable[[], Any], says: str) -> None:
    assert says in message((InvalidInput, InvalidType), make)
