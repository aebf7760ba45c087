"""pytorch-metric-learning, the incumbent: the losses of rankings, statistics, angles and signal-to-noise ratios.

| ours | its | what is set, and what differs |
|---|---|---|
| fast_ap | FastAPLoss | nothing |
| smooth_ap | SmoothAPLoss | `query_counts`; its own is right for k classes of k images whose rows stand together |
| intra_pair_variance | IntraPairVarianceLoss | nothing |
| angular | AngularLoss | 40 degrees by default; unit rows, since it leaves the negatives as they are |
| histogram | HistogramLoss | nothing; it leaves out pairs of two images that are both alone in their class |
| snr_contrastive | SignalToNoiseRatioContrastiveLoss | `average`: it counts the pairs that add something |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core import losses
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pairs import compare

from . import oracles
from .batches import batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import losses as peers
    from pytorch_metric_learning import reducers
    from pytorch_metric_learning.losses import histogram_loss

UNEQUAL, SQUARE = (3, 4, 2, 2), (3, 3, 3)
IN_FLOAT32 = ("histogram", "smooth_ap")  # its bins, its last sum, also of float64 rows
SNR = peers.SignalToNoiseRatioContrastiveLoss


@pytest.fixture(autouse=True)
def its_histogram_indexes_with_a_tuple(monkeypatch: pytest.MonkeyPatch) -> None:
    """It indexes with a list of lists, of which torch warns, and which newer versions read as one tensor."""
    found = histogram_loss.filter_pairs
    monkeypatch.setattr(histogram_loss, "filter_pairs", lambda *tensors: tuple(found(*tensors)))


def in_order(sizes: tuple[int, ...], *, unit: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of any norm, unless they are to be of norm 1, class by class."""
    E, labels = batch(sizes, d=5, seed=6, unit=unit)
    labels = torch.unique(labels, return_inverse=True)[1]  # it casts large labels
    order = labels.argsort()
    return E[order].requires_grad_(), labels[order]


SAME: list[tuple[str, dict[str, Any], Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = [
    ("fast_ap", {}, peers.FastAPLoss(num_bins=10), UNEQUAL),
    ("fast_ap", {"bins": 25}, peers.FastAPLoss(num_bins=25), (3, 1, 4)),
    ("smooth_ap", {"query_counts": True}, peers.SmoothAPLoss(temperature=0.01), SQUARE),
    ("smooth_ap", {"query_counts": True, "temperature": 0.1}, peers.SmoothAPLoss(temperature=0.1), SQUARE),
    ("intra_pair_variance", {}, peers.IntraPairVarianceLoss(), (3, 1, 4)),
    (
        "intra_pair_variance",
        {"positive_epsilon": 0.2, "negative_epsilon": -0.3},
        peers.IntraPairVarianceLoss(pos_eps=0.2, neg_eps=-0.3),
        UNEQUAL,
    ),
    ("histogram", {}, peers.HistogramLoss(), UNEQUAL),
    ("histogram", {"bins": 20}, peers.HistogramLoss(n_bins=20), (3, 1, 4)),
    ("snr_contrastive", {"average": "active"}, SNR(), UNEQUAL),
    ("snr_contrastive", {}, SNR(reducer=reducers.MeanReducer()), UNEQUAL),
    (
        "snr_contrastive",
        {"margin": 2.0, "positive_margin": 0.3, "average": "active"},
        SNR(pos_margin=0.3, neg_margin=2.0),
        (3, 1, 4),
    ),
]


def assert_same(name: str, parameters: dict[str, Any], peer: Any, E: Tensor, labels: Tensor) -> None:
    ours, theirs = LOSSES[name](**parameters)(E, labels), peer(E, labels)
    assert theirs > 0
    rtol = 1e-5 if name in IN_FLOAT32 else 1e-6
    torch.testing.assert_close(ours, theirs.double(), rtol=rtol, atol=1e-8)
    (gradient,), (expected,) = (torch.autograd.grad(value, E) for value in (ours, theirs))
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient, expected, rtol=10 * rtol, atol=10 * rtol * expected.abs().max().item())


@pytest.mark.parametrize(("name", "parameters", "peer", "sizes"), SAME, ids=[name for name, _, _, _ in SAME])
def test_loss_equals_the_incumbents(
    name: str, parameters: dict[str, Any], peer: Callable[[Tensor, Tensor], Tensor], sizes: tuple[int, ...]
) -> None:
    """Both normalise the rows themselves, so rows of any norm are handed in."""
    assert_same(name, parameters, peer, *in_order(sizes))


@pytest.mark.parametrize("angle", [40.0, 45.0])
def test_angular_of_unit_rows_equals_the_incumbents_which_leaves_the_negatives_as_they_are(angle: float) -> None:
    E, labels = in_order(UNEQUAL, unit=True)
    peer = peers.AngularLoss(alpha=angle)
    ours = LOSSES["angular"](angle=angle, normalize=False)(E, labels)
    torch.testing.assert_close(ours, peer(E, labels), rtol=1e-6, atol=1e-8)
    ours = LOSSES["angular"](angle=angle)
    torch.testing.assert_close(ours(3 * E, labels), ours(E, labels))
    assert (peer(3 * E, labels) - peer(E, labels)).abs() > 1e-3


def test_the_incumbents_histogram_leaves_out_pairs_of_images_that_are_both_alone() -> None:
    E, labels = in_order((3, 1, 1), unit=True)
    pairs = compare(E, labels, metric="inner")
    theirs = peers.HistogramLoss()(E, labels)
    assert (losses.histogram(pairs).mean() - theirs).abs() > 1e-6
    alone = ~pairs.positive_mask.any(dim=1)
    assert alone.sum() == 2
    fewer = replace(pairs, negative_mask=pairs.negative_mask & ~(alone[:, None] & alone))
    torch.testing.assert_close(losses.histogram(fewer).mean(), theirs, rtol=1e-5, atol=0)


def test_the_incumbents_smooth_ap_holds_for_as_many_classes_as_images_per_class_and_rows_in_order() -> None:
    """It takes the number of images per class for that of classes; its definition is the oracle with the anchor."""

    def theirs(E: Tensor, labels: Tensor) -> float:
        return peers.SmoothAPLoss()(E, labels).item()

    def defined(E: Tensor, labels: Tensor) -> float:
        table = oracles.plain_table(torch.nn.functional.normalize(E, dim=1), labels.tolist(), "inner")
        return oracles.mean(oracles.ORACLES["smooth_ap"](table, query_counts=True)).item()

    E, labels = in_order(SQUARE)
    assert theirs(E, labels) == pytest.approx(defined(E, labels), rel=1e-6)
    shuffled = torch.tensor([0, 3, 6, 1, 4, 7, 2, 5, 8])
    assert abs(theirs(E[shuffled], labels[shuffled]) - defined(E, labels)) > 1e-3
    E, labels = in_order((3, 3, 3, 3))
    assert abs(theirs(E, labels) - defined(E, labels)) > 1e-3
    E, labels = in_order(UNEQUAL)
    with pytest.raises(ValueError, match="same number"):
        theirs(E, labels)
