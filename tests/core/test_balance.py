"""Balance: the rule itself, every loss against a slow reference, and one lambda for blocks, ranks and memories."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embedding_expansion import CrossBatchMemory, DistanceWeightedMiner, EmbeddingExpansion, MultiSimilarityMiner
from embedding_expansion.core.balance import Contraction, Forces, pull_share
from embedding_expansion.core.batch import Batch
from embedding_expansion.core.losses import LOSSES, MultiSimilarityLoss, TripletLoss
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import InvalidInput, InvalidType

from . import oracles
from .batches import UNEQUAL, batch, batch_for
from .proxies import EXPANDABLE as PROXY_NAMES
from .proxies import numbered_batch, proxy_loss

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import losses as peers

EXPANDED = [(name, scope) for name, scope in oracles.CASES if scope is not None]
OF_ALL = [*(name for name in LOSSES if not LOSSES[name].not_expandable), *PROXY_NAMES]
pytestmark = pytest.mark.filterwarnings("ignore::embedding_expansion.errors.DegenerateBatchWarning")


def any_loss(name: str, **options: Any) -> PairLoss:
    return proxy_loss(name, **options) if name in PROXY_NAMES else LOSSES[name](**options)


def expanded(name: str, balance: Any = True, scope: Any = "class_pair", **options: Any) -> EmbeddingExpansion:
    return EmbeddingExpansion(any_loss(name), n=2, scope=scope, balance=balance, statistics=True, **options)


def numbered(seed: int = 0) -> tuple[Tensor, Tensor]:
    return numbered_batch(None, seed)


def stepped(loss: torch.nn.Module, E: Tensor, labels: Any, **given: Any) -> tuple[Tensor, Tensor, float]:
    """The value, the gradient of the rows, and lambda (NaN where none was computed)."""
    rows = E.clone().requires_grad_()
    value = loss(rows, labels, **given)
    (gradient,) = torch.autograd.grad(value, rows)
    return value.detach(), gradient, float(loss.last_statistics.get("balance", torch.tensor(math.nan)))


# --- the rule ---------------------------------------------------------------------------------------------------------


def forces(pull: float, push: float, has_negatives: bool = True) -> Forces:
    return Forces(*(torch.tensor(x, dtype=torch.float64) for x in (pull, push)), torch.tensor(has_negatives))


@pytest.mark.parametrize(
    ("of_expanded", "of_plain", "share"),
    [
        (forces(4, 1), forces(4, 2), 0.5),
        (forces(4, 1), forces(1, 2), 0.25),  # r(C) = 2 counts as 1
        (forces(4, 3), forces(4, 2), 1),
        (forces(4, 1), forces(-1, 2), 0.25),  # r(C) counts as 1 where nothing pulls
        (forces(4, 1), forces(0, 2), 0.25),
        (forces(-1, 1), forces(4, 2), 1),
        (forces(0, 0), forces(4, 2), 1),
        (forces(4, 1), forces(4, 0), 1),
        (forces(4, 1), forces(4, -1), 1),
        (forces(4, 0), forces(4, 2), 0),
        (forces(4, -1), forces(4, 2), 0),
        (forces(4, 0, has_negatives=False), forces(4, 2), 1),
        (forces(4, 1), forces(0, 0, has_negatives=False), 1),
        (forces(4, math.nan), forces(4, 2), 1),
        (forces(math.nan, 1), forces(4, 2), 1),
        (forces(math.inf, math.inf), forces(4, 2), 1),
    ],
)
def test_every_branch_of_the_rule(of_expanded: Forces, of_plain: Forces, share: float) -> None:
    assert float(pull_share(of_expanded, of_plain)) == share


@given(*[st.floats(-1e6, 1e6)] * 4, st.floats(1e-12, 1e12))
def test_lambda_is_from_0_to_1_and_a_constant_factor_changes_nothing(
    a: float, b: float, c: float, d: float, factor: float
) -> None:
    share = float(pull_share(forces(a, b), forces(c, d)))
    assert 0 <= share <= 1
    scaled = float(pull_share(forces(factor * a, factor * b), forces(factor * c, factor * d)))
    assert scaled == pytest.approx(share, abs=1e-9)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_a_table_is_its_own_yardstick(pull: float, push: float) -> None:
    assert float(pull_share(forces(pull, push), forces(pull, push))) == pytest.approx(1, abs=1e-12)


# --- pull and push ----------------------------------------------------------------------------------------------------


@contextmanager
def constants_held(patch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """What a loss detaches keeps its first values, as its gradient has it; the yielded function starts a new pass."""
    kept: list[Tensor] = []
    at = [-1]
    original = Tensor.detach

    def detach(self: Tensor) -> Tensor:
        at[0] += 1
        if at[0] == len(kept):
            kept.append(original(self).clone())
        return kept[at[0]]

    def again() -> None:
        at[0] = -1

    with patch.context() as context:
        context.setattr(Tensor, "detach", detach)
        yield again


@pytest.mark.parametrize("table", ["plain", "class_pair", "negative"])
@pytest.mark.parametrize("name", OF_ALL)
def test_a_contraction_of_the_table_changes_every_loss_by_push_minus_pull(
    name: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    E, labels = numbered(seed=4)
    loss = any_loss(name) if table == "plain" else expanded(name, False, table)
    pairs, given_batch = loss.table(E.requires_grad_(), labels)
    contraction = Contraction(E)
    pull, push, _ = contraction.forces(loss.terms(contraction.watch(pairs), given_batch), None)

    def value(e: float, again: Callable[[], None]) -> float:
        again()
        with torch.no_grad():
            moved = replace(
                pairs,
                positive=pairs.positive + e * (1 - pairs.positive),
                negative=pairs.negative + e * (1 - pairs.negative),
            )
            return loss.terms(moved, given_batch).mean().item()

    with constants_held(monkeypatch) as again:
        value(0, again)
        numerical = (value(1e-6, again) - value(-1e-6, again)) / 2e-6
    assert float(push - pull) == pytest.approx(numerical, rel=1e-5, abs=1e-7)
    assert float(pull.abs() + push.abs()) > 0


def reference(name: str, E: Tensor, labels: list[int], scope: str) -> tuple[Tensor, float]:
    """The gradient of the rows and lambda, from lists of similarities and autograd alone."""
    metric = oracles.METRICS[name]

    def as_leaves(table: oracles.Table) -> oracles.Table:
        def leaves(entries: Any) -> Any:
            return [leaves(x) if isinstance(x, list) else x.detach().requires_grad_() for x in entries]

        return replace(
            table,
            positives=leaves(table.positives),
            negatives=leaves(table.negatives),
            partner_negatives=leaves(table.partner_negatives),
        )

    def flat(entries: Any) -> list[Tensor]:
        return [y for x in entries for y in (flat(x) if isinstance(x, list) else [x])]

    def ratio(table: oracles.Table) -> tuple[float, float]:
        table = as_leaves(table)
        sides = flat(table.positives), flat(table.negatives) + flat(table.partner_negatives)
        value = oracles.mean(oracles.ORACLES[name](table))
        grads = torch.autograd.grad(value, [*sides[0], *sides[1]], allow_unused=True)
        entries = zip(grads, [*sides[0], *sides[1]], strict=True)
        moved = [0.0 if g is None else float(g * (1 - s.detach())) for g, s in entries]
        return -sum(moved[: len(sides[0])]), sum(moved[len(sides[0]) :])

    table = oracles.expanded_table(E, labels, 2, scope, metric=metric)
    pull, push = ratio(table)
    plain_pull, plain_push = ratio(oracles.plain_table(E, labels, metric))
    yardstick = min(1.0, plain_push / plain_pull) if plain_pull > 0 else 1.0
    share = 1.0
    if pull > 0 and plain_push > 0:
        share = max(0.0, min(1.0, push / pull / yardstick))
    scaled = [[share * s + (1 - share) * s.detach() for s in row] for row in table.positives]
    value = oracles.mean(oracles.ORACLES[name](replace(table, positives=scaled)))
    return oracles.gradient(value, E), share


@pytest.mark.parametrize(("name", "scope"), EXPANDED)
def test_the_gradient_is_that_of_a_slow_reference(name: str, scope: str) -> None:
    E, labels = batch_for(scope, seed=7)
    value, gradient, share = stepped(expanded(name, scope=scope, normalize=False), E, labels)
    expected, expected_share = reference(name, E.clone().requires_grad_(), labels.tolist(), scope)
    assert share == pytest.approx(expected_share, rel=1e-6, abs=1e-9)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)
    assert value == stepped(expanded(name, False, scope, normalize=False), E, labels)[0]


def test_the_forms_differ_in_lambda_so_that_the_tests_above_see_it() -> None:
    shares = [stepped(expanded(name, scope=scope), *batch_for(scope, seed=7))[2] for name, scope in EXPANDED]
    assert sum(0.01 < share < 0.99 for share in shares) > len(shares) / 3


class OfPlainTable(EmbeddingExpansion):
    """An expansion whose table is the plain one."""

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        return self.loss.compare(batch, statistics=False)

    def columns(self, batch: Batch) -> Tensor:
        return self.loss.columns(batch)


@pytest.mark.parametrize("name", OF_ALL)
def test_lambda_is_1_where_the_expanded_table_is_the_plain_one(name: str) -> None:
    E, labels = numbered(seed=2)
    found = stepped(OfPlainTable(any_loss(name), balance=True, statistics=True), E, labels)
    assert found[2] == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(found[1], stepped(any_loss(name), E, labels)[1], rtol=1e-9, atol=1e-12)


class Scaled(MultiSimilarityLoss):
    factor = 1.0

    def terms(self, pairs: Pairs, batch: Batch, statistic: Tensor | None = None) -> Terms:
        terms = super().terms(pairs, batch, statistic)
        return Terms(self.factor * terms.total, terms.weight)


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_a_loss_times_a_constant_has_the_same_lambda(factor: float) -> None:
    E, labels = batch(UNEQUAL)
    scaled = Scaled()
    scaled.factor = factor
    shares = [stepped(EmbeddingExpansion(x, balance=True, statistics=True), E, labels)[2] for x in (Scaled(), scaled)]
    assert shares[1] == pytest.approx(shares[0], rel=1e-9)
    assert 0 < shares[0] < 1


# --- one lambda however the batch is computed -------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["class_pair", "negative"])
@pytest.mark.parametrize("name", OF_ALL)
def test_blocks_give_the_lambda_and_the_gradient_of_the_whole(name: str, scope: str) -> None:
    E, labels = numbered(seed=5)
    whole, blocks = (stepped(expanded(name, scope=scope, chunk=size), E, labels) for size in (None, 4))
    assert blocks[2] == pytest.approx(whole[2], rel=1e-6, abs=1e-9)
    torch.testing.assert_close(blocks[:2], whole[:2], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scope", ["class_pair", "negative"])
@pytest.mark.parametrize("name", [name for name in OF_ALL if name in LOSSES])
def test_a_memory_is_like_rows_that_are_not_anchors(name: str, scope: str) -> None:
    (first, labels), (E, others) = batch(UNEQUAL, seed=1), batch(UNEQUAL, seed=2)
    memory = CrossBatchMemory(expanded(name, scope=scope), embedding_size=4, size=16, statistics=True).double()
    memory(first, labels)
    found = stepped(memory, E, others)
    from_memory = torch.arange(len(E) + len(first)) >= len(E)
    rows, both = torch.cat([E, first]), torch.cat([others, labels])
    value, gradient, share = stepped(expanded(name, scope=scope), rows, both, from_memory=from_memory)
    assert found[2] == pytest.approx(share, rel=1e-6, abs=1e-9)
    torch.testing.assert_close(found[:2], (value, gradient[: len(E)]), rtol=1e-6, atol=1e-9)
    plain = LOSSES[name]().table(rows, both, from_memory=from_memory)[0]  # the same anchors and memory rows
    assert plain.positive.shape[0] == len(E)


@pytest.mark.parametrize("name", OF_ALL)
@pytest.mark.filterwarnings("ignore")  # torch warns of its own code as it compiles
def test_a_compiled_call_is_one_graph_break_and_gives_the_same(name: str) -> None:
    E, labels = numbered(seed=3)
    loss = expanded(name)
    eager = stepped(loss, E, labels)
    torch.compiler.reset()
    rows = E.clone().requires_grad_()
    found = torch._dynamo.explain(lambda x: loss(2 * x, labels) + 1)(rows)
    assert found.graph_break_count == 1
    value = torch.compile(lambda x: loss(x, labels), backend="eager")(rows)
    torch.testing.assert_close((value.detach(), torch.autograd.grad(value, rows)[0]), eager[:2], rtol=1e-9, atol=1e-11)


# --- what it leaves alone, and what it refuses ------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradient_the_value_is_the_same_and_no_lambda_is_computed(mode: Any) -> None:
    E, labels = batch(UNEQUAL)
    with mode():
        loss = expanded("triplet")
        assert loss(E, labels) == expanded("triplet", False)(E, labels)
    assert "balance" not in loss.last_statistics


BATCHES = {
    "one image in every class": (torch.eye(4, dtype=torch.float64), [0, 1, 2, 3]),
    "one class": (batch((4,))[0], [1] * 4),
    "the same image in all classes": (
        torch.cat([batch((2, 2, 2), seed=5)[0], torch.ones(3, 4, dtype=torch.float64)]),
        [0, 0, 1, 1, 3, 3, 0, 1, 3],
    ),
    "collapsed": (torch.ones(6, 4, dtype=torch.float64), [0, 0, 1, 1, 3, 3]),
    "nothing active": (torch.eye(4, dtype=torch.float64).repeat_interleave(2, 0), [0, 0, 1, 1, 3, 3, 4, 4]),
    "nearly collapsed": (1 + 1e-9 * batch((2, 2, 2))[0], [0, 0, 1, 1, 3, 3]),
    "no row": (torch.zeros(0, 4, dtype=torch.float64), []),
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("name", OF_ALL)
def test_degenerate_batches_have_a_finite_lambda_and_gradient(name: str, kind: str) -> None:
    E, labels = BATCHES[kind][0], torch.tensor(BATCHES[kind][1], dtype=torch.int64)
    loss = expanded(name)
    value, gradient, share = stepped(loss, E, labels)
    assert value == stepped(expanded(name, False), E, labels)[0]
    assert gradient.isfinite().all()
    assert 0 <= share <= 1 or kind == "no row"
    if kind in ("one image in every class", "one class") and name in LOSSES:
        assert share == 1
    if kind == "the same image in all classes" and name in LOSSES:  # its hardest pairs coincide: nothing pushes
        known = loss.last_statistics
        assert abs(known["push"]) < 1e-9
        assert share == pytest.approx(float(known["pull"] <= 0 or known["plain_push"] <= 0), abs=1e-6)


def test_arcs_that_cross_leave_no_push_and_the_pull_is_dropped() -> None:
    angles = torch.tensor([0.0, 2.0, 1.0, 3.0], dtype=torch.float64)
    E = torch.stack([angles.cos(), angles.sin()], dim=1)
    loss = EmbeddingExpansion(TripletLoss(), n=math.inf, balance=True, statistics=True)
    _, gradient, share = stepped(loss, E, [0, 0, 1, 1])
    assert share == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-9
    assert loss.last_statistics["no_push"] in (0, 1)


@pytest.mark.parametrize("chunk", [None, 3])
def test_a_miner_draws_once_and_leaves_the_random_state_as_without_balance(chunk: int | None) -> None:
    E, labels = batch(UNEQUAL)
    ends = []
    for balance in (False, True):
        torch.manual_seed(3)
        loss = expanded("multi_similarity", balance, miner=DistanceWeightedMiner(4), chunk=chunk)
        ends.append((stepped(loss, E, labels)[0], torch.rand(1)))
    assert ends[0] == ends[1]
    generator = torch.Generator().manual_seed(3)
    loss = expanded("multi_similarity", miner=DistanceWeightedMiner(4, generator))
    stepped(loss, E, labels)
    other = torch.Generator().manual_seed(3)
    stepped(expanded("multi_similarity", False, miner=DistanceWeightedMiner(4, other)), E, labels)
    assert torch.equal(generator.get_state(), other.get_state())


def test_a_loss_on_inner_products_asks_for_unit_rows() -> None:
    E, labels = batch(UNEQUAL, unit=False)
    for name, balance in (("multi_similarity", True), ("triplet", "sphere")):
        with pytest.raises(InvalidInput, match="this balance is defined for unit vectors, but row"):
            stepped(expanded(name, balance, normalize=False), 3 * E, labels)
    stepped(expanded("triplet", normalize=False), 3 * E, labels)  # Euclidean distances need none


@pytest.mark.parametrize("options", [{"balance": "circle"}, {"balance": 1.5}, {"balance": True, "selective": True}])
def test_other_values_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises((InvalidInput, InvalidType)):
        EmbeddingExpansion(TripletLoss(), **options)


def test_what_a_loss_learns_gets_the_gradient_of_the_balanced_reading() -> None:
    E, labels = numbered(seed=6)
    found = []
    for balance in (False, True):
        torch.manual_seed(0)
        loss = EmbeddingExpansion(
            LOSSES["margin"](beta=0.9, learn_beta=True, nu=0.1), balance=balance, statistics=True
        ).double()
        loss(E.clone().requires_grad_(), labels).backward()
        found.append(loss.loss.beta.grad)
    assert torch.equal(found[0], found[1])  # beta reads values, which balance does not change


class CountingMiner(torch.nn.Module):
    """A miner that is a module with a buffer, and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.draws: list[float] = []

    def forward(self, pairs: Pairs) -> Pairs:
        self.draws.append(float(torch.rand(())))
        return pairs


