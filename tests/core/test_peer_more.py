"""pytorch-metric-learning, continued: the losses beyond the paper's six, and the options that reach its definitions.

| ours | its | what is set |
|---|---|---|
| contrastive | ContrastiveLoss | ours: squared=False, average="active" |
| triplet | TripletMarginLoss | ours: squared=False, average="active"; hard and semihard: its TripletMarginMiner |
| triplet, soft margin | TripletMarginLoss(smooth_loss=True) | ours: squared=False, average="active" |
| margin | MarginLoss | ours: count="triplets", also with beta learnt and regularised |
| ranked_list | RankedListLoss | it adds 1e-5 to every weight, so 0.2% is allowed |
| angular | AngularLoss | rows of norm 1, as it normalises anchors and positives only |
| snr_contrastive | SignalToNoiseRatioContrastiveLoss | ours: average="active"; its variance over d - 1 cancels out |
| histogram | HistogramLoss | batches with classes of one size: it weighs pairs by class sizes else |
| fast_ap | FastAPLoss | nothing |
| smooth_ap | SmoothAPLoss | classes of one size, which it needs; ours: query_counts=True |
| others | of the same name | nothing |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.losses import LOSSES, MarginLoss
from embedding_expansion.errors import DegenerateBatchWarning, InvalidInput

from .batches import batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import losses as peers
    from pytorch_metric_learning import miners

UNEQUAL, EQUAL = (3, 4, 2, 2), (3, 3, 3)
Peer = Callable[[Tensor, Tensor], Tensor]
ACTIVE: dict[str, Any] = {"squared": False, "average": "active"}


def mined(loss: torch.nn.Module, miner: torch.nn.Module) -> Peer:
    return lambda E, labels: loss(E, labels, miner(E, labels))


SAME: list[tuple[str, dict[str, Any], Peer, tuple[int, ...], float]] = [
    ("contrastive", ACTIVE, peers.ContrastiveLoss(), UNEQUAL, 1e-6),
    ("triplet", {"margin": 0.05, **ACTIVE}, peers.TripletMarginLoss(), UNEQUAL, 1e-6),
    (
        "triplet",
        {"mining": "semihard", "margin": 0.3, **ACTIVE},
        mined(peers.TripletMarginLoss(0.3), miners.TripletMarginMiner(0.3, type_of_triplets="semihard")),
        UNEQUAL,
        1e-6,
    ),
    (
        "triplet",
        {"mining": "hard", "margin": 0.3, **ACTIVE},
        mined(peers.TripletMarginLoss(0.3), miners.TripletMarginMiner(0.3, type_of_triplets="hard")),
        UNEQUAL,
        1e-6,
    ),
    (
        "triplet",
        {"soft_margin": True, **ACTIVE},
        peers.TripletMarginLoss(margin=0, smooth_loss=True),
        UNEQUAL,
        1e-6,
    ),
    ("generalized_lifted_structure", {}, peers.GeneralizedLiftedStructureLoss(), UNEQUAL, 1e-6),
    ("margin", {"count": "triplets"}, peers.MarginLoss(), UNEQUAL, 1e-6),
    ("circle", {}, peers.CircleLoss(), UNEQUAL, 1e-6),
    ("sup_con", {}, peers.SupConLoss(), UNEQUAL, 1e-6),
    ("nt_xent", {}, peers.NTXentLoss(), UNEQUAL, 1e-6),
    ("nca", {"scale": 2.0}, peers.NCALoss(softmax_scale=2), UNEQUAL, 1e-6),
    ("tuplet_margin", {}, peers.TupletMarginLoss(), UNEQUAL, 1e-6),
    ("intra_pair_variance", {}, peers.IntraPairVarianceLoss(), UNEQUAL, 1e-6),
    ("ranked_list", {"negative_temperature": 2.0}, peers.RankedListLoss(margin=0.4, Tn=2), UNEQUAL, 2e-3),
    ("angular", {"angle": 40.0}, peers.AngularLoss(), UNEQUAL, 1e-6),
    ("snr_contrastive", {"average": "active"}, peers.SignalToNoiseRatioContrastiveLoss(), UNEQUAL, 1e-6),
    ("histogram", {}, peers.HistogramLoss(n_bins=100), EQUAL, 1e-6),
    ("fast_ap", {}, peers.FastAPLoss(num_bins=10), UNEQUAL, 1e-6),
    ("smooth_ap", {"query_counts": True}, peers.SmoothAPLoss(), EQUAL, 1e-6),
]


@pytest.mark.filterwarnings("ignore:Values of Tp", "ignore:Using a non-tuple sequence")
@pytest.mark.parametrize(
    ("name", "parameters", "peer", "sizes", "tolerance"), SAME, ids=[f"{name}-{k}" for k, (name, *_) in enumerate(SAME)]
)
def test_loss_equals_the_incumbents(
    name: str, parameters: dict[str, Any], peer: Peer, sizes: tuple[int, ...], tolerance: float
) -> None:
    E, labels = batch(sizes, d=5, seed=6)
    E.requires_grad_()
    labels = torch.unique(labels, return_inverse=True)[1]  # it casts large labels
    if name == "smooth_ap":  # it reads classes off their places
        order = labels.argsort()
        E, labels = E.detach()[order].requires_grad_(), labels[order]
    # A unit row is what both take it for; the gradient is compared on the sphere, since only some of them normalise.
    ours, theirs = LOSSES[name](**parameters)(E, labels), peer(E, labels)
    assert ours > 0
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=tolerance, atol=1e-8)
    gradients = [torch.autograd.grad(value, E)[0] for value in (ours, theirs)]
    ours, theirs = (g - (g * E).sum(1, keepdim=True) * E for g in gradients)
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=max(10 * tolerance, 1e-5), atol=1e-6 + tolerance)


@pytest.mark.parametrize("nu", [0.0, 0.3])
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("sizes", [(3, 4, 2, 2), (3, 1, 4, 1), (3,), (1, 1)])
def test_learnt_boundaries_equal_the_incumbents_and_get_their_gradient(
    sizes: tuple[int, ...], per_class: bool, nu: float
) -> None:
    E, labels = batch(sizes, d=5, seed=6)
    labels = torch.unique(labels, return_inverse=True)[1]
    classes = 4 if per_class else None
    ours = MarginLoss(count="triplets", learn_beta=True, num_classes=classes, nu=nu).double()
    theirs = peers.MarginLoss(learn_beta=True, num_classes=classes, nu=nu).double()
    with torch.no_grad():
        for loss in (ours, theirs):
            loss.beta.copy_(torch.linspace(0.8, 1.3, len(loss.beta)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateBatchWarning)
        values = ours(E, labels), theirs(E.requires_grad_(), labels)
    torch.testing.assert_close(*values, rtol=1e-6, atol=0)
    gradients = [
        torch.autograd.grad(v, loss.beta, allow_unused=True, materialize_grads=True)[0]
        for v, loss in zip(values, (ours, theirs), strict=True)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("per_class", [False, True])
def test_the_regulariser_of_beta_is_that_of_the_authors_program(per_class: bool) -> None:
    """Beta of the anchor once for each of its positives, together with the hinges over the pairs that add something."""
    E, labels = batch((3, 4, 2, 1), d=5, seed=6)
    labels = torch.unique(labels, return_inverse=True)[1]
    loss = MarginLoss(learn_beta=True, num_classes=4 if per_class else None, nu=0.5).double()
    with torch.no_grad():
        loss.beta.copy_(torch.linspace(0.8, 1.3, len(loss.beta)))
    total, active = 0.0, 0
    for i in range(len(E)):
        beta = loss.beta[labels[i] if per_class else 0].item()
        for j in range(len(E)):
            d, same = (E[i] - E[j]).norm().item(), bool(labels[i] == labels[j])
            if i == j:
                continue
            hinge = max(0.0, 0.2 + (d - beta if same else beta - d))
            total, active = total + hinge + (0.5 * beta if same else 0), active + (hinge > 0)
    assert loss(E, labels).item() == pytest.approx(total / active)


def test_with_nothing_active_the_regulariser_has_nothing_to_be_divided_by() -> None:
    E = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 1]]
    loss = MarginLoss(learn_beta=True, num_classes=2, nu=0.5).double()
    value = loss(E, [0, 0, 1, 1])
    value.backward()
    assert value.item() == 0
    assert loss.beta.grad is not None
    assert loss.beta.grad.tolist() == [0, 0]


def test_a_boundary_for_each_class_needs_classes_by_number() -> None:
    E = functional.normalize(torch.randn(4, 3), dim=1)
    with pytest.raises(InvalidInput, match="labels run from 0 to 7, but num_classes is 2"):
        MarginLoss(learn_beta=True, num_classes=2)(E, [0, 0, 7, 7])
    with pytest.raises(InvalidInput, match="learn_beta"):
        MarginLoss(num_classes=2)
    with pytest.raises(InvalidInput, match="nu of MarginLoss is -1"):
        MarginLoss(nu=-1.0)
