"""The page for those who come from pytorch-metric-learning: it names all that is there, and its code runs."""

from __future__ import annotations

import inspect
import re
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

import embedding_expansion
from embedding_expansion import EmbeddingExpansion
from embedding_expansion.errors import InvalidInput

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import distances, losses, miners, reducers, samplers, testers, trainers

PAGE = Path(__file__).parents[1] / "docs" / "from-pytorch-metric-learning.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def names(module: ModuleType) -> list[str]:
    return [name for name, found in vars(module).items() if inspect.isclass(found)]


def cells(name: str) -> list[str]:
    """The cells of the line of the table of losses that begins with this name."""
    (line,) = re.findall(rf"^\| `{name}` \|.* \|.* \|.* \|$", TEXT.partition("## Its losses")[2], flags=re.MULTILINE)
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    "module", [losses, miners, distances, reducers, samplers, testers, trainers], ids=lambda m: m.__name__
)
def test_the_page_names_every_class_of_the_library(module: ModuleType) -> None:
    assert [name for name in names(module) if f"`{name}`" not in TEXT] == []


def test_each_loss_has_a_line_that_says_whether_it_is_expanded() -> None:
    bases = {"BaseMetricLossFunction", "GenericPairLoss", "BaseLossWrapper"}
    arguments = {"RankedListLoss": (0.4, 2)}
    for name in set(names(losses)) - bases - {"EmbeddingRegularizerMixin", "WeightRegularizerMixin"}:
        expanded = cells(name)[1]
        if expanded == "yes":
            EmbeddingExpansion(getattr(losses, name)(*arguments.get(name, ())))
        else:
            assert expanded.startswith("refused: ")


def test_what_the_page_calls_refused_is_refused_where_it_can_be_made_without_arguments() -> None:
    made = 0
    for name in names(losses):
        if f"| `{name}` | refused" in TEXT:
            try:
                loss = getattr(losses, name)()
            except (TypeError, KeyError):
                continue
            made += 1
            with pytest.raises(InvalidInput, match=name):
                EmbeddingExpansion(loss)
    assert made >= 5


def test_what_the_page_calls_ours_is_there() -> None:
    for line in re.findall(r"^\| `\w+` \|.*$", TEXT, flags=re.MULTILINE):
        parts = [cell.strip() for cell in line.strip("|").split("|")]
        for name in re.findall(r"`(\w+)[`(]", parts[2] if len(parts) == 4 else parts[1]):
            assert hasattr(embedding_expansion, name), name


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_code_of_the_page_runs(number: int) -> None:
    known: dict[str, object] = {"model": torch.nn.Linear(6, 4), "images": torch.randn(8, 6)}
    known["labels"] = torch.arange(8) // 2
    exec(compile(BLOCKS[number], PAGE.name, "exec"), known)
    value = known["value"]
    assert isinstance(value, torch.Tensor)
    assert value.isfinite()


def test_what_the_page_says_of_the_memory_holds() -> None:
    E, labels = torch.randn(8, 4), torch.arange(8) // 2
    for size, same in ((64, True), (12, False)):
        theirs = losses.CrossBatchMemory(losses.ContrastiveLoss(), 4, size)
        plain = embedding_expansion.ContrastiveLoss(squared=False, average="active")
        ours = embedding_expansion.CrossBatchMemory(plain, embedding_size=4, size=size)
        for k in range(3):
            rows = (E + k).requires_grad_()
            values = [loss(rows, labels) for loss in (ours, theirs)]
            assert torch.allclose(*values, rtol=1e-3) == (same or k == 0)
            gradients = [torch.autograd.grad(value, rows)[0] for value in values]
            assert not torch.allclose(*gradients, rtol=1e-2, atol=1e-4)


def test_what_the_page_says_of_easy_positives_and_of_two_ends_holds() -> None:
    E, labels = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) // 3
    mined = miners.BatchEasyHardMiner(pos_strategy="easy", neg_strategy="all")(E, labels)
    ours = embedding_expansion.ContrastiveLoss(
        squared=False, average="active", miner=embedding_expansion.EasyPositiveMiner()
    )
    torch.testing.assert_close(ours(E, labels), losses.ContrastiveLoss()(E, labels, mined))
    terms = EmbeddingExpansion(embedding_expansion.LiftedStructureLoss())(E, labels)
    theirs = EmbeddingExpansion(losses.LiftedStructureLoss())(E, labels)
    lower = EmbeddingExpansion(losses.LiftedStructureLoss(neg_margin=1 - torch.log(torch.tensor(2.0)).item()))
    assert theirs > terms
    torch.testing.assert_close(lower(E, labels), terms, rtol=1e-6, atol=0)


def test_its_dynamic_soft_margin_fails_in_a_second_backward_pass_by_itself() -> None:
    E, labels = torch.randn(6, 4, requires_grad=True), torch.arange(6) // 2
    loss = losses.DynamicSoftMarginLoss()
    loss(E, labels).backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss(E, labels).backward()