def test_the_plain_table_is_mined_from_the_same_random_state_and_the_wrapped_loss_is_not_changed() -> None:
    E, labels = batch(UNEQUAL)
    ours, inner = CountingMiner(), LOSSES["triplet"](miner=CountingMiner())
    loss = EmbeddingExpansion(inner, balance=True, miner=ours)
    before = list(loss.state_dict()), inner.miner
    stepped(loss, E, labels)
    assert (list(loss.state_dict()), inner.miner) == before
    assert len(ours.draws) == 2
    assert ours.draws[0] == ours.draws[1]
    stepped(EmbeddingExpansion(inner, balance=True, miner=None), E, labels)
    assert inner.miner is before[1]


def test_the_figures_are_those_of_the_last_batch() -> None:
    E, labels = batch(UNEQUAL)
    loss = expanded("triplet")
    stepped(loss, E, labels)
    assert "balance" in loss.last_statistics
    with torch.no_grad():
        loss(E, labels)
    assert loss.last_statistics.keys() == {"active_share", "synthetic_share"}


def test_second_derivatives_hold_lambda_fixed() -> None:
    E, labels = batch((2, 2, 2), seed=3)
    loss = expanded("multi_similarity")
    rows = E.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(rows, labels), rows, create_graph=True)
    (penalty,) = torch.autograd.grad(gradient.square().sum(), rows)
    assert penalty.isfinite().all()
    assert penalty.abs().max() > 0


