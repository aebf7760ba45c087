"""Cross-batch memory: every loss against a queue that is kept apart, as a plain list."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import (
    LOSSES,
    PROXY_LOSSES,
    ContrastiveLoss,
    MarginLoss,
    MultiSimilarityLoss,
    TripletLoss,
)
from embedding_expansion.core.memory import CrossBatchMemory
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import DegenerateBatchWarning, InvalidInput, InvalidType

from . import oracles
from .batches import batch

every_case = pytest.mark.parametrize(("name", "scope"), oracles.CASES)
SIZES = [(3, 1, 2, 4), (2, 4, 1), (2, 0, 3, 0, 2), (3, 3, 2)]  # classes come and go; some are in the queue only
PAIRED = [(4, 2, 2), (2, 4), (2, 0, 2, 0, 2), (2, 2, 4)]


def batches(scope: str | None, *, unit: bool = False) -> list[tuple[Tensor, Tensor]]:
    sizes = PAIRED if scope == "anchor" else SIZES
    return [batch(given, seed=step, unit=unit, paired=scope == "anchor") for step, given in enumerate(sizes)]


def loss_of(name: str, scope: str | None = None, **options: Any) -> PairLoss:
    loss = LOSSES[name](**options)
    return loss if scope is None else EmbeddingExpansion(loss, n=2, scope=scope)


def memory_of(loss: PairLoss, size: int, **options: Any) -> CrossBatchMemory:
    return CrossBatchMemory(loss, 4, size=size, **options).double()


class Queue:
    """The last rows that were entered, oldest first, in lists."""

    def __init__(self, size: int) -> None:
        self.size, self.rows, self.labels = size, [], []

    def enter(self, E: Tensor, labels: Tensor) -> None:
        self.rows = [*self.rows, *normalize(E.detach(), dim=1)][-self.size :]
        self.labels = [*self.labels, *labels.tolist()][-self.size :]

    def loss(self, inner: PairLoss, E: Tensor, labels: Tensor) -> Tensor:
        """The loss of the batch and, behind it, what is in the queue."""
        if not self.rows:
            return inner(E, labels)
        together, names = torch.cat([E, torch.stack(self.rows)]), [*labels.tolist(), *self.labels]
        return inner(together, names, from_memory=torch.arange(len(names)) >= len(labels))


@pytest.mark.parametrize("size", [6, 14, 100])  # smaller than a batch, filled and begun anew, and never full
@every_case
def test_the_value_and_the_gradient_are_those_of_the_batch_with_the_queue_behind_it(
    name: str, scope: str | None, size: int
) -> None:
    memory, queue = memory_of(loss_of(name, scope), size), Queue(size)
    for E, labels in batches(scope):
        values = []
        for function in (memory, lambda *given: queue.loss(loss_of(name, scope), *given)):
            rows = E.clone().requires_grad_()
            value = function(rows, labels)
            value.backward()
            values.append((value, rows.grad))
        torch.testing.assert_close(values[0], values[1], rtol=1e-9, atol=1e-10)
        queue.enter(E, labels)


@pytest.mark.parametrize("size", [1, 6, 14, 100])
def test_the_queue_holds_the_newest_rows_normalised_and_in_double_use_of_no_row(size: int) -> None:
    memory, queue = memory_of(MultiSimilarityLoss(), size), Queue(size)
    for E, labels in batches(None):
        memory(E, labels)
        queue.enter(E, labels)
        rows, names = memory.queue()
        assert sorted(names.tolist()) == sorted(queue.labels)
        order, expected = rows[:, 0].argsort(), torch.stack(queue.rows)
        torch.testing.assert_close(rows[order], expected[expected[:, 0].argsort()])
        assert not rows.requires_grad


def test_before_the_start_the_queue_fills_and_is_not_compared_with() -> None:
    memory, queue = memory_of(TripletLoss(), 100, start=2), Queue(100)
    for step, (E, labels) in enumerate(batches(None)):
        expected = TripletLoss()(E, labels) if step < 2 else queue.loss(TripletLoss(), E, labels)
        torch.testing.assert_close(memory(E, labels), expected)
        queue.enter(E, labels)


def test_in_evaluation_mode_the_queue_is_compared_with_and_stays_as_it_is() -> None:
    memory, (first, second, *_) = memory_of(TripletLoss(), 100), batches(None)
    memory(*first)
    memory.eval()
    before = copy.deepcopy(memory.state_dict())
    values = [memory(*second) for _ in range(2)]
    assert values[0] == values[1] != TripletLoss()(*second)
    assert all(torch.equal(tensor, before[name]) for name, tensor in memory.state_dict().items())
    assert memory.train()(*second) == values[0]
    assert int(memory.entered) == len(first[1]) + len(second[1])


@pytest.mark.parametrize("scope", [None, "class_pair", "anchor", "negative"])
def test_a_state_dict_goes_on_where_it_was_taken(scope: str | None) -> None:
    whole, begun = (memory_of(loss_of("triplet", scope), 14, start=1) for _ in range(2))
    first, second, *rest = batches(scope)
    for E, labels in (first, second):
        whole(E, labels)
        begun(E, labels)
    assert set(begun.state_dict()) == {"rows", "labels", "entered", "batches"}
    resumed = memory_of(loss_of("triplet", scope), 14, start=1)
    resumed.load_state_dict(begun.state_dict())
    for E, labels in rest:
        assert torch.equal(whole(E, labels), resumed(E, labels))
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_the_queue_goes_where_the_module_goes() -> None:
    memory = CrossBatchMemory(TripletLoss(), 4, size=8)
    assert (memory.rows.dtype, memory.labels.dtype, memory.entered.dtype) == (torch.float32, torch.int64, torch.int64)
    memory.to("meta")
    assert {tensor.device.type for tensor in memory.state_dict().values()} == {"meta"}
    assert len(memory.state_dict()) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here")
def test_on_a_gpu_the_queue_gives_the_values_of_the_cpu() -> None:
    here = memory_of(loss_of("multi_similarity", "class_pair"), 14)
    there = copy.deepcopy(here).to("cuda")
    for E, labels in batches(None):
        torch.testing.assert_close(there(E.cuda(), labels.cuda()).cpu(), here(E, labels))
    assert all(tensor.is_cuda for tensor in there.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("normalised", [True, False])
def test_half_precision_enters_a_queue_of_float32(dtype: torch.dtype, normalised: bool) -> None:
    memory = CrossBatchMemory(EmbeddingExpansion(MultiSimilarityLoss(normalize=normalised)), 4, size=14)
    wide = copy.deepcopy(memory)
    for E, labels in batches(None, unit=True):
        half = E.to(dtype).requires_grad_()
        value = memory(half, labels)
        value.backward()
        assert torch.equal(value, wide(E.to(dtype).float(), labels))
        assert half.grad.isfinite().all()
    assert memory.rows.dtype == torch.float32
    assert torch.equal(memory.rows, wide.rows)


@pytest.mark.parametrize("chunk", [3, 100])
@pytest.mark.parametrize("scope", [None, "class_pair", "anchor", "negative"])
@pytest.mark.parametrize("name", ["multi_similarity", "lifted_structure", "histogram"])
def test_in_blocks_a_batch_enters_once_and_gives_the_same(name: str, scope: str | None, chunk: int) -> None:
    whole, blocks = memory_of(loss_of(name, scope), 14), memory_of(loss_of(name, scope, chunk=chunk), 14)
    for E, labels in batches(scope):
        results = []
        for memory in (whole, blocks):
            rows = E.clone().requires_grad_()
            value = memory(rows, labels)
            value.backward()
            results.append((value, rows.grad))
        torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)
    assert all(torch.equal(whole.state_dict()[name], tensor) for name, tensor in blocks.state_dict().items())


def test_ignored_rows_do_not_enter_and_rows_are_those_of_the_batch() -> None:
    memory, (first, second, *_) = memory_of(MultiSimilarityLoss(ignore_index=-1), 100), batches(None)
    memory(torch.cat([first[0], torch.ones(3, 4, dtype=torch.float64)]), [*first[1].tolist(), -1, -1, -1])
    assert memory.queue()[1].tolist() == first[1].tolist()
    rows = torch.tensor([4, 0])
    some, names = memory.eval().per_anchor(*second, rows=rows), memory.queue()[1]
    torch.testing.assert_close(some.total, memory.per_anchor(*second).total[:, rows])
    assert torch.equal(memory.queue()[1], names)
    other = memory_of(TripletLoss(), 100)
    other(*first)
    with pytest.raises(InvalidInput, match="the batch has rows 0 to"):
        other(*second, rows=torch.tensor([len(second[1])]))


def test_a_boundary_for_each_class_is_found_with_a_queue_as_well() -> None:
    margin = MarginLoss(learn_beta=True, num_classes=3)
    memory = memory_of(EmbeddingExpansion(margin), 8)
    for _ in range(2):
        memory(torch.randn(6, 4, dtype=torch.float64), [0, 0, 1, 1, 1, 0]).backward()
    assert set(memory.state_dict()) == {"rows", "labels", "entered", "batches", "loss.loss.beta"}
    assert (margin.beta.grad[:2] != 0).all()
    assert margin.beta.grad[2] == 0  # no anchor is of that class


def test_a_batch_that_cannot_be_used_does_not_enter() -> None:
    memory, (first, second, *_) = memory_of(TripletLoss(), 100), batches(None)
    memory(*first)
    bad = second[0].clone()
    bad[1, 2] = math.nan
    with pytest.raises(InvalidInput, match="NaN"):
        memory(bad, second[1])
    with pytest.raises(InvalidInput, match="embeddings has 5 dimensions, but embedding_size is 4"):
        memory(torch.ones(2, 5), [0, 1])
    assert (int(memory.entered), int(memory.batches)) == (len(first[1]), 1)


def test_a_batch_enters_once_its_loss_is_there_and_looking_does_not_count() -> None:
    (E, labels), *_ = batches(None)
    memory = CrossBatchMemory(MarginLoss(learn_beta=True, num_classes=2), 4, size=16).double()
    with pytest.raises(InvalidInput, match="num_classes"):
        memory(E, labels)  # more classes than there are betas, which shows only when the loss is computed
    memory.table(E, labels)
    assert int(memory.entered) == 0
    memory(E, torch.arange(len(E)) % 2)
    assert int(memory.entered) == len(E)


def test_the_loss_inside_stays_as_it_was() -> None:
    inner = EmbeddingExpansion(TripletLoss(), n=2)
    memory = memory_of(inner, 16, statistics=True)
    memory(*batches(None)[0])
    assert not inner.statistics
    assert memory.last_statistics.keys() == {"active_share", "synthetic_share"}


def test_a_queue_in_half_precision_still_spans_arcs() -> None:
    memory = CrossBatchMemory(EmbeddingExpansion(TripletLoss(), n=math.inf), 4, size=16).bfloat16()
    for E, labels in batches(None):
        assert memory(E.float(), labels).isfinite()


def test_a_batch_is_degenerate_only_where_the_queue_cannot_help() -> None:
    memory = memory_of(TripletLoss(), 100)
    E = torch.randn(4, 4, dtype=torch.float64)
    with pytest.warns(DegenerateBatchWarning, match="of one class"):
        memory(E, [1, 1, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert memory(E, [2, 2, 2, 2]) >= 0  # of one class, but the queue has another
        assert memory(E[:2], [1, 2]) >= 0  # no two images of a class, but the queue has them
    with pytest.warns(DegenerateBatchWarning, match="no anchor"):
        assert memory(E[:0], []) == 0
    assert int(memory.entered) == 10


def test_statistics_are_told_of_the_expansion_inside() -> None:
    memory = memory_of(EmbeddingExpansion(MultiSimilarityLoss()), 14, statistics=True)
    for E, labels in batches(None):
        memory(E, labels)
        assert set(memory.last_statistics) == {"active_share", "synthetic_share"}


@pytest.mark.parametrize(
    ("loss", "options", "error", "message"),
    [
        (lambda: CrossBatchMemory(TripletLoss(), 4), {}, InvalidType, "one of this package's pair losses"),
        (lambda: torch.nn.Identity(), {}, InvalidType, "loss is a Identity"),
        (TripletLoss, {"size": 0}, InvalidInput, "size is 0; pass a whole number of at least 1"),
        (TripletLoss, {"size": None}, InvalidType, "size is None; pass a whole number of at least 1"),
        (TripletLoss, {"start": -1}, InvalidInput, "start is -1"),
        (TripletLoss, {"start": 1.5}, InvalidType, "start is 1.5"),
        (lambda: EmbeddingExpansion(TripletLoss(), scope="anchor"), {"size": 7}, InvalidInput, "size is 7.*even"),
        *(
            (lambda kind=kind: kind(3, 4), {}, InvalidInput, f"{kind.__name__} compares with proxies.*no memory")
            for kind in PROXY_LOSSES.values()
        ),
        (lambda: EmbeddingExpansion(PROXY_LOSSES["proxy_nca"](3, 4)), {}, InvalidInput, "ProxyNCALoss .* no memory"),
    ],
)
def test_what_makes_no_memory_is_refused(loss: Any, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        CrossBatchMemory(loss(), 4, **options)


def test_a_memory_is_not_expanded_and_takes_no_other_past_or_reference() -> None:
    memory, E = memory_of(ContrastiveLoss(), 8), torch.ones(2, 4)
    with pytest.raises(InvalidInput, match=r"cannot be expanded: expand the loss inside it"):
        EmbeddingExpansion(memory)
    with pytest.raises(InvalidInput, match="from_memory is given"):
        memory(E, [0, 1], from_memory=torch.tensor([True, False]))
    with pytest.raises(InvalidInput, match="reference is given"):
        memory(E, [0, 1], reference=E, reference_labels=[0, 1])
