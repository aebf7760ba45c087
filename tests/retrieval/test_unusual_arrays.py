"""Arrays and tensors of unusual kinds: every public function of retrieval takes them as plain ones or says why not."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import embedding_expansion as package
from embedding_expansion import Item, PCAWhitening, Threshold, create_index
from embedding_expansion.core.losses import MultiSimilarityLoss
from embedding_expansion.errors import EmbeddingExpansionError, InvalidInput, InvalidType

ROWS = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
LABELS = np.repeat(np.arange(4), 3)
LISTS = np.array([[(row + step) % 12 for step in range(1, 12)] for row in range(12)])
THRESHOLD = Threshold(0.2, "same or not", "precision", 0.9, 0.9, 0.9, 1, 1)
HALF = np.arange(12) % 2 == 0
KNOWN = LABELS < 2

#: What is given embeddings, by the name of the function and of the argument.
OF_ROWS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("agglomerative", "embeddings"): lambda x: package.agglomerative(x, k=3),
    ("hdbscan", "embeddings"): lambda x: package.hdbscan(x, min_cluster_size=2),
    ("louvain", "embeddings"): lambda x: package.louvain(x, neighbours=2),
    ("silhouette", "embeddings"): lambda x: package.silhouette(x, LABELS),
    ("kmeans", "embeddings"): lambda x: package.kmeans(x, 3).assignment,
    ("clustering_metrics", "embeddings"): lambda x: package.clustering_metrics(x, LABELS),
    ("nearest", "queries"): lambda x: package.nearest(x, ROWS, 2),
    ("nearest", "gallery"): lambda x: package.nearest(ROWS, x, 2),
    ("retrieval_metrics", "embeddings"): lambda x: package.retrieval_metrics(x, LABELS),
    ("retrieval_metrics", "gallery"): lambda x: package.retrieval_metrics(
        ROWS, LABELS, gallery=x, gallery_labels=LABELS
    ),
    ("retrieval_by_class", "embeddings"): lambda x: package.retrieval_by_class(x, LABELS),
    ("retrieval_values", "embeddings"): lambda x: package.retrieval_values(x, LABELS),
    ("verification", "embeddings"): lambda x: package.verification(x, LABELS).auc,
    ("open_set", "embeddings"): lambda x: package.open_set(x, LABELS, is_gallery=KNOWN).auc,
    ("gallery_threshold", "embeddings"): lambda x: package.gallery_threshold(x, LABELS, precision=0.0).hit_rate,
    ("near_duplicates", "vectors"): lambda x: package.near_duplicates(x, 0.5).pairs,
    ("alpha_query_expansion", "queries"): lambda x: package.alpha_query_expansion(x, ROWS, 2),
    ("alpha_query_expansion", "gallery"): lambda x: package.alpha_query_expansion(ROWS, x, 2),
    ("database_augmentation", "gallery"): lambda x: package.database_augmentation(x, 2),
    ("k_reciprocal", "queries"): lambda x: package.k_reciprocal(x, ROWS, 3, k1=3, k2=2),
    ("k_reciprocal", "gallery"): lambda x: package.k_reciprocal(ROWS, x, 3, k1=3, k2=2),
    ("diffusion", "queries"): lambda x: package.diffusion(x, ROWS, 3),
    ("diffusion", "gallery"): lambda x: package.diffusion(ROWS, x, 3),
    ("PCAWhitening", "embeddings"): lambda x: PCAWhitening.fit(x).projection,
    ("PCAWhitening.apply", "embeddings"): lambda x: PCAWhitening.fit(ROWS).apply(x),
    ("create_index", "vectors"): lambda x: in_index(lambda index: (fill(index, x), index.vectors(range(1, 13)))[1]),
    ("open_index", "vectors"): lambda x: in_index(lambda index: (fill(index, ROWS), index.search(x, 2))[1]),
}
#: What is given labels, and the same for whole numbers and masks.
OF_LABELS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("clustering_metrics", "labels"): lambda y: package.clustering_metrics(ROWS, y),
    ("partition_metrics", "classes"): lambda y: package.partition_metrics(y, LABELS),
    ("partition_metrics", "clusters"): lambda y: package.partition_metrics(LABELS, y),
    ("silhouette", "clusters"): lambda y: package.silhouette(ROWS, y),
    ("retrieval_metrics", "labels"): lambda y: package.retrieval_metrics(ROWS, y),
    ("retrieval_metrics", "gallery_labels"): lambda y: package.retrieval_metrics(
        ROWS, LABELS, gallery=ROWS, gallery_labels=y
    ),
    ("retrieval_by_class", "labels"): lambda y: package.retrieval_by_class(ROWS, y),
    ("retrieval_values", "labels"): lambda y: package.retrieval_values(ROWS, y),
    ("verification", "labels"): lambda y: package.verification(ROWS, y).auc,
    ("open_set", "labels"): lambda y: package.open_set(ROWS, y, is_gallery=KNOWN).auc,
    ("gallery_threshold", "labels"): lambda y: package.gallery_threshold(ROWS, y, precision=0.0).hit_rate,
    ("list_metrics", "query_labels"): lambda y: package.list_metrics(LISTS, y),
    ("list_metrics", "gallery_labels"): lambda y: package.list_metrics(LISTS, LABELS, y, exclude=np.arange(12)),
}


class Own(torch.Tensor):
    """A subclass of tensors."""


def in_index(work: Callable[[Any], Any]) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as place, create_index(place, 4) as index:
        return work(index)


def fill(index: Any, rows: Any) -> None:
    index.add([Item(str(row)) for row in range(12)], rows)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def mapped(array: np.ndarray) -> np.ndarray:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        array.tofile(file.name)
        return np.memmap(file.name, array.dtype, "r", shape=array.shape)


#: Forms that hold the values of a plain array.
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "little-endian": lambda x: x.astype(x.dtype.newbyteorder("<")),
    "read-only": read_only,
    "on disk": mapped,
    "negative strides": lambda x: x[::-1].copy()[::-1],
    "every second": lambda x: np.repeat(x, 2, axis=0)[::2],
    "by columns": np.asfortranarray,
    "masked, nothing masked": np.ma.array,
    "tensor": torch.tensor,
    "tensor of a subclass": lambda x: torch.tensor(x).as_subclass(Own),
    "tensor with gaps": lambda x: torch.tensor(np.repeat(x, 2, axis=0))[::2],
    "inference tensor": torch.inference_mode()(torch.tensor),
}
OF_FLOATS: dict[str, Callable[[np.ndarray], Any]] = {
    "matrix": np.matrix,
    "tensor with a gradient": lambda x: torch.tensor(x, requires_grad=True),
    "parameter": lambda x: torch.nn.Parameter(torch.tensor(x)),
    "lazily negated": lambda x: torch.complex(torch.zeros(x.shape), -torch.tensor(x)).conj().imag,
}


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            same(found[key], expected[key])
    elif dataclasses.is_dataclass(expected):
        same(vars(found), vars(expected))
    elif isinstance(expected, (tuple, list)):
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, (np.ndarray, torch.Tensor)):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    else:
        assert found == expected


def test_every_public_function_of_retrieval_is_here() -> None:
    covered = {name.partition(".")[0] for name, _ in (*OF_ROWS, *OF_LABELS)} | {"Item", "Threshold"}
    module = {name: getattr(getattr(package, name), "__module__", "") for name in package.__all__}
    public = {name for name in package.__all__ if module[name].startswith("embedding_expansion.retrieval.")}
    answers = {name for name in public if inspect.isclass(getattr(package, name))} - {"PCAWhitening"}
    assert covered - {"Item", "Threshold"} == public - answers


@pytest.mark.parametrize("form", [*FORMS, *OF_FLOATS])
@pytest.mark.parametrize("entry", OF_ROWS, ids=" ".join)
def test_embeddings_in_another_form_give_the_same(entry: tuple[str, str], form: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # np.matrix
        given = (FORMS | OF_FLOATS)[form](ROWS)
    same(OF_ROWS[entry](given), of_plain_rows(entry))


@functools.cache
def of_plain_rows(entry: tuple[str, str]) -> Any:
    return OF_ROWS[entry](ROWS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("entry", OF_LABELS, ids=" ".join)
def test_labels_in_another_form_give_the_same(entry: tuple[str, str], form: str) -> None:
    same(OF_LABELS[entry](FORMS[form](LABELS)), OF_LABELS[entry](LABELS))


def with_masked(array: np.ndarray) -> Any:
    return np.ma.masked_where(np.arange(array.size).reshape(array.shape) == 3, array)


def quantized(rows: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.tensor(rows, dtype=torch.float32), 0.1, 0, torch.qint8)


def nested(rows: np.ndarray, **options: Any) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.tensor(row) for row in rows], **options)


def csr(rows: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.tensor(rows).to_sparse_csr()


#: Tensors that a loss refuses too, in the same words.
AS_LOSSES: dict[str, Callable[[np.ndarray], torch.Tensor]] = {
    "sparse": lambda x: torch.tensor(x).to_sparse(),
    "sparse rows": csr,
    "meta": lambda x: torch.empty(x.shape, device="meta"),
    "nested": nested,
    "nested, jagged": lambda x: nested(x, layout=torch.jagged),
    "quantized": quantized,
    "float8": lambda x: torch.tensor(x).to(torch.float8_e4m3fn),
    "other float8": lambda x: torch.tensor(x).to(torch.float8_e5m2),
    "complex": lambda x: torch.tensor(x).to(torch.complex64),
    "whole numbers": lambda x: torch.tensor(x).int(),
    "booleans": lambda x: torch.tensor(x) > 0,
}
ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "masked": with_masked,
    "objects": lambda x: x.astype(object),
    "complex array": lambda x: x.astype(np.complex64),
    "text": lambda x: x.astype(str),
    "records": lambda x: np.zeros(len(x), [("a", np.float32)]),
    "times": lambda x: x.astype("datetime64[s]"),
    "whole numbers": lambda x: x.astype(int),
}


def sentence(call: Callable[[Any], Any], given: Any) -> str:
    with pytest.raises(EmbeddingExpansionError) as caught:
        call(given)
    assert isinstance(caught.value, (InvalidInput, InvalidType))
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("form", AS_LOSSES)
@pytest.mark.parametrize("entry", OF_ROWS, ids=" ".join)
def test_tensors_that_losses_refuse_are_refused_in_the_same_words(entry: tuple[str, str], form: str) -> None:
    given, (_, name) = AS_LOSSES[form](ROWS), entry
    said = sentence(OF_ROWS[entry], given)
    expected = sentence(lambda x: MultiSimilarityLoss()(x, torch.tensor(LABELS)), given).replace("embeddings", name)
    if name != "vectors" or given.is_floating_point():
        assert said == expected
    else:  # lists are taken there as well, so that the words are those for arrays
        assert said.startswith(f"{name} ")
        assert "pass" in said


@pytest.mark.parametrize("form", ARRAYS)
@pytest.mark.parametrize("entry", OF_ROWS, ids=" ".join)
def test_arrays_that_are_no_floating_matrix_are_refused_in_a_sentence(entry: tuple[str, str], form: str) -> None:
    said = sentence(OF_ROWS[entry], ARRAYS[form](ROWS))
    assert said.startswith(f"{entry[1]} has ")
    assert "pass" in said or "leave" in said


NUMBERED = "pass whole numbers, as numpy.unique({0}, return_inverse=True)[1] gives them"
TEXT, BOOLEANS = f"{{0}} holds text; {NUMBERED}", f"{{0}} holds booleans; {NUMBERED}"
#: Labels that are refused, and with which words.
BAD_LABELS: dict[str, tuple[Any, str]] = {
    "texts": ([f"class {label}" for label in LABELS], TEXT),
    "array of texts": (LABELS.astype(str), TEXT),
    "bytes": (LABELS.astype(bytes), TEXT),
    "objects with text": (np.array(["a", 1, None] * 4, object), TEXT),
    "booleans": ([label > 1 for label in LABELS.tolist()], BOOLEANS),
    "array of booleans": (LABELS > 1, BOOLEANS),
    "tensor of booleans": (torch.tensor(LABELS > 1), BOOLEANS),
    "objects with booleans": ((LABELS > 1).astype(object), BOOLEANS),
    "fractions": (LABELS / 2, "{0} has the type float64; pass whole numbers"),
    "numbers beyond 64 bits": ([2**70] * 12, "{0} has the type object; pass whole numbers"),
    "masked": (with_masked(LABELS), "{0} has 1 masked entries; leave"),
    "sparse": (torch.tensor(LABELS).to_sparse(), "{0} is a sparse tensor; pass {0}.to_dense()"),
    "meta": (torch.empty(12, dtype=torch.int64, device="meta"), "{0} is on the meta device and has no values; pass"),
    "nested": (nested(LABELS[:, None]), "{0} is a nested tensor; pass"),
    "quantized": (quantized(LABELS), "{0} is a quantized tensor; pass"),
    "complex": (torch.tensor(LABELS).to(torch.complex64), "{0} has the type complex64; pass whole numbers"),
    "a matrix": (LABELS[:, None], "{0} has the shape (12, 1); pass"),
}


@pytest.mark.parametrize("form", BAD_LABELS)
@pytest.mark.parametrize("entry", OF_LABELS, ids=" ".join)
def test_labels_that_are_no_whole_numbers_are_refused_in_a_sentence(entry: tuple[str, str], form: str) -> None:
    given, words = BAD_LABELS[form]
    assert sentence(OF_LABELS[entry], given).startswith(words.format(entry[1]))


def test_lists_masks_and_similarities_of_unusual_kinds() -> None:
    big = LISTS.astype(">i8")
    assert package.list_metrics(torch.tensor(LISTS), LABELS) == package.list_metrics(big, LABELS)
    assert "lists is a sparse tensor" in sentence(
        lambda x: package.list_metrics(x, LABELS), torch.tensor(LISTS).to_sparse()
    )
    own = np.arange(12)
    expected = package.nearest(ROWS, ROWS, 2, exclude=own)
    same(package.nearest(ROWS, ROWS, 2, exclude=own.astype(">i4")), expected)
    same(package.nearest(ROWS, ROWS, 2, exclude=own.astype(np.uint64)), expected)
    for wrong in (own.astype(str), own.astype(object), own > 3, own / 2):
        assert "exclude has the type" in sentence(lambda x: package.nearest(ROWS, ROWS, 2, exclude=x), wrong)
    assert "exclude is a sparse tensor" in sentence(
        lambda x: package.nearest(ROWS, ROWS, 2, exclude=x), torch.tensor(own).to_sparse()
    )
    for name in ("is_query", "is_gallery"):
        call = lambda mask, name=name: package.retrieval_metrics(ROWS, LABELS, **{name: mask})  # noqa: E731
        same(call(torch.tensor(HALF)), call(HALF))
        assert f"{name} is a sparse tensor" in sentence(call, torch.tensor(HALF).to_sparse())
        assert f"{name} is on the meta device" in sentence(call, torch.tensor(HALF).to("meta"))
        assert f"{name} has 1 masked entries" in sentence(call, with_masked(HALF))


def test_a_whitening_comes_back_from_arrays_of_any_byte_order(tmp_path: Path) -> None:
    whitening = PCAWhitening.fit(ROWS)
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in whitening.to_arrays().items()}
    np.savez(tmp_path / "whitening.npz", **swapped)  # type: ignore[arg-type]
    with np.load(tmp_path / "whitening.npz") as arrays:
        same(PCAWhitening.from_arrays(arrays).apply(ROWS), whitening.apply(ROWS))
