"""What the report shows, against slow loops written apart from it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from embedding_expansion.app.pages.charts import LONGEST, chart, labels, thin, ticks
from embedding_expansion.app.report.answers import best, by_class, confusions, find_answers, typical, worst
from embedding_expansion.app.report.gallery import uri_of
from embedding_expansion.app.report.hard_pairs import HardPair, Point, select
from embedding_expansion.app.report.plane import LETTER, lay_out, place_names
from embedding_expansion.data.images import ImageSet
from embedding_expansion.retrieval.metrics import retrieval_metrics
from embedding_expansion.training.job import make_sampler
from embedding_expansion.training.trained import reopen


def a_set(seed: int, *, split: bool = False) -> tuple[torch.Tensor, ImageSet]:
    """40 embeddings of 6 classes, the last of one image; with queries and a gallery apart, or not."""
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 5, 39), 5)
    vectors = torch.from_numpy(rng.normal(size=(40, 4))) + functional.one_hot(torch.from_numpy(labels), 6)[:, :4]
    is_query = rng.random(40) < 0.5 if split else None
    is_gallery = None if is_query is None else ~is_query
    images = ImageSet(
        labels, tuple("abcdef"), pixels=np.zeros((40, 1, 2, 2), np.uint8), is_query=is_query, is_gallery=is_gallery
    )
    return vectors, images


@given(st.integers(0, 100), st.booleans())
def test_answers_are_those_of_a_loop_over_queries(seed: int, split: bool) -> None:
    vectors, images = a_set(seed, split=split)
    answers = find_answers(vectors, images, k=5)
    queries = [i for i in range(40) if images.is_query is None or images.is_query[i]]
    assert answers.queries.tolist() == queries
    for row, query in enumerate(queries):
        others = [i for i in range(40) if i != query and (images.is_gallery is None or images.is_gallery[i])]
        cosine = {i: float(functional.cosine_similarity(vectors[query], vectors[i], dim=0)) for i in others}
        first = sorted(others, key=lambda i: -cosine[i])[:5]
        assert answers.neighbours[row].tolist() == first
        right = [bool(images.labels[i] == images.labels[query]) for i in first]
        assert answers.right[row].tolist() == right
        possible = min(5, sum(bool(images.labels[i] == images.labels[query]) for i in others))
        if possible == 0:
            assert math.isnan(answers.quality[row])
            continue
        total = sum(sum(right[: place + 1]) / (place + 1) for place in range(5) if right[place])
        assert answers.quality[row] == pytest.approx(total / possible)


@given(st.integers(0, 100), st.booleans())
def test_classes_add_up_to_the_recall_of_the_measures(seed: int, split: bool) -> None:
    vectors, images = a_set(seed, split=split)
    results = by_class(find_answers(vectors, images), images)
    total = sum(result.queries for result in results)
    recall = retrieval_metrics(vectors, images.labels, is_query=images.is_query, is_gallery=images.is_gallery, ks=(1,))
    assert sum(result.right for result in results) / total == pytest.approx(recall["recall_at_1"])
    assert [result.recall for result in results] == sorted(result.recall for result in results)


@given(st.integers(0, 100))
def test_confusions_are_counted_as_by_hand(seed: int) -> None:
    vectors, images = a_set(seed)
    answers = find_answers(vectors, images)
    counted: dict[tuple[int, int], int] = {}
    for query, first in zip(answers.queries, answers.neighbours[:, 0], strict=True):
        pair = int(images.labels[query]), int(images.labels[first])
        if pair[0] != pair[1]:
            counted[pair] = counted.get(pair, 0) + 1
    found = confusions(answers, images)
    assert {(each.label, each.other): each.count for each in found} == counted
    assert [each.count for each in found] == sorted(counted.values(), reverse=True)
    for each in found:
        assert images.labels[answers.queries[each.example]] == each.label
        assert images.labels[answers.neighbours[each.example, 0]] == each.other
        assert each.share == each.count / (images.labels == each.label).sum()
    for result in by_class(answers, images):
        of_class = [count for (label, _), count in counted.items() if label == result.label]
        assert result.mistaken == max(of_class, default=0)


@given(st.integers(0, 100))
def test_best_and_worst_are_the_extremes_of_their_classes(seed: int) -> None:
    vectors, images = a_set(seed)
    answers = find_answers(vectors, images)
    labels = images.labels[answers.queries]
    possible = {int(label) for label, value in zip(labels, answers.quality, strict=True) if not np.isnan(value)}
    for choose, extreme in ((best, np.nanmax), (worst, np.nanmin)):
        places = choose(answers, images, len(possible))
        assert {int(labels[place]) for place in places} == possible
        for place in places:
            assert answers.quality[place] == extreme(answers.quality[labels == labels[place]])
    middle = np.nanmedian(answers.quality)
    nearest = np.nanmin(np.abs(answers.quality - middle))
    assert min(abs(answers.quality[place] - middle) for place in typical(answers, images, 3)) == nearest
    assert len(best(answers, images, 99)) == int((~np.isnan(answers.quality)).sum())


@pytest.mark.parametrize("normalize", [True, False])
def test_the_hardest_pairs_are_those_of_all_points_written_out(normalize: bool, trained: Path) -> None:
    job = reopen(trained)
    object.__setattr__(job.config.expansion, "normalize_synthetic", normalize)
    rows = [make_sampler(job.train, job.config).batch(step) for step in range(3)]
    hardest: dict[frozenset[int], float] = {}
    for batch in rows:
        vectors, _ = job.embed(job.train.subset(batch))
        points = points_of(vectors.double(), job.train.labels[batch], 2, normalize)
        for label, first in points:
            for other, second in points:
                if label < other:
                    value = float(first @ second)
                    pair = frozenset((label, other))
                    hardest[pair] = max(value, hardest.get(pair, -2.0))
    selection = select(job, 99)
    assert {frozenset((pair.anchor.label, pair.negative.label)) for pair in selection.pairs} == set(hardest)
    for pair in selection.pairs:
        assert pair.similarity == pytest.approx(hardest[frozenset((pair.anchor.label, pair.negative.label))], abs=1e-6)
        assert pair.similarity >= pair.similarity_of_originals - 1e-6
        check_ends(pair, job.train)
    assert selection.images == 12
    assert sum(selection.counts) == 3


def points_of(vectors: torch.Tensor, labels: np.ndarray, n: int, normalize: bool) -> list[tuple[int, torch.Tensor]]:
    points = [(int(label), vector) for label, vector in zip(labels, vectors, strict=True)]
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            for k in range(1, n + 1):
                if labels[i] == labels[j]:
                    point = (k * vectors[i] + (n + 1 - k) * vectors[j]) / (n + 1)
                    points.append((int(labels[i]), point / point.norm() if normalize else point))
    return points


def check_ends(pair: HardPair, images: ImageSet) -> None:
    for point in (pair.anchor, pair.negative):
        assert isinstance(point, Point)
        assert all(images.labels[image] == point.label for image in point.images)
        assert sum(point.weights) == pytest.approx(1)
        assert len(point.images) == len(point.weights) == 1 + point.is_synthetic


def test_the_map_is_the_same_twice_bounded_and_as_many_of_each_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(50), 12)
    vectors = torch.from_numpy(rng.normal(size=(600, 8)))
    names = tuple(f"class {label}" for label in range(50))
    images = ImageSet(labels, names, pixels=np.zeros((600, 1, 1, 1), np.uint8))
    first, second = lay_out(vectors, images, seed=0), lay_out(vectors, images, seed=0)
    assert first.places.tobytes() == second.places.tobytes()
    assert len(np.unique(images.labels[first.images])) == 40
    assert set(np.bincount(images.labels[first.images]).tolist()) == {0, 10}
    assert first.places.min(axis=0).tolist() == [0, 0]
    assert first.places[:, 0].max() == 1


@pytest.mark.parametrize(("count", "dim"), [(2, 1), (3, 2), (5, 6), (40, 1)])
def test_few_points_few_dimensions_and_equal_points_have_a_map(count: int, dim: int) -> None:
    images = ImageSet(np.arange(count) // 2, tuple("abcdefghijklmnopqrst"), pixels=np.zeros((count, 1, 1, 1), np.uint8))
    for vectors in (torch.randn(count, dim), torch.ones(count, dim)):
        places = lay_out(vectors, images, seed=0).places
        assert np.isfinite(places).all()
        assert places.min() >= 0
        assert places.max() <= 1


def test_points_in_a_plane_keep_their_distances_on_a_map_by_pca() -> None:
    points = torch.randn(10, 2, dtype=torch.float64)
    images = ImageSet(np.arange(10) // 5, ("a", "b"), pixels=np.zeros((10, 1, 1, 1), np.uint8))
    places = torch.from_numpy(lay_out(points, images, seed=0).places.copy())
    ratio = torch.pdist(places) / torch.pdist(points)
    assert float(ratio.std()) < 1e-9


def test_whole_names_have_places_that_do_not_meet() -> None:
    names = ["sea_horse", "sea_urchin", "sea_star", "sea_otter", "an island far from all the others"]
    centres = [(50.0, 30.0), (51.0, 30.5), (49.0, 29.0), (50.0, 31.0), (99.0, 10.0)]
    places = place_names(names, centres, 60.0)
    boxes = [(x, y, LETTER * len(name) / 2) for name, (x, y) in zip(names, places, strict=True)]  # all have room
    for number, (x, y, half) in enumerate(boxes):
        assert 0 <= x - half <= x + half <= 100
        for other_x, other_y, other_half in boxes[:number]:
            assert abs(x - other_x) > half + other_half or abs(y - other_y) > 2.4  # the size of the letters


def test_a_name_without_room_has_no_place() -> None:
    crowd = place_names(["name"] * 7, [(50.0, 30.0)] * 7, 60.0)
    assert [place is None for place in crowd] == [False] * 5 + [True] * 2
    assert place_names(["wide" * 20], [(50.0, 30.0)], 60.0) == [None]


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_enclose_the_values_and_are_few(low: float, width: float) -> None:
    marks = ticks(low, low + width)
    slack = 1e-5 * max(abs(low), abs(low + width), 1e-12)
    assert marks[0] <= low + slack
    assert marks[-1] >= low + width - slack
    assert 2 <= len(marks) <= 8


def test_a_chart_leaves_out_what_is_no_number_and_is_none_without_any() -> None:
    assert chart("t", {"loss": []}) is None
    assert chart("t", {"loss": [(1.0, math.nan)]}) is None
    drawn = chart("t", {"loss": [(0.0, 1.0), (5.0, math.inf), (10.0, 3.0)]}, mark=10)
    assert drawn is not None
    assert drawn.lines[0].path.count("L") == 1
    assert drawn.mark == 348
    assert "from 1 at step 0 to 3 at step 10" in drawn.summary


def test_thinned_points_keep_the_first_and_the_last() -> None:
    points = [(float(step), float(step)) for step in range(1001)]
    chosen = thin(points, 200)
    assert len(chosen) == 200
    assert (chosen[0], chosen[-1]) == (points[0], points[-1])
    assert chosen == sorted(set(chosen))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pictures_are_bounded_whatever_the_image(channels: int) -> None:
    for height, width in ((1, 1), (32, 32), (40, 41), (900, 20), (500, 500)):
        noise = torch.randint(0, 256, (channels, height, width), dtype=torch.uint8)
        assert len(uri_of(noise)) < 16_000


@pytest.mark.parametrize("high", [3e-9, 1.5e-4, 0.003, 0.7, 12.0, 40_000.0, 3e8])
def test_the_labels_of_an_axis_fit_and_are_its_numbers(high: float) -> None:
    marks = ticks(0.0, high)
    texts = labels(marks)
    assert [float(text) for text in texts] == pytest.approx(marks)
    assert all(len(text) <= LONGEST for text in texts)
    assert len({"e" in text for text in texts if text != "0"}) == 1