# --- losses of pytorch-metric-learning --------------------------------------------------------------------------------

SAME = {
    "triplet": (peers.TripletMarginLoss(margin=0.2), {"margin": 0.2, "squared": False, "average": "active"}),
    "multi_similarity": (peers.MultiSimilarityLoss(), {}),
    "contrastive": (peers.ContrastiveLoss(), {"squared": False, "average": "active"}),
    "sup_con": (peers.SupConLoss(), {}),
    "nt_xent": (peers.NTXentLoss(), {}),
}


@pytest.mark.parametrize("mined", [False, True])
@pytest.mark.parametrize("name", SAME)
def test_a_loss_of_another_library_has_the_lambda_of_ours(name: str, mined: bool) -> None:
    theirs, parameters = SAME[name]
    E, labels = batch(UNEQUAL, seed=8)
    miner = MultiSimilarityMiner() if mined else None
    found = [
        stepped(EmbeddingExpansion(x, balance=True, statistics=True, miner=miner), E, labels)
        for x in (theirs, LOSSES[name](**parameters))
    ]
    assert found[0][2] == pytest.approx(found[1][2], rel=1e-6)
    torch.testing.assert_close(found[0][:2], found[1][:2], rtol=1e-6, atol=1e-8)


SEPARATED = torch.eye(4, dtype=torch.float64).repeat_interleave(3, 0) + 1e-4 * torch.eye(12, 4, dtype=torch.float64)


