"""Bad input: an error of the project's own that says what was given, what was expected and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import expand, hardest, synthesize
from embedding_expansion.core.losses import MultiSimilarityLoss, TripletLoss
from embedding_expansion.core.pairs import compare
from embedding_expansion.errors import EmbeddingExpansionError, InvalidInput, InvalidType, UnknownName

E = torch.nn.functional.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)), dim=1)
LABELS = [0, 0, 1, 1, 2, 2]

ENTRIES: dict[str, Callable[..., Any]] = {
    "compare": lambda e, y, **options: compare(e, y, **options),
    "expand": lambda e, y, **options: expand(e, y, 2, **options),
    "expand by anchor": lambda e, y, **options: expand(e, y, 2, scope="anchor", **options),
    "module": lambda e, y, **options: MultiSimilarityLoss()(e, y, **options),
    "expanded module": lambda e, y, **options: EmbeddingExpansion(MultiSimilarityLoss())(e, y, **options),
}
WITHOUT_ROWS: dict[str, Callable[..., Any]] = {
    "synthesize": lambda e, y: synthesize(e, y, 2),
    "hardest": lambda e, y: hardest(e, y, 2, scope="class_pair", normalize_synthetic=True, metric="euclidean"),
}
everywhere = pytest.mark.parametrize(
    "entry", [*ENTRIES.values(), *WITHOUT_ROWS.values()], ids=[*ENTRIES, *WITHOUT_ROWS]
)
every_table = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)


def message(
    error: type[Exception] | tuple[type[Exception], ...], call: Callable[..., Any], *given: Any, **more: Any
) -> str:
    with pytest.raises(error) as caught:
        call(*given, **more)
    assert isinstance(caught.value, EmbeddingExpansionError), type(caught.value)
    return str(caught.value)


@everywhere
def test_labels_of_another_length_are_refused(entry: Callable[..., Any]) -> None:
    text = message(InvalidInput, entry, E, [0, 0, 1, 1, 2])
    assert "5" in text
    assert "6" in text
    assert "labels" in text


@pytest.mark.parametrize(
    ("embeddings", "says"),
    [
        (E[0], "(3,)"),
        (E[None], "(1, 6, 3)"),
        (torch.tensor(1.0), "()"),
        ((E * 10).long(), "int64"),
        (E.bool(), "bool"),
        (torch.complex(E, E), "complex"),
        (E.numpy(), "ndarray"),
        (E.tolist(), "list"),
        (None, "None"),
    ],
    ids=["1-D", "3-D", "0-D", "whole numbers", "bool", "complex", "numpy", "list", "None"],
)
@everywhere
def test_embeddings_that_are_no_floating_matrix_are_refused(
    entry: Callable[..., Any], embeddings: Any, says: str
) -> None:
    text = message((InvalidInput, InvalidType), entry, embeddings, LABELS)
    assert says in text
    assert "embeddings" in text
    assert "pass" in text


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor(LABELS).float(),
        torch.tensor(LABELS) + 0.5,
        np.array(LABELS, dtype=np.float64),
        [0, 0, 1, 1, 2, 2.5],
        [0, 0, 1, 1, 2, math.nan],
        ["a", "a", "b", "b", "c", "c"],
        np.array(["a", "a", "b", "b", "c", "c"]),
        torch.tensor(LABELS)[:, None],
        torch.tensor(LABELS).reshape(2, 3),
        [[0, 0, 1, 1, 2, 2]],
        torch.tensor(3),
        3,
        None,
        [0, 0, 1, 1, 2, None],
        [[0], [0, 1], 1, 1, 2, 2],
        {0, 1, 2, 3, 4, 5},
        "001122",
    ],
    ids=str,
)
@everywhere
def test_labels_that_are_no_row_of_whole_numbers_are_refused(entry: Callable[..., Any], labels: Any) -> None:
    text = message((InvalidInput, InvalidType), entry, E, labels)
    assert "labels" in text


TEXT, BOOLEANS = ["a", "a", "b", "b", "c", "c"], [True, True, False, False, True, False]


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        *((given, "text") for given in (TEXT, tuple(TEXT), [*LABELS[:5], "c"], np.array(TEXT), np.array(TEXT, "S"))),
        *((given, "text") for given in (np.array(TEXT, dtype=object), [np.str_(label) for label in TEXT])),
        *((given, "booleans") for given in (BOOLEANS, np.array(BOOLEANS), torch.tensor(BOOLEANS))),
        *((given, "booleans") for given in (np.array(BOOLEANS, dtype=object), [np.bool_(label) for label in BOOLEANS])),
    ],
    ids=repr,
)
@everywhere
@pytest.mark.filterwarnings(
    "ignore:In future, it will be an error for 'np.bool_' scalars:DeprecationWarning"
)  # of NumPy 1
def test_labels_of_text_and_booleans_are_refused_with_what_numbers_them(
    entry: Callable[..., Any], labels: Any, what: str
) -> None:
    assert message(InvalidType, entry, E, labels) == (
        f"labels holds {what}; pass whole numbers, as numpy.unique(labels, return_inverse=True)[1] gives them"
    )
    entry(E, np.unique(TEXT, return_inverse=True)[1])


def test_labels_of_a_reference_are_named_where_they_are_refused() -> None:
    text = message(InvalidType, MultiSimilarityLoss(), E, LABELS, reference=E, reference_labels=TEXT)
    assert text.startswith("reference_labels holds text; pass whole numbers, as numpy.unique(reference_labels, ")


@everywhere
def test_labels_beyond_64_bits_are_refused_rather_than_wrapped(entry: Callable[..., Any]) -> None:
    assert "labels" in message((InvalidInput, InvalidType), entry, E, [0, 0, 1, 1, 2**70, 2**70])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@everywhere
def test_embeddings_that_are_not_finite_are_refused_and_the_row_is_named(
    entry: Callable[..., Any], value: float
) -> None:
    given = E.clone()
    given[4, 1] = value
    text = message(InvalidInput, entry, given, LABELS)
    assert "4" in text
    assert "finite" in text or "NaN" in text or "inf" in text.lower()


@pytest.mark.parametrize("n", [-1, math.nan, 1.5, "2", None, -math.inf, [2], 2 + 0j], ids=str)
@pytest.mark.parametrize(
    "call",
    [
        lambda n: expand(E, LABELS, n),
        lambda n: synthesize(E, LABELS, n),
        lambda n: hardest(E, LABELS, n, scope="class_pair", normalize_synthetic=True, metric="euclidean"),
        lambda n: EmbeddingExpansion(MultiSimilarityLoss(), n=n),
    ],
    ids=["expand", "synthesize", "hardest", "module"],
)
def test_a_number_of_points_that_is_no_whole_number_from_zero_on_is_refused(call: Callable[..., Any], n: Any) -> None:
    text = message((InvalidInput, InvalidType), call, n)
    assert text.startswith("n is ")
    assert str(n) in text or type(n).__name__ in text
    assert "whole number" in text


@pytest.mark.parametrize("n", [10_001, 10**6, 2**31, 2**32, 2**32 + 1, 2**64])
def test_more_points_than_anybody_waits_for_are_refused(n: int) -> None:
    for call in (expand, synthesize):
        assert "at most 100 synthetic points, or infinity" in message(InvalidInput, call, E, LABELS, n)


def test_values_whose_squares_drown_everything_are_refused() -> None:
    for loss in (MultiSimilarityLoss(), EmbeddingExpansion(MultiSimilarityLoss(normalize=False))):
        assert "values beyond 1e+12 in 1 of 6 rows, the first is row 2" in message(
            InvalidInput, loss, torch.where(torch.arange(6)[:, None] == 2, 1e13, E), LABELS
        )


def test_a_reference_that_is_not_finite_is_named() -> None:
    bad = E.clone()
    bad[1, 0] = math.nan
    text = message(InvalidInput, MultiSimilarityLoss(), E, LABELS, reference=bad, reference_labels=LABELS)
    assert text.startswith("reference has NaN")


def test_labels_may_be_an_array_that_runs_backwards() -> None:
    backwards = np.asarray(LABELS)[::-1]
    torch.testing.assert_close(
        MultiSimilarityLoss()(E, backwards), MultiSimilarityLoss()(E, torch.tensor(backwards.copy()))
    )


def test_a_miner_that_gives_no_pairs_is_named() -> None:
    assert "the miner gives a NoneType" in message(InvalidType, MultiSimilarityLoss(miner=lambda _: None), E, LABELS)


def test_infinitely_many_points_cannot_be_made() -> None:
    assert "inf" in message((InvalidInput, InvalidType), lambda: synthesize(E, LABELS, math.inf))


@pytest.mark.parametrize("scope", [None, 3, ["anchor"]], ids=str)
def test_a_scope_that_is_no_name_is_refused(scope: Any) -> None:
    message((InvalidInput, InvalidType), lambda: expand(E, LABELS, 2, scope=scope))


def test_anchor_scope_refuses_an_odd_number_of_rows() -> None:
    text = message(InvalidInput, lambda: expand(E[:5], LABELS[:5], 2, scope="anchor"))
    assert "5" in text
    loss = EmbeddingExpansion(MultiSimilarityLoss(), scope="anchor")
    assert "5" in message(InvalidInput, lambda: loss(E[:5], LABELS[:5]))


def test_anchor_scope_refuses_rows_paired_across_classes_and_names_them() -> None:
    mixed = [0, 0, 1, 2, 1, 2]
    text = message(InvalidInput, lambda: expand(E, mixed, 2, scope="anchor"))
    assert "2" in text
    assert "3" in text
    loss = EmbeddingExpansion(MultiSimilarityLoss(), scope="anchor")
    assert "class_pair" in message(InvalidInput, lambda: loss(E, mixed))


@pytest.mark.parametrize(
    "rows",
    [[0, 6], [-1], [0.5], torch.tensor([0.0]), torch.tensor([[0, 1]]), torch.tensor([True] * 6), "0"],
    ids=str,
)
@every_table
def test_rows_that_are_none_of_the_batch_are_refused(entry: Callable[..., Any], rows: Any) -> None:
    given = torch.tensor(rows) if isinstance(rows, list) else rows
    assert "rows" in message((InvalidInput, InvalidType), entry, E, LABELS, rows=given)


@pytest.mark.parametrize(
    "from_memory", [torch.zeros(5, dtype=torch.bool), torch.zeros(6), torch.zeros(6, 1, dtype=torch.bool), 1], ids=str
)
@every_table
def test_a_mask_of_a_memory_that_does_not_fit_is_refused(entry: Callable[..., Any], from_memory: Any) -> None:
    assert "from_memory" in message((InvalidInput, InvalidType), entry, E, LABELS, from_memory=from_memory)


@pytest.mark.parametrize(
    "loss", [MultiSimilarityLoss(), EmbeddingExpansion(MultiSimilarityLoss())], ids=["plain", "expanded"]
)
def test_a_loss_can_be_used_again_after_an_error(loss: torch.nn.Module) -> None:
    before = loss(E, LABELS)
    message(InvalidInput, loss, E * math.nan, LABELS)
    assert torch.equal(loss(E, LABELS), before)


def test_errors_are_the_kinds_python_programmers_catch() -> None:
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(InvalidType, TypeError)
    assert issubclass(UnknownName, InvalidInput)


def test_unsuitable_tensors_do_not_reach_torch(capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback of torch's own for the commonest slip: labels and embeddings in the wrong order."""
    with pytest.raises((InvalidInput, InvalidType)):
        compare(torch.tensor(LABELS), E)  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""


