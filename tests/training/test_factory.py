"""The loss, the optimiser and the schedule that a configuration describes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.modules import MultiSimilarityLoss, TripletLoss
from embedding_expansion.errors import InvalidInput, UnknownName
from embedding_expansion.model import EmbeddingModel
from embedding_expansion.training.config import ExpansionConfig, OptimizerConfig, TrainConfig
from embedding_expansion.training.factory import make_loss, make_optimizer, set_learning_rate


def config(loss: dict[str, object], n: object = 2) -> TrainConfig:
    return dataclasses.replace(TrainConfig(), loss=loss, expansion=ExpansionConfig(n=n))


def test_the_configured_loss_is_the_module_with_its_parameters() -> None:
    embeddings, labels = torch.randn(8, 4), torch.arange(8) // 2
    expected = EmbeddingExpansion(MultiSimilarityLoss(alpha=3.0), n=2)(embeddings, labels)
    assert torch.equal(make_loss(config({"name": "multi_similarity", "alpha": 3}))(embeddings, labels), expected)
    plain = make_loss(config({"name": "triplet", "margin": 0.4}, n="none"))
    assert torch.equal(plain(embeddings, labels), TripletLoss(margin=0.4)(embeddings, labels))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "tripplet"}, "did you mean 'triplet'"),
        ({"name": "multi_similarity", "alfa": 2.0}, "did you mean 'alpha'"),
    ],
)
def test_names_that_are_none_come_back_with_the_nearest(loss: dict[str, object], message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        make_loss(config(loss))


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "triplet", "margin": "wide"},
        {"name": "triplet", "margin": True},
        {"name": "hphn_triplet", "soft_margin": 1.0},
    ],
)
def test_parameters_of_the_wrong_kind_are_refused(loss: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="pass"):
        make_loss(config(loss))


def test_the_schedules_are_functions_of_the_step_alone_and_keep_the_factors() -> None:
    settings = OptimizerConfig(lr=0.1, backbone_lr_factor=0.5, schedule="step", milestones=[2, 4], gamma=0.5)
    optimizer = make_optimizer(settings, EmbeddingModel("conv4", 4), make_loss(TrainConfig()))
    rates = []
    for step in (0, 5, 3, 1, 2):
        set_learning_rate(optimizer, settings, step, 6)
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates == [[0.1, 0.05], [0.025, 0.0125], [0.05, 0.025], [0.1, 0.05], [0.05, 0.025]]
    cosine = dataclasses.replace(settings, schedule="cosine")
    for step in range(7):
        expected = 0.1 * 0.5 * (1 + math.cos(math.pi * step / 6))
        assert set_learning_rate(optimizer, cosine, step, 6) == pytest.approx(expected)


def test_every_parameter_is_in_one_group_and_frozen_ones_in_none() -> None:
    model = EmbeddingModel("conv4", 4, freeze_backbone=True, pooling="gem")
    optimizer = make_optimizer(OptimizerConfig(), model, make_loss(TrainConfig()))
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in model.head.parameters()
    }
    whole = EmbeddingModel("conv4", 4, pooling="gem")
    groups = make_optimizer(OptimizerConfig(), whole, make_loss(TrainConfig())).param_groups
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(id(p) for p in whole.parameters())
