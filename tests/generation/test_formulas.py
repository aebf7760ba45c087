"""The objectives of every method are those of its formulas, computed by slow loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.losses.angular import AngularLoss
from embedding_expansion.core.losses.logarithmic import LiftedStructureLoss
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.proxy_loss import ProxyLoss
from embedding_expansion.generation.method import Method

from .conftest import CLASSES, DIM, EACH, setting
from .oracles.edits import (
    das_copy,
    deviations,
    metrix_contrastive,
    metrix_mixtures,
    metrix_multi_similarity,
    metrix_proxy_anchor,
    mixed_neighbours,
)
from .oracles.generators import base, daml, divergence, hdml_metric, pairs_and_negatives, pulled
from .oracles.hardest import loop_value, points, symmetrical_n_pair, symmetrical_triplet
from .oracles.losses import apart, multi_similarity, proxy_anchor, triplet_all, unit

LABELS = (torch.arange(CLASSES * EACH) % CLASSES).tolist()


def embeddings(seed: int, spread: float = 0.4) -> Tensor:
    """Rows whose class is told by one channel."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(LABELS), DIM, generator=draw, dtype=torch.float64)
    return functional.one_hot(torch.tensor(LABELS), DIM) + spread * noise


def value(method: Method, rows: Tensor, name: str = "metric") -> Tensor:
    return method.step(rows, rows, torch.tensor(LABELS))[name].value


def proxies_of(method: Method) -> Tensor:
    """The proxies, without gradient; changes in place are changes of the loss."""
    assert isinstance(method.loss, ProxyLoss)
    return method.loss.proxies.detach()


def unit_rows(rows: Tensor) -> list[Tensor]:
    return [unit(row) for row in rows]


def close(found: Tensor | float, expected: Tensor | float, tolerance: float = 1e-9) -> None:
    values = [float(each.detach()) if isinstance(each, Tensor) else each for each in (found, expected)]
    assert values[0] == pytest.approx(values[1], rel=tolerance, abs=tolerance)


def pairs(rows: Sequence[Tensor]) -> tuple[list[tuple[Tensor, Tensor]], list[int]]:
    """The images of a class two at a time, and the class of each pair."""
    found = [(a, p) for a, p, _ in pairs_and_negatives(LABELS, of_each_class=True)]
    return [(rows[a], rows[p]) for a, p in found], [LABELS[a] for a, _ in found]


def test_das_is_the_loss_of_the_batch_and_its_copies() -> None:
    method = setting("das", copies=2, channels=1, queue=3).method
    batches = [(unit_rows(embeddings(seed)), LABELS) for seed in (1, 2)]
    value(method, embeddings(1))
    torch.manual_seed(5)
    found = value(method, embeddings(2))
    torch.manual_seed(5)
    rows, labels = list(batches[1][0]), list(LABELS)
    for _ in range(2):
        factors = 1 + 0.01 * (2 * torch.rand(len(LABELS), 1, dtype=torch.float64) - 1)
        drawn = torch.rand(len(LABELS)).tolist()
        given = zip(batches[1][0], LABELS, factors, drawn, strict=True)
        rows += [das_copy(row, batches, label, own, place, kept=3) for row, label, own, place in given]
        labels += LABELS
    close(found, multi_similarity(rows, labels, 2.0, 50.0, 0.5), 1e-7)


def test_iaa_adds_the_noise_of_a_class_over_all_its_embeddings() -> None:
    method = setting("iaa", copies=1, strength=0.5).method
    seen: list[list[Tensor]] = [[] for _ in range(CLASSES)]
    for seed in (1, 2, 3):
        rows = unit_rows(embeddings(seed))
        for row, label in zip(rows, LABELS, strict=True):
            seen[label].append(row)
        torch.manual_seed(seed)
        found = value(method, embeddings(seed))
    torch.manual_seed(3)
    noise = torch.randn(len(LABELS), DIM, dtype=torch.float64)
    scale = [math.sqrt(0.5) * deviations(own) for own in seen]
    copies = [unit(row + scale[k] * each) for row, k, each in zip(rows, LABELS, noise, strict=True)]
    close(found, multi_similarity(rows + copies, LABELS * 2, 2.0, 50.0, 0.5), 1e-7)