def test_good_input_of_every_entry_is_taken() -> None:
    for entry in [*ENTRIES.values(), *WITHOUT_ROWS.values()]:
        entry(E, LABELS)
    for entry in ENTRIES.values():
        entry(E, LABELS, rows=torch.tensor([1, 4]), from_memory=torch.tensor([True, False, False, False, False, True]))


@every_table
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda e: e.to(torch.float8_e4m3fn), "float8_e4m3fn; pass 16 bits or more"),
        (lambda e: e.to_sparse(), "sparse tensor; pass embeddings.to_dense()"),
        (lambda e: e.to("meta"), "on the meta device and has no values"),
    ],
    ids=["float8", "sparse", "meta"],
)
def test_tensors_that_cannot_be_computed_with_are_refused(
    entry: Callable[..., Any], change: Callable[..., Any], says: str
) -> None:
    assert says in message(InvalidType, entry, change(E), LABELS)


def test_a_number_of_points_may_be_a_scalar_of_numpy_or_torch_and_no_array() -> None:
    for n in (np.array(2), np.int64(2), np.float64(2), torch.tensor(2)):
        assert torch.equal(expand(E, LABELS, n).negative, expand(E, LABELS, 2).negative)
    assert torch.equal(expand(E, LABELS, np.float32("inf")).negative, expand(E, LABELS, math.inf).negative)
    for several in (np.array([1, 2]), torch.tensor([1, 2])):
        assert "pass a whole number of synthetic points" in message(InvalidType, expand, E, LABELS, several)


