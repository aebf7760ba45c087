"""The loss, the optimiser and the schedule that a configuration describes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.modules import MultiSimilarityLoss, TripletLoss
from embedding_expansion.core.proxy_losses import SubCenterArcFaceLoss
from embedding_expansion.errors import InvalidInput, UnknownName
from embedding_expansion.model import EmbeddingModel
from embedding_expansion.training.config import ExpansionConfig, ModelConfig, OptimizerConfig, TrainConfig
from embedding_expansion.training.factory import BY_NAME, make_loss, make_optimizer, set_learning_rate


def config(loss: dict[str, object], n: object = 2) -> TrainConfig:
    return dataclasses.replace(TrainConfig(), loss=loss, expansion=ExpansionConfig(n=n))


def test_the_configured_loss_is_the_module_with_its_parameters() -> None:
    embeddings, labels = torch.randn(8, 4), torch.arange(8) // 2
    expected = EmbeddingExpansion(MultiSimilarityLoss(alpha=3.0), n=2)(embeddings, labels)
    assert torch.equal(make_loss(config({"name": "multi_similarity", "alpha": 3}), 9)(embeddings, labels), expected)
    plain = make_loss(config({"name": "triplet", "margin": 0.4}, n="none"), 9)
    assert torch.equal(plain(embeddings, labels), TripletLoss(margin=0.4)(embeddings, labels))


@pytest.mark.parametrize("name", BY_NAME)
def test_every_loss_is_made_by_its_name_alone(name: str) -> None:
    make_loss(config({"name": name}, n="none"), 9)


def test_a_parameter_that_is_a_name_is_given_by_name() -> None:
    embeddings, labels = torch.randn(8, 4), torch.arange(8) // 2
    found = make_loss(config({"name": "triplet", "mining": "semihard"}, n="none"), 9)(embeddings, labels)
    assert torch.equal(found, TripletLoss(mining="semihard")(embeddings, labels))


def test_the_margin_loss_learns_one_beta_or_as_many_as_are_asked_for() -> None:
    for given, size in (({}, 1), ({"num_classes": 9}, 9)):
        loss = make_loss(config({"name": "margin", "learn_beta": True, **given}, n="none"), 9)
        assert [len(parameter) for parameter in loss.parameters()] == [size]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "tripplet"}, "did you mean 'triplet'"),
        ({"name": "multi_similarity", "alfa": 2.0}, "did you mean 'alpha'"),
    ],
)
def test_names_that_are_none_come_back_with_the_nearest(loss: dict[str, object], message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        make_loss(config(loss), 9)


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "triplet", "margin": "wide"},
        {"name": "triplet", "margin": True},
        {"name": "triplet", "mining": 1.0},
        {"name": "hphn_triplet", "soft_margin": 1.0},
    ],
)
def test_parameters_of_the_wrong_kind_are_refused(loss: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="pass"):
        make_loss(config(loss), 9)


def test_the_schedules_are_functions_of_the_step_alone_and_keep_the_factors() -> None:
    settings = OptimizerConfig(lr=0.1, backbone_lr_factor=0.5, schedule="step", milestones=[2, 4], gamma=0.5)
    optimizer = make_optimizer(settings, EmbeddingModel("conv4", 4), make_loss(TrainConfig(), 9))
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
    optimizer = make_optimizer(OptimizerConfig(), model, make_loss(TrainConfig(), 9))
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in model.head.parameters()
    }
    whole = EmbeddingModel("conv4", 4, pooling="gem")
    groups = make_optimizer(OptimizerConfig(), whole, make_loss(TrainConfig(), 9)).param_groups
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(id(p) for p in whole.parameters())


def test_a_loss_with_proxies_gets_its_sizes_and_a_group_of_its_own_without_decay() -> None:
    given = config({"name": "sub_center_arcface", "sub_centers": 2, "margin": 1})
    described = dataclasses.replace(given, model=ModelConfig(dim=6))
    loss = make_loss(described, 9)
    assert isinstance(loss, EmbeddingExpansion)
    assert isinstance(loss.loss, SubCenterArcFaceLoss)
    assert loss.loss.proxies.shape == (18, 6)
    assert loss.loss.parameters_of_function == {"margin": 1.0, "scale": 64.0}
    settings = OptimizerConfig(lr=0.1, loss_lr_factor=20.0, weight_decay=0.25)
    optimizer = make_optimizer(settings, EmbeddingModel("conv4", 6), loss)
    set_learning_rate(optimizer, settings, 0, 5)
    (group,) = [group for group in optimizer.param_groups if group["params"][0] is loss.loss.proxies]
    assert len(group["params"]) == 1
    assert (group["lr"], group["weight_decay"]) == (2.0, 0.0)
    assert {other["weight_decay"] for other in optimizer.param_groups if other is not group} == {0.25}


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "proxy_anker"}, "did you mean 'proxy_anchor'"),
        ({"name": "proxy_anchor", "alfa": 2.0}, "did you mean 'alpha'"),
        ({"name": "proxy_anchor", "num_classes": 3}, "no parameter of the loss proxy_anchor named 'num_classes'"),
        ({"name": "sub_center_arcface", "sub_centers": 0}, "sub_centers is 0"),
        ({"name": "soft_triple"}, "cannot be expanded.*pass --expansion none"),
    ],
)
def test_what_proxies_cannot_be_made_of_is_refused(loss: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make_loss(config(loss), 9)
