"""Every whole number that a user can pass takes the same values: no boolean, no float, and what is in its range.

The arguments are found by their annotations, so that a new one fails here until a call of it is written down.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch

import embedding_expansion as ee
from embedding_expansion.core.parameters import Options
from embedding_expansion.errors import EmbeddingExpansionError, InvalidInput, InvalidType, RunError, StoreError
from embedding_expansion.retrieval.index.index import Index

Call: TypeAlias = Callable[..., Any]
Argument: TypeAlias = tuple[str, str]

REFUSED = {"True": True, "2.0": 2.0, "-1": -1, "NaN": math.nan}

#: Which of these values an argument takes, by its name or by its call and its name, and why.
LEGAL: dict[str, tuple[str, ...]] = {
    "ignore_index": ("-1",),  # any label
    "expand.n": ("2.0",),  # infinity is a float, and so is what a JSON file or NumPy holds beside it
    "hardest.n": ("2.0",),
    "EmbeddingExpansion.n": ("2.0",),
    "Clustering.members.number": ("-1",),  # the noise
}

#: Arguments that no user passes, and why.
NOT_PASSED = {
    "Threshold.positives": "a result; from_json checks what a file holds",
    "Threshold.negatives": "a result; from_json checks what a file holds",
    "Threshold.gallery": "a result; from_json checks what a file holds",
    "Threshold.classes": "a result; from_json checks what a file holds",
    "Changes.new": "a result",
    "Changes.changed": "a result",
    "ClientMatch.id": "a result",
    "Clusters.iterations": "a result",
    "Recall.k": "a result",
    "Recall.queries": "a result",
    "Duplicates.number_of_pairs": "a result",
    "VerificationCurve.same": "a result",
    "VerificationCurve.different": "a result",
    "OpenSetCurve.known": "a result",
    "OpenSetCurve.unknown": "a result",
    "Item.id": "given by the index; an item that is added is known by its path",
    "PairLoss.ignore_index": "abstract; every loss below has it",
    "PairLoss.chunk": "abstract; every loss below has it",
}

_WHOLE = {"int", "int | None", "int | float", "int | float | None", "float | int", "int | Literal['none']"}
_SEVERAL = re.compile(r"(Sequence|Iterable|list|tuple)\[int(, \.\.\.)?\]")


def _callables() -> Iterator[tuple[str, Call, inspect.Signature]]:
    """Every public function, class and method, by the name under which a user writes it."""
    for name in ee.__all__:
        public = getattr(ee, name)
        if inspect.isclass(public) or callable(public):
            yield name, public, inspect.signature(public)
    for owner in (*(getattr(ee, name) for name in ee.__all__), Index):
        for name, method in inspect.getmembers(owner, callable) if inspect.isclass(owner) else ():
            is_ours = (getattr(method, "__module__", None) or "").startswith("embedding_expansion.")
            # A loss has the function and the statistic that it is made of; users pass their parameters to the loss.
            if is_ours and name[0] != "_" and not inspect.isclass(method) and name not in ("function", "statistic"):
                yield f"{owner.__name__}.{name}", method, inspect.signature(method)


def _arguments() -> dict[Argument, bool]:
    """Every whole number that can be passed, and whether several are."""
    found: dict[Argument, bool] = {}
    for name, _, signature in _callables():
        for argument, kind in _annotations(signature):
            if kind in _WHOLE or _SEVERAL.fullmatch(kind.removesuffix(" | None")):
                found[name, argument] = kind not in _WHOLE
    return found


def _annotations(signature: inspect.Signature) -> Iterator[tuple[str, str]]:
    """Each argument with its annotation, and those of a loss's options, which its classes take by name."""
    for argument in signature.parameters.values():
        if argument.kind is argument.VAR_KEYWORD and "Options" in str(argument.annotation):
            kinds = {name: getattr(kind, "__forward_arg__", kind) for name, kind in Options.__annotations__.items()}
        else:
            kinds = {argument.name: argument.annotation}
        for name, kind in kinds.items():
            yield name, kind if isinstance(kind, str) else inspect.formatannotation(kind)