def test_proxy_synthesis_gives_each_mixture_a_class_of_its_own() -> None:
    made = setting("proxy_synthesis")
    torch.manual_seed(3)
    found = value(made.method, embeddings(1))
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    rows, proxies = unit_rows(embeddings(1)), unit_rows(proxies_of(made.method))
    mixed = mixed_neighbours(rows, LABELS, share)
    of_mixed = [share * proxies[LABELS[i]] + (1 - share) * proxies[LABELS[j]] for _, i, j in mixed]
    labels = LABELS + [CLASSES + number for number in range(len(mixed))]
    expected = proxy_anchor(rows + [row for row, _, _ in mixed], labels, proxies + of_mixed, 0.1, 32.0)
    close(found, expected, 1e-7)


def test_memvir_compares_with_the_rows_and_proxies_of_every_third_step_before() -> None:
    method = setting("memvir", virtual=2, gap=2, start=1).method
    past: list[tuple[Tensor, Tensor]] = []
    for step in range(9):
        rows, proxies = embeddings(step), proxies_of(method).clone()
        found = value(method, rows)
        used = [past[step - age] for age in (3, 6) if step - age >= 1]  # the first step is not kept
        all_rows, labels, all_proxies = list(rows), list(LABELS), list(proxies)
        for old, of_old in used:
            labels += [label + len(all_proxies) for label in LABELS]
            all_rows, all_proxies = all_rows + list(old), all_proxies + list(of_old)
        close(found, proxy_anchor(all_rows, labels, all_proxies, 0.1, 32.0), 1e-6)
        past.append((rows, proxies))
        proxies_of(method).add_(0.1 * torch.randn_like(proxies))
    assert len(used) == 2


@pytest.mark.parametrize("loss", ["multi_similarity", "contrastive", "proxy_anchor"])
@pytest.mark.parametrize("seed", [0, 1])  # which draw one of the two kinds of mixtures each
def test_metrix_adds_the_loss_of_mixtures(loss: str, seed: int) -> None:
    method = setting("metrix", loss).method
    rows = unit_rows(embeddings(1))
    anchors = unit_rows(proxies_of(method)) if loss == "proxy_anchor" else rows
    clean = method.loss(embeddings(1), torch.tensor(LABELS)).detach()
    torch.manual_seed(seed)
    found = value(method, embeddings(1))
    torch.manual_seed(seed)
    with_anchor = bool(torch.rand(()) < 0.5)
    assert with_anchor == (seed == 0)
    own = range(CLASSES) if loss == "proxy_anchor" else LABELS
    is_self = loss != "proxy_anchor"
    near = [[j for j, k in enumerate(LABELS) if k == c and not (is_self and j == i)] for i, c in enumerate(own)]
    away = [[j for j, k in enumerate(LABELS) if k != c] for c in own]
    shape = len(anchors), 1 if with_anchor else len(near[0]), len(away[0])
    shares = torch.distributions.Beta(2.0, 2.0).sample(shape).double()
    mixtures = [
        metrix_mixtures(
            anchor, [anchor] if with_anchor else [rows[j] for j in near[i]], [rows[j] for j in away[i]], shares[i]
        )
        for i, anchor in enumerate(anchors)
    ]
    mixed = {
        "multi_similarity": lambda: metrix_multi_similarity(mixtures, 2.0, 50.0, 0.5),
        "contrastive": lambda: metrix_contrastive(mixtures, 1.0),
        "proxy_anchor": lambda: metrix_proxy_anchor(mixtures, 0.1, 32.0),
    }[loss]()
    close(found, clean + 0.4 * mixed, 1e-6)


@pytest.mark.parametrize("easiest", [False, True])
def test_symmetrical_n_pair_takes_the_largest_of_six_combinations(easiest: bool) -> None:
    rows = embeddings(1)
    found = value(setting("symmetrical", easiest_positive=easiest).method, rows)
    close(found, symmetrical_n_pair(*pairs(list(rows)), 0.002, easiest))