def test_a_parameter_may_be_a_scalar_of_numpy() -> None:
    for value in (np.float32(0.5), np.float64(0.5), np.array(0.5)):
        margin = TripletLoss(margin=value).parameters_of_function["margin"]
        assert type(margin) is float
        assert margin == 0.5
    assert "a number" in message(InvalidType, TripletLoss, margin=np.array([0.5, 0.6]))


def test_transforms_of_torch_func_are_refused() -> None:
    for loss in (MultiSimilarityLoss(), EmbeddingExpansion(MultiSimilarityLoss(normalize=False))):
        gradient = torch.func.grad(lambda e, loss=loss: loss(e, LABELS))
        assert "use loss.backward()" in message(InvalidInput, gradient, E)


def test_the_article_is_right() -> None:
    assert "loss is an EmbeddingExpansion;" in message(
        InvalidType, EmbeddingExpansion, EmbeddingExpansion(MultiSimilarityLoss())
    )


@everywhere
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda labels: labels.to_sparse(), "labels is a sparse tensor; pass labels.to_dense()"),
        (lambda labels: labels.to("meta"), "labels is on the meta device and has no values"),
        (lambda labels: torch.nested.as_nested_tensor([labels[:2], labels[2:]]), "labels is a nested tensor"),
    ],
    ids=["sparse", "meta", "nested"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_labels_in_unusual_tensors_are_refused(
    entry: Callable[..., Any], change: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    assert said in message(InvalidType, entry, E, change(torch.tensor(LABELS)))