ARGUMENTS = _arguments()
PASSED = [argument for argument in ARGUMENTS if ".".join(argument) not in NOT_PASSED]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Call]]:
    """A call of each that is right whatever is not given, by the names of `_callables`."""
    folder, numbers = tmp_path_factory.mktemp("whole"), itertools.count()
    rows, labels = np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) // 3
    embeddings = torch.from_numpy(rows)
    np.savez(folder / "vectors.npz", embeddings=rows.astype(np.float32), labels=labels)
    with ee.create_index(folder / "index", 4) as index:
        index.add([ee.Item(f"{number}.jpg") for number in range(12)], rows)
        embedder = _embedder()
        collection, client = ee.Collection(index, embedder), ee.Client("http://127.0.0.1:9", timeout=1.0)
        sampler = ee.ClassBalancedSampler(labels, 2, 2, seed=0)
        image = np.zeros((8, 8, 3), np.uint8)
        threshold = ee.gallery_threshold(np.eye(4).repeat(2, 0), np.arange(8) // 2, false_alarm_rate=0.5)
        yield {
            **{name: _loss(name) for name in _losses()},
            "CrossBatchMemory": lambda **given: ee.CrossBatchMemory(
                ee.TripletLoss(), **{"embedding_size": 4, "size": 8} | given
            ),
            "EmbeddingExpansion": lambda **given: ee.EmbeddingExpansion(ee.TripletLoss(), **given),
            "SyntheticSamples": lambda **given: ee.SyntheticSamples(ee.TripletLoss(), **given),
            "DistanceWeightedMiner": lambda **given: ee.DistanceWeightedMiner(**{"dimensions": 4} | given),
            "expand": lambda **given: ee.expand(embeddings, labels, **{"n": 2} | given),
            "hardest": lambda **given: ee.hardest(embeddings, labels, **{"n": 2} | given),
            "synthesize": lambda **given: ee.synthesize(embeddings, labels, **{"n": 2} | given),
            "ClassBalancedSampler": lambda **given: ee.ClassBalancedSampler(
                labels, **{"classes_per_batch": 2, "images_per_class": 2, "seed": 0} | given
            ),
            "ClassBalancedSampler.batch": lambda **given: sampler.batch(**given),
            "open_dataset": lambda **given: ee.open_dataset(str(folder / "vectors.npz"), **given),
            "EmbeddingModel": lambda **given: ee.EmbeddingModel("linear", **given, **_of(given)),
            "nearest": lambda **given: ee.nearest(rows, rows, **{"k": 2} | given),
            "kmeans": lambda **given: ee.kmeans(rows, **{"k": 2} | given),
            "agglomerative": lambda **given: ee.agglomerative(rows, **{"k": 2} | given),
            "hdbscan": lambda **given: ee.hdbscan(rows, **given),
            "louvain": lambda **given: ee.louvain(rows, **given),
            "cluster": lambda **given: ee.cluster(np.asarray(rows), **given),
            "Clustering.members": lambda **given: ee.cluster(np.asarray(rows)).members(**given),
            "clustering_metrics": lambda **given: ee.clustering_metrics(rows, labels, **given),
            "retrieval_metrics": lambda **given: ee.retrieval_metrics(rows, labels, **given),
            "retrieval_values": lambda **given: ee.retrieval_values(rows, labels, **given),
            "retrieval_by_class": lambda **given: ee.retrieval_by_class(rows, labels, **given),
            "list_metrics": lambda **given: ee.list_metrics([[1, 2], [2, 0], [0, 1]], [0, 0, 0], **given),
            "verification": lambda **given: ee.verification(rows, labels, **{"sample": 2} | given),
            "near_duplicates": lambda **given: ee.near_duplicates(rows, **given),
            "alpha_query_expansion": lambda **given: ee.alpha_query_expansion(rows, rows, **{"k": 2} | given),
            "database_augmentation": lambda **given: ee.database_augmentation(rows, **{"k": 2} | given),
            "k_reciprocal": lambda **given: ee.k_reciprocal(rows, rows, **{"top": 2} | given),
            "diffusion": lambda **given: ee.diffusion(rows, rows, **{"top": 2} | given),
            "PCAWhitening.fit": lambda **given: ee.PCAWhitening.fit(rows, **given),
            "create_index": lambda **given: ee.create_index(folder / f"index-{next(numbers)}", **given).close(),
            "Index.search": lambda **given: index.search(rows, **given),
            "Index.first": lambda **given: index.first(**given),
            "Threshold.at": lambda **given: threshold.at(**{"gallery": 2} | given),
            "Index.get": lambda **given: index.get(**given),
            "Index.vectors": lambda **given: index.vectors(**given),
            "Index.batches": lambda **given: list(index.batches(**given)),
            "Index.items": lambda **given: list(index.items(**given)),
            "Embedder": lambda **given: _embedder(**given),
            "Embedder.from_backbone": lambda **given: ee.Embedder.from_backbone(
                "mobilenet_v3_small", device="cpu", **given
            ),
            "Embedder.load": lambda **given: _reached(ee.Embedder.load, folder / "none", **given),
            "Embedder.embed": lambda **given: embedder.embed([image], **given),
            "Embedder.square": lambda **given: embedder.square(image, **given),
            "Collection.open": lambda **given: _reached(ee.Collection.open, folder / "none", **given),
            "Collection.embed": lambda **given: collection.embed([image], **given),
            "Collection.search": lambda **given: collection.search(rows, **given),
            "Collection.combined": lambda **given: collection.combined(rows.astype(np.float32), **{"ids": [2]} | given),
            "Collection.neighbours": lambda **given: collection.neighbours(**{"id": 2} | given),
            "Client.search": lambda **given: _reached(client.search, b"an image", **given),
            "Client.neighbours": lambda **given: _reached(client.neighbours, **{"id": 2} | given),
        }


def _losses() -> list[str]:
    """The names of the losses that a user makes."""
    return [kind.__name__ for kind in (*ee.LOSSES.values(), *ee.PROXY_LOSSES.values())]


def _loss(name: str) -> Call:
    kind = getattr(ee, name)
    of_proxies = {"num_classes": 4, "embedding_size": 4} if kind in ee.PROXY_LOSSES.values() else {}

    def call(**given: Any) -> Any:
        learnt = {"learn_beta": True} if name == "MarginLoss" and "num_classes" in given else {}
        return kind(**of_proxies | learnt | given)

    return call


def _of(given: dict[str, Any]) -> dict[str, Any]:
    """The mean and the standard deviation of as many channels as are given."""
    channels = given.get("channels", 3)
    return {"mean": [0.0] * channels, "std": [1.0] * channels} if type(channels) is int else {}


def _embedder(**given: Any) -> ee.Embedder:
    return ee.Embedder(torch.nn.Flatten(), lambda image: torch.ones(1, 2, 2), device="cpu", **given)


def _reached(call: Call, *given: Any, **named: Any) -> None:
    """A call that comes as far as a place where nothing is: no folder, no server."""
    with contextlib.suppress(RunError, StoreError):
        call(*given, **named)


def test_every_whole_number_that_can_be_passed_is_in_a_call(calls: dict[str, Call]) -> None:
    assert len(PASSED) > 100
    assert {name for name, _ in PASSED} == set(calls)
    assert set(NOT_PASSED) <= {".".join(argument) for argument in ARGUMENTS}
    for known in LEGAL:
        assert any(known in (name, f"{call}.{name}") for call, name in ARGUMENTS), known


@pytest.mark.parametrize(("call", "name"), PASSED, ids=[".".join(argument) for argument in PASSED])
def test_a_whole_number_is_taken_and_anything_other_is_refused(call: str, name: str, calls: dict[str, Call]) -> None:
    several = ARGUMENTS[call, name]
    legal = LEGAL.get(name, LEGAL.get(f"{call}.{name}", ()))
    least = 3 if call == "DistanceWeightedMiner" else 2
    for right in (least, np.int64(least), torch.tensor(least)):
        calls[call](**{name: [right] if several else right})
    for said, wrong in REFUSED.items():
        given = {name: [wrong] if several else wrong}
        if said in legal:
            calls[call](**given)
            continue
        with pytest.raises((InvalidInput, InvalidType)) as refused:
            calls[call](**given)
        sentence = str(refused.value)
        # A list of ids names the one that there is no item of.
        assert re.search(rf"\b{name}\b|has no item -1", sentence), f"{said}: {sentence}"
        assert re.search(r"; \w", sentence), f"what to do about {said}: {sentence}"
        assert not re.search(r"\n|[.!?]( |$)", sentence), f"one sentence: {sentence}"
        assert isinstance(refused.value, EmbeddingExpansionError)


def test_the_arguments_are_found_by_their_annotations() -> None:
    for known in ("nearest.k", "nearest.chunk", "retrieval_metrics.ks", "HistogramLoss.bins", "RecallAtKLoss.ks"):
        assert tuple(known.split(".")) in ARGUMENTS
    for other in ("nearest.exclude", "open_set.labels", "Embedder.embed.broken", "TripletLoss.margin"):
        assert tuple(other.rsplit(".", 1)) not in ARGUMENTS