@pytest.mark.parametrize("labels", [[0] * 3 + [1] * 3 + [2] * 3 + [3] * 3, [0] * 12, list(range(12))], ids=str)
@pytest.mark.parametrize("kind", ["TripletMarginLoss", "ContrastiveLoss", "MarginLoss"])
def test_a_loss_of_another_library_with_nothing_to_do_is_balanced_with_1(kind: str, labels: list[int]) -> None:
    loss = EmbeddingExpansion(getattr(peers, kind)(), balance=True, statistics=True)
    value, gradient, share = stepped(loss, SEPARATED, labels)
    unbalanced = stepped(EmbeddingExpansion(getattr(peers, kind)()), SEPARATED, labels)
    torch.testing.assert_close((value, gradient), unbalanced[:2])
    assert share == 1


def test_on_the_sphere_a_loss_that_normalises_later_does_not_see_the_norms() -> None:
    E, labels = batch(UNEQUAL, seed=8)
    scale = torch.linspace(0.1, 10, len(E), dtype=torch.float64)[:, None]
    loss = EmbeddingExpansion(peers.TripletMarginLoss(), balance="sphere", statistics=True)
    assert stepped(loss, E * scale, labels)[2] == pytest.approx(stepped(loss, E, labels)[2], rel=1e-9)


