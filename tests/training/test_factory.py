"""The loss, the optimiser and the schedule that a configuration describes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import PROXY_LOSSES, MultiSimilarityLoss, SubCenterArcFaceLoss, TripletLoss
from embedding_expansion.core.memory import CrossBatchMemory
from embedding_expansion.core.miners import (
    BatchHardMiner,
    DistanceWeightedMiner,
    EasyPositiveMiner,
    MultiSimilarityMiner,
)
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.synthetic_samples import SyntheticSamples
from embedding_expansion.errors import InvalidInput, InvalidType, UnknownName
from embedding_expansion.forms import FORMS, FormName, Scope
from embedding_expansion.model.network import EmbeddingModel
from embedding_expansion.runs.config import dump, from_namespace, load, parser
from embedding_expansion.runs.options import (
    ExpansionConfig,
    MemoryConfig,
    MinerConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from embedding_expansion.training import factory
from embedding_expansion.training.factory import make_loss, make_optimizer, set_learning_rate


def config(loss: dict[str, object], n: object = 2) -> TrainConfig:
    return dataclasses.replace(TrainConfig(), loss=loss, expansion=ExpansionConfig(n=n))


def test_the_configured_loss_is_the_module_with_its_parameters() -> None:
    embeddings, labels = torch.randn(8, 4), torch.arange(8) // 2
    expected = EmbeddingExpansion(MultiSimilarityLoss(alpha=3.0), n=2)(embeddings, labels)
    assert torch.equal(make_loss(config({"name": "multi_similarity", "alpha": 3}), 9)(embeddings, labels), expected)
    plain = make_loss(config({"name": "triplet", "margin": 0.4}, n="none"), 9)
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
        make_loss(config(loss), 9)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "triplet", "margin": "wide"}, "margin of TripletLoss is 'wide'; pass a number"),
        ({"name": "triplet", "margin": True}, "margin of TripletLoss is True; pass a number"),
        (
            {"name": "triplet", "mining": "semihart"},
            "named 'semihart'; did you mean 'semihard'",
        ),
        ({"name": "triplet", "mining": 3}, "no mining of TripletLoss named 3"),
        ({"name": "hphn_triplet", "soft_margin": 1.0}, "soft_margin of HPHNTripletLoss is 1.0; pass True or False"),
        ({"name": "recall_at_k", "ks": [1, 0]}, r"ks of RecallAtKLoss holds 0; pass whole numbers of at least 1"),
        ({"name": "recall_at_k", "ks": 4}, "ks of RecallAtKLoss is 4; pass whole numbers"),
        ({"name": "histogram", "bins": 2.5}, "bins of HistogramLoss is 2.5; pass a whole number"),
        ({"name": "histogram", "bins": 0}, "bins of HistogramLoss is 0; pass a whole number of at least 1"),
        ({"name": "multi_similarity", "alpha": [2]}, r"alpha of MultiSimilarityLoss is \[2\]; pass a number"),
        ({"name": "margin", "learn_beta": "maybe"}, "learn_beta of MarginLoss is 'maybe'; pass True or False"),
        ({"name": "margin", "nu": "much"}, "nu of MarginLoss is 'much'; pass a finite number"),
        ({"name": "sub_center_arcface", "sub_centers": "three"}, "sub_centers is 'three'; pass a whole number"),
        ({"name": "soft_triple", "tau": True}, "tau of SoftTripleLoss is True; pass a finite number"),
    ],
)
def test_a_value_that_a_parameter_cannot_take_is_refused_by_the_loss_itself(
    loss: dict[str, object], message: str
) -> None:
    with pytest.raises((InvalidInput, InvalidType), match=message):
        make_loss(config(loss, n="none"), 9)


@pytest.mark.parametrize(
    ("name", "parameter", "given", "taken"),
    [
        ("triplet", "mining", "semihard", "semihard"),
        ("margin", "count", "triplets", "triplets"),
        ("recall_at_k", "ks", [1, 4], (1, 4)),
        ("histogram", "bins", 20, 20),
        ("fast_ap", "bins", 20.0, 20),
        ("fast_ap", "bins", 20, 20),
        ("multi_similarity", "alpha", 3, 3.0),
        ("hphn_triplet", "soft_margin", True, True),
    ],
)
def test_names_lists_and_whole_numbers_reach_the_loss_from_the_command_line_and_from_yaml(
    name: str, parameter: str, given: object, taken: object, tmp_path: Path
) -> None:
    text = f"{str(given).lower() if isinstance(given, bool) else given}"
    given_options = ["--expansion.n", "2", "--loss.name", name, f"--loss.{parameter}", text]
    typed = from_namespace(parser().parse_args(given_options))
    (tmp_path / "config.yaml").write_text(dump(typed), encoding="utf-8")
    for described in (typed, load(tmp_path / "config.yaml")):
        assert described.loss == {"name": name, parameter: given}
        found = make_loss(described, 9).loss.parameters_of_function[parameter]
        assert found == taken
        assert type(found) is type(taken)


def test_a_boundary_that_is_learnt_has_an_entry_for_each_class_and_is_in_the_losses_group() -> None:
    assert list(make_loss(config({"name": "margin"}), 9).parameters()) == []
    loss = make_loss(config({"name": "margin", "learn_beta": True, "beta": 1, "nu": 0.1}), 9)
    (beta,) = loss.parameters()
    assert beta.tolist() == [1.0] * 9
    settings = OptimizerConfig(lr=0.1, loss_lr_factor=20.0, weight_decay=0.25)
    optimizer = make_optimizer(settings, EmbeddingModel("conv4", 6), loss)
    set_learning_rate(optimizer, settings, 0, 5)
    (group,) = [group for group in optimizer.param_groups if group["params"][0] is beta]
    assert (len(group["params"]), group["lr"], group["weight_decay"]) == (1, 2.0, 0.0)
    with pytest.raises(UnknownName, match="num_classes"):
        make_loss(config({"name": "margin", "learn_beta": True, "num_classes": 3}), 9)


@pytest.mark.parametrize(
    ("name", "miner"),
    [
        ("multi_similarity", MultiSimilarityMiner(0.25)),
        ("easy_positive", EasyPositiveMiner()),
        ("batch_hard", BatchHardMiner()),
        ("distance_weighted", DistanceWeightedMiner(128)),
        ("none", None),
    ],
)
@pytest.mark.parametrize("n", [2, "none"])
def test_the_configured_miner_narrows_what_the_loss_gets_to_see(name: str, miner: object, n: object) -> None:
    described = dataclasses.replace(config({"name": "triplet"}, n), miner=MinerConfig(name, epsilon=0.25))
    loss = make_loss(described, 9)
    assert loss.miner == miner
    embeddings, labels = torch.randn(12, 128), torch.arange(12) // 3
    expected = TripletLoss(miner=miner) if n == "none" else EmbeddingExpansion(TripletLoss(miner=miner), n=2)
    torch.manual_seed(1)
    value = loss(embeddings, labels)
    torch.manual_seed(1)
    assert torch.equal(value, expected(embeddings, labels))


def test_a_miner_that_is_none_comes_back_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'multi_similarity'"):
        make_loss(dataclasses.replace(TrainConfig(), miner=MinerConfig("multi_similarty")), 9)
    flat = dataclasses.replace(TrainConfig(), miner=MinerConfig("distance_weighted"), model=ModelConfig(dim=2))
    with pytest.raises(InvalidInput, match="of at least 3"):
        make_loss(flat, 9)


@pytest.mark.parametrize("n", [2, "none"])
def test_the_configured_memory_is_around_the_loss_and_has_its_options(n: object) -> None:
    described = dataclasses.replace(
        config({"name": "triplet"}, n),
        memory=MemoryConfig(size=10, start=2),
        miner=MinerConfig("easy_positive"),
        model=ModelConfig(dim=6),
        chunk=3,
    )
    loss = make_loss(described, 9)
    assert isinstance(loss, CrossBatchMemory)
    assert isinstance(loss.loss, TripletLoss if n == "none" else EmbeddingExpansion)
    assert (loss.rows.shape, loss.start, loss.chunk, loss.miner) == ((10, 6), 2, 3, EasyPositiveMiner())
    for _ in range(3):
        loss(torch.randn(8, 6), torch.arange(8) // 2)
    assert set(loss.last_statistics) == {"active_share"} | (set() if n == "none" else {"synthetic_share"})


def test_a_loss_on_proxies_takes_no_memory() -> None:
    for name in PROXY_LOSSES:
        described = dataclasses.replace(config({"name": name}, n="none"), memory=MemoryConfig(size=10))
        with pytest.raises(InvalidInput, match="takes no memory; leave it out"):
            make_loss(described, 9)


def test_the_options_of_the_expansion_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    described = dataclasses.replace(TrainConfig(), expansion=ExpansionConfig(max_segments=3), chunk=5)
    loss = make_loss(described, 9)
    assert isinstance(loss, EmbeddingExpansion)
    assert (loss.expansion.max_segments, loss.expansion.n, loss.chunk) == (3, 2, 5)
    passed = []

    def expansion(inner: PairLoss, **options: object) -> PairLoss:
        passed.append(options["n"])
        return inner

    monkeypatch.setattr(factory, "EmbeddingExpansion", expansion)
    for n in ("inf", 3):
        make_loss(dataclasses.replace(TrainConfig(), expansion=ExpansionConfig(n=n)), 9)
    assert passed == [math.inf, 3]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("scope", "balance"), [(None, None), ("class_pair", False), ("negative", None)])
def test_a_form_builds_the_loss_that_it_names(name: FormName, scope: Scope | None, balance: bool | None) -> None:
    expansion = ExpansionConfig(form=name, scope=scope, balance=balance)
    loss = make_loss(dataclasses.replace(TrainConfig(), loss={"name": "triplet"}, expansion=expansion), 9)
    form = FORMS[name]
    expected = EmbeddingExpansion(
        TripletLoss(statistics=True),
        n=2,
        scope=form.scope if scope is None else scope,
        balance=form.balance if balance is None else balance,
        selective=form.selective,
    )
    assert repr(loss) == repr(expected)
    embeddings, labels = torch.randn(12, 6, requires_grad=True), torch.arange(12) // 4
    assert torch.equal(loss(embeddings, labels), expected(embeddings, labels))
    (found,), (wanted,) = (torch.autograd.grad(each(embeddings, labels), embeddings) for each in (loss, expected))
    assert torch.equal(found, wanted)


def test_the_form_samples_adds_points_and_none_is_the_loss() -> None:
    embeddings, labels = torch.randn(12, 6), torch.arange(12) // 4
    expansion = ExpansionConfig(form="samples", n=1, max_segments=2)
    loss = make_loss(dataclasses.replace(TrainConfig(), loss={"name": "triplet"}, expansion=expansion), 9)
    expected = SyntheticSamples(TripletLoss(), n=1, max_segments=2)
    assert repr(loss) == repr(expected)
    assert torch.equal(loss(embeddings, labels), expected(embeddings, labels))
    for plain in (ExpansionConfig(form="none"), ExpansionConfig(n="none")):
        config = dataclasses.replace(TrainConfig(), loss={"name": "triplet"}, expansion=plain)
        assert isinstance(make_loss(config, 9), TripletLoss)


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
    warm = dataclasses.replace(settings, schedule="none", warmup=3)
    rates = [set_learning_rate(optimizer, warm, step, 6) for step in range(6)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


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