def test_symmetrical_triplet_takes_the_nearest_points_of_two_classes() -> None:
    found = value(setting("symmetrical", "triplet").method, embeddings(1))
    close(found, symmetrical_triplet(*pairs(unit_rows(embeddings(1))), 0.2))


@pytest.mark.parametrize("loss", [LiftedStructureLoss, AngularLoss])
def test_symmetrical_lifted_and_angular_read_the_largest_similarity(loss: type[PairLoss]) -> None:
    given, classes = pairs(unit_rows(embeddings(1)))
    terms = []
    for i, pair in enumerate(given):
        largest = [
            max(float(x.dot(y)) for x in points(pair) for y in points(other))
            for j, other in enumerate(given)
            if classes[j] != classes[i]
        ]
        positive = float(pair[0].dot(pair[1]))
        if loss is LiftedStructureLoss:
            against = math.log(sum(math.exp(1 - math.sqrt(2 - 2 * s)) for s in largest))
            terms.append(max(against + math.sqrt(2 - 2 * positive), 0) ** 2 / 2)
        else:
            terms.append(math.log(1 + sum(math.exp(8 * s - 4 * positive) for s in largest)))
    found = value(setting("symmetrical", loss.name).method, embeddings(1))
    close(found, sum(terms) / len(terms), 1e-7)