def test_the_plain_reading_of_a_loss_that_keeps_state_is_of_a_copy() -> None:
    theirs = peers.MarginLoss(beta=1.2, learn_beta=True).double()
    theirs.collect_stats = True
    before = copy.deepcopy(theirs.state_dict())
    loss = EmbeddingExpansion(theirs, balance=True)
    unbalanced = EmbeddingExpansion(copy.deepcopy(theirs))
    E, labels = batch(UNEQUAL, seed=8)
    stepped(loss, E, labels)
    stepped(unbalanced, E, labels)
    assert str(before) == str(theirs.state_dict())
    assert theirs.reducer.__dict__.keys() == unbalanced.loss.loss.reducer.__dict__.keys()


# --- on the sphere ----------------------------------------------------------------------------------------------------


def test_on_the_sphere_pull_and_push_are_those_of_rows_that_move_towards_their_mean() -> None:
    E, labels = batch(UNEQUAL, seed=9)
    mean = E.mean(dim=0)
    loss = LOSSES["sup_con"](normalize=False)

    def value(e: float) -> float:
        rows = E + e * mean
        return float(loss(rows / rows.norm(dim=1, keepdim=True), labels))

    numerical = (value(1e-6) - value(-1e-6)) / 2e-6
    expansion = EmbeddingExpansion(loss, balance="sphere", statistics=True)
    stepped(expansion, E, labels)
    known = expansion.last_statistics
    assert float(known["plain_push"] - known["plain_pull"]) == pytest.approx(numerical, rel=1e-6)


