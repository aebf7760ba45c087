"""The released program's own outputs: anchor scope with the HPHN triplet loss has its values, and the true derivative.

The program stores one gradient, of the sum of all rows' losses, and the HPHN triplet loss lets row i's loss reach few
rows only: the anchor and its mate, the furthest positive, and the ends of the nearest negative. So

* a row of the gradient that no tied anchor (`an_weight` or `ap_weight` not 1) reaches must agree as it stands;
* where a synthetic point ties with its copy (the program builds each twice: i towards j and j towards i), both are the
  same function of the rows, and `an_weight` is the factor by which the program's gradient of that anchor's negative
  distance is too large: our distances, weighed so, must have the program's gradient on every row. Not so among
  duplicates of original rows, where the program gives each of the tied rows the whole gradient.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embedding_expansion.core.expansion import expand, hardest, synthesize
from embedding_expansion.core.losses import hphn_triplet

from . import explicit, oracles

HERE = Path(__file__).parent / "official"
COUNT = 21


def cases_in(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    for case in json.loads((folder / "index.json").read_text())["cases"]:
        with np.load(folder / case["file"], allow_pickle=False) as arrays:
            yield case, dict(arrays)


@pytest.fixture(params=["copied", "all"], scope="module")
def cases(request: pytest.FixtureRequest) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    if request.param == "copied":
        return list(cases_in(HERE))
    found = list(cases_in(request.getfixturevalue("real_data") / "official"))
    assert len(found) == COUNT
    return found


def inputs(arrays: dict[str, np.ndarray], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.tensor(arrays["embeddings"], dtype=dtype, requires_grad=True), torch.tensor(arrays["labels"])


def our_pairs(case: dict[str, Any], E: Tensor, labels: Tensor) -> Any:
    return expand(E, labels, case["n_inner_pts"], scope="anchor", normalize_synthetic=case["l2_norm"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_row_has_the_released_programs_loss(cases: list[Any], dtype: torch.dtype) -> None:
    for case, arrays in cases:
        E, labels = inputs(arrays, dtype)
        terms = hphn_triplet(our_pairs(case, E, labels), margin=case["margin"])
        worst = np.abs(terms.total[0].detach().numpy() - arrays["loss"]).max()
        assert worst <= case["tol_value"], f"{case['file']}: {worst} > {case['tol_value']}"
        assert abs(terms.mean().item() - case["mean_loss"]) <= case["tol_value"], case["file"]


def test_the_oracle_has_the_released_programs_loss() -> None:
    for case, arrays in cases_in(HERE):
        E, labels = inputs(arrays, torch.float64)
        table = oracles.expanded_table(E, labels.tolist(), case["n_inner_pts"], "anchor", case["l2_norm"])
        total = oracles.totals(oracles.ORACLES["hphn_triplet"](table, case["margin"]))[0].detach().numpy()
        np.testing.assert_allclose(total, arrays["loss"], atol=case["tol_value"], rtol=0)


def near(distances: Tensor, extreme: Tensor) -> Tensor:
    return ((distances - extreme).abs() < 1e-5).nonzero()


def rows_reached(E: Tensor, labels: list[int], anchor: int, case: dict[str, Any]) -> set[int]:
    """The rows that the program's gradient of one anchor's loss can reach: the ends of every pair that ties."""
    n, normalize = case["n_inner_pts"], case["l2_norm"]
    positives = explicit.rows_of_class(labels, labels[anchor])
    to_positives = (E[positives] - E[anchor]).norm(dim=1)
    reached = {anchor} | {positives[k] for (k,) in near(to_positives, to_positives.max()).tolist()}
    ours = explicit.points_of_row(E, anchor, n, normalize)
    theirs = [
        point
        for label in set(labels) - {labels[anchor]}
        for point in explicit.points_of_paired_class(E, labels, label, n, normalize)
    ]
    between = torch.cdist(torch.stack([p.vector for p in ours]), torch.stack([p.vector for p in theirs]))
    for p, q in near(between, between.min()).tolist():
        reached |= {*ours[p].ends, *theirs[q].ends}
    return reached


def test_gradient_rows_that_no_tie_reaches_agree_as_they_stand(cases: list[Any]) -> None:
    compared = 0
    for case, arrays in cases:
        E, labels = inputs(arrays, torch.float64)
        hphn_triplet(our_pairs(case, E, labels), margin=case["margin"]).total.sum().backward()
        clean = set(range(len(labels)))
        for anchor in np.flatnonzero((arrays["an_weight"] != 1) | (arrays["ap_weight"] != 1)):
            clean -= rows_reached(E.detach(), labels.tolist(), int(anchor), case)
        rows = sorted(clean)
        compared += len(rows)
        worst = np.abs(E.grad.numpy()[rows] - arrays["grad"][rows]).max(initial=0)
        assert worst <= case["tol_grad"], f"{case['file']}: {worst} on rows {rows}"
    assert compared >= 16


def test_with_its_double_counting_put_in_every_gradient_row_agrees(cases: list[Any]) -> None:
    compared = 0
    for case, arrays in cases:
        if case["tag"].startswith("dup"):
            continue
        E, labels = inputs(arrays, torch.float64)
        pairs = our_pairs(case, E, labels)
        positive = pairs.positive.masked_fill(~pairs.positive_mask, torch.inf).amin(1)
        negative = pairs.negative.masked_fill(~pairs.negative_mask, -torch.inf).amax(1)
        d_pos, d_neg = (2 - 2 * positive).sqrt(), (2 - 2 * negative).sqrt()
        active = torch.tensor(arrays["loss"] > 0)
        weighed = torch.tensor(arrays["ap_weight"]) * d_pos - torch.tensor(arrays["an_weight"]) * d_neg
        weighed[active].sum().backward()
        worst = np.abs(E.grad.numpy() - arrays["grad"]).max()
        assert worst <= case["tol_grad"], f"{case['file']}: {worst}"
        compared += 1
    assert compared >= 3


def test_synthetic_points_are_the_programs_up_to_order(cases: list[Any]) -> None:
    """The program holds each point twice; with two images a class every segment is one of its pairs."""
    checked = 0
    for case, arrays in cases:
        if case["num_instances"] != 2 or case["n_inner_pts"] == 0:
            continue
        E, labels = inputs(arrays, torch.float64)
        points, names = synthesize(E, labels, case["n_inner_pts"], normalize_synthetic=case["l2_norm"])
        program = torch.tensor(arrays["synthetic"], dtype=torch.float64)
        assert 2 * len(points) == len(program)
        distance = torch.cdist(points.detach(), program)
        assert distance.amin(1).max() < 1e-6
        assert distance.amin(0).max() < 1e-6
        program_names = torch.tensor(arrays["aug_labels"])[len(labels) :]
        assert torch.equal(names, program_names[distance.argmin(1)])
        checked += 1
    assert checked >= 1


def test_the_winners_are_synthetic_where_the_programs_are(cases: list[Any]) -> None:
    for case, arrays in cases:
        E, labels = inputs(arrays, torch.float64)
        E = E.detach()
        n, normalize = case["n_inner_pts"], case["l2_norm"]
        pairs = our_pairs(case, E, labels)
        winners = hardest(E, labels, n, scope="anchor", normalize_synthetic=normalize, metric="euclidean")
        negative = pairs.negative.masked_fill(~pairs.negative_mask, -torch.inf)
        two = negative.topk(min(2, negative.shape[1]), dim=1).values
        lone = (arrays["an_weight"] <= 2) & ((two[:, 0] - two[:, -1] > 1e-6).numpy() | (negative.shape[1] < 2))
        column = negative.argmax(1)
        ours = winners.is_synthetic[torch.arange(len(labels)), column].numpy()
        if not case["tag"].startswith("dup"):
            np.testing.assert_array_equal(ours[lone, 0], arrays["anchor_is_synthetic"][lone], err_msg=case["file"])
            np.testing.assert_array_equal(ours[lone, 1], arrays["neg_is_synthetic"][lone], err_msg=case["file"])