@pytest.mark.parametrize("loss", ["multi_similarity", "triplet", "hphn_triplet", "lifted_structure", "n_pair"])
def test_loop_reads_the_nearest_points_of_two_arcs(loss: str) -> None:
    method, rows = setting("loop", loss).method, embeddings(1)
    torch.manual_seed(2)
    found = value(method, rows)
    torch.manual_seed(2)
    order = torch.randperm(CLASSES * EACH // 2).tolist()
    given = pairs(list(rows) if loss == "n_pair" else unit_rows(rows))
    close(found, loop_value(loss, *given, method.loss.parameters_of_function, order), 1e-3)  # the oracle tries points


@pytest.mark.parametrize("loss", ["triplet", "n_pair"])
def test_daml_trains_with_generated_negatives(loss: str) -> None:
    made = setting("daml", loss, plain_steps=1, regularization=0.7, adversarial=5.0, hidden=8)
    generator = made.method.get_submodule("generator")
    with torch.no_grad():  # so that it does something before it has learnt
        for weight in generator.parameters():
            weight.mul_(20)
    features, rows, labels = made.forward()
    plain = made.method.step(features, rows, labels)
    assert [*plain] == ["metric"]
    close(plain["metric"].value, made.method.loss(rows, labels))
    torch.manual_seed(4)
    found = made.method.step(features, rows, labels)
    torch.manual_seed(4)
    drawn = torch.rand(len(LABELS) // 2, len(LABELS))
    chosen = pairs_and_negatives(LABELS, loss == "n_pair", _largest_of_other_class(drawn))
    margin = 1.0
    expected = daml(loss, features, made.head, generator, chosen, margin, 0.7, 5.0)
    close(found["metric"].value, expected[0])
    count = len(chosen[0][2])
    close(found["generator"].value, expected[1])
    assert count == (CLASSES - 1 if loss == "n_pair" else 1)


def _largest_of_other_class(drawn: Tensor) -> list[int]:
    """The row of another class with the largest number of each pair."""
    anchors = [a for a, _, _ in pairs_and_negatives(LABELS, of_each_class=True)]
    return [
        max((row for row in range(len(LABELS)) if LABELS[row] != LABELS[a]), key=lambda row: float(numbers[row]))
        for a, numbers in zip(anchors, drawn, strict=True)
    ]


@pytest.mark.parametrize("loss", ["triplet", "n_pair"])
def test_hdml_pulls_negatives_and_weighs_by_the_last_window(loss: str) -> None:
    made = setting("hdml", loss, window=2, hidden=8, pull=0.5, balance=10.0, softmax=3.0, share=0.25)
    method, margin = made.method, 1.0
    method.eval()  # batch norm of the generator does not depend on the batch
    generator, classifier = method.get_submodule("generator"), method.get_submodule("classifier")
    averages, sums = [1e6, 1e6], [0.0, 0.0]
    for step in range(4):
        made.images += 0.1
        features, rows, labels = made.forward()
        torch.manual_seed(step)
        found = method.step(features, rows, labels)
        torch.manual_seed(step)
        drawn = _largest_of_other_class(torch.rand(len(LABELS) // 2, len(LABELS)))
        chosen = pairs_and_negatives(LABELS, loss == "n_pair", drawn)
        hard = [[pulled(rows[a], rows[p], rows[n], 0.5, averages[0]) for n in away] for a, p, away in chosen]
        again, made_of = generator(rows), [[generator(z[None])[0] for z in each] for each in hard]
        weight = math.exp(-10.0 / averages[1])
        embedded = [[made.head(each) for each in own] for own in made_of]
        metric = hdml_metric(loss, rows, made.head(again), embedded, chosen, margin, weight)
        close(found["metric"].value, metric, 1e-7)
        logits = [classifier(again[a]) for a, _, _ in chosen] + [classifier(y) for own in made_of for y in own]
        truth = [LABELS[a] for a, _, _ in chosen] + [LABELS[n] for _, _, away in chosen for n in away]
        entropy = -sum(each.log_softmax(0)[k] for each, k in zip(logits, truth, strict=True)) / len(truth)
        squares = sum(apart(one, other) for one, other in zip(again, features, strict=True))
        close(found["generator"].value, 0.75 * squares + 3.0 * 0.25 * entropy, 1e-7)
        own = [classifier(y).log_softmax(0)[k] for y, k in zip(features, LABELS, strict=True)]
        close(found["classifier"].value, -sum(own) / len(own))
        terms = [base(loss, rows[a], rows[p], [rows[n] for n in away], margin) for a, p, away in chosen]
        values = torch.stack(terms).mean(), found["generator"].value
        sums = [total + float(each.detach()) for total, each in zip(sums, values, strict=True)]
        if step % 2:
            averages, sums = [each / 2 for each in sums], [0.0, 0.0]
    assert averages[0] < 1e5
    assert any(
        not torch.equal(z, rows[n])
        for own, (_, _, away) in zip(hard, chosen, strict=True)
        for z, n in zip(own, away, strict=True)
    )


@pytest.mark.parametrize("phase", [1, 2])
def test_dvml_adds_variation_and_reconstructs(phase: int) -> None:
    made = setting("dvml", first_steps=2 - phase, draws=3, hidden=8)
    variation, decoder = made.method.get_submodule("variation"), made.method.get_submodule("decoder")
    features, rows, labels = made.forward()
    torch.manual_seed(6)
    found = made.method.step(features, rows, labels)
    torch.manual_seed(6)
    l1, l2, l3, l4 = (1.0, 1.0, 0.1, 1.0) if phase == 1 else (0.8, 1.0, 0.2, 0.8)
    scaled = features / (sum(row.norm() for row in features) / len(features))
    mean, log_variance = variation(scaled)[:, :DIM], variation(scaled)[:, DIM:]
    noise = torch.randn(1 if phase == 1 else 3, len(LABELS), DIM, dtype=torch.float64)
    varied = [rows + mean + (log_variance / 2).exp() * each for each in noise]
    divergences = [divergence(m, v) for m, v in zip(mean, log_variance, strict=True)]
    errors = [apart(decoder(z), h) for each in varied for z, h in zip(each, scaled, strict=True)]
    losses = [triplet_all(unit_rows(each), LABELS, 1.0) for each in (varied[0], rows)]
    close(found["metric"].value, l3 * losses[0] + l4 * losses[1], 1e-7)
    close(found["divergence"].value, l1 * sum(divergences) / len(divergences), 1e-7)
    close(found["reconstruction"].value, l2 * sum(errors) / len(errors), 1e-7)