@pytest.mark.parametrize("scope", ["class_pair", "anchor", "negative"])
def test_on_the_sphere_the_factors_are_those_of_the_points_themselves(scope: str) -> None:
    E, labels = batch_for(scope, seed=9)
    expansion = EmbeddingExpansion(MultiSimilarityLoss(), scope=scope, balance="sphere", statistics=True)
    stepped(expansion, E, labels)
    mean = E.mean(dim=0)
    table = oracles.expanded_table(E, labels.tolist(), 2, scope, metric="inner")
    leaves = [[s.detach().requires_grad_() for s in row] for row in table.negatives]
    terms = oracles.ORACLES["multi_similarity"](replace(table, negatives=leaves))
    push = 0.0
    for row, pairs in zip(leaves, table.winners, strict=True):
        grads = torch.autograd.grad(oracles.mean(terms), row, retain_graph=True)
        for g, s, (p, q) in zip(grads, row, pairs, strict=True):
            push += float(g * (1 - s.detach()) * (p.vector @ mean + q.vector @ mean))
    assert float(expansion.last_statistics["push"]) == pytest.approx(push, rel=1e-6)


@pytest.mark.parametrize("name", PROXY_NAMES)
def test_on_the_sphere_both_tables_of_every_loss_on_proxies_are_weighed(name: str) -> None:
    E, labels = numbered(seed=6)
    figures = []
    for balance in (True, "sphere"):
        loss = EmbeddingExpansion(proxy_loss(name), balance=balance, statistics=True)
        stepped(loss, E, labels)
        figures.append({key: float(loss.last_statistics[key]) for key in ("pull", "push", "plain_pull", "plain_push")})
    assert all(figures[0][key] != figures[1][key] for key in figures[0] if figures[0][key])
