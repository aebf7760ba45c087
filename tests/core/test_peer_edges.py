"""pytorch-metric-learning on batches at the edge: copies, ties, lone images, one class, norms far from 1.

Every pair of losses that docs/from-pytorch-metric-learning.md calls equal has the same value and gradient there, plain
and expanded, but for what `DIFFERS` lists with the reason, which that page gives too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from embedding_expansion import EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.miners import BatchHardMiner, EasyPositiveMiner, MultiSimilarityMiner

from .peer_losses import SAME as WRAPPED

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import losses as peers
    from pytorch_metric_learning import miners, reducers
    from pytorch_metric_learning.losses import histogram_loss

    RANKED_LIST = peers.RankedListLoss(margin=0.4, Tn=2)

pytestmark = pytest.mark.filterwarnings("ignore::embedding_expansion.errors.DegenerateBatchWarning")

ACTIVE: dict[str, Any] = {"squared": False, "average": "active"}
HARD, SEMIHARD = (miners.TripletMarginMiner(0.3, type_of_triplets=kind) for kind in ("hard", "semihard"))
SMOOTH = peers.TripletMarginLoss(margin=0, smooth_loss=True)
Peer = Callable[[Tensor, Tensor], Tensor]


def mined(loss: Any, miner: Any) -> Peer:
    return lambda E, labels: loss(E, labels, miner(E, labels))


# ours, its parameters, its double, and what differs where
SAME: dict[str, tuple[str, dict[str, Any], Peer]] = {
    "contrastive": ("contrastive", ACTIVE, peers.ContrastiveLoss()),
    "contrastive, easy positives": (
        "contrastive",
        {**ACTIVE, "miner": EasyPositiveMiner()},
        mined(peers.ContrastiveLoss(), miners.BatchEasyHardMiner("easy", "all")),
    ),
    "contrastive, batch hard": (
        "contrastive",
        {**ACTIVE, "miner": BatchHardMiner()},
        mined(peers.ContrastiveLoss(), miners.BatchHardMiner()),
    ),
    "triplet": ("triplet", {"margin": 0.05, **ACTIVE}, peers.TripletMarginLoss()),
    "triplet, hard": (
        "triplet",
        {"mining": "hard", "margin": 0.3, **ACTIVE},
        mined(peers.TripletMarginLoss(0.3), HARD),
    ),
    "triplet, semihard": (
        "triplet",
        {"mining": "semihard", "margin": 0.3, **ACTIVE},
        mined(peers.TripletMarginLoss(0.3), SEMIHARD),
    ),
    "triplet, soft": ("triplet", {"soft_margin": True, **ACTIVE}, SMOOTH),
    "triplet, soft and hard": ("triplet", {"soft_margin": True, "mining": "hard", **ACTIVE}, mined(SMOOTH, HARD)),
    "triplet, soft and semihard": (
        "triplet",
        {"soft_margin": True, "mining": "semihard", "margin": 0.3, **ACTIVE},
        mined(SMOOTH, SEMIHARD),
    ),
    "hphn_triplet": (
        "hphn_triplet",
        {},
        mined(peers.TripletMarginLoss(0.2, reducer=reducers.MeanReducer()), miners.BatchHardMiner()),
    ),
    "margin": ("margin", {"count": "triplets"}, peers.MarginLoss()),
    "n_pair": ("n_pair", {"scale": 4.0}, peers.NTXentLoss(temperature=0.25)),
    "lifted_structure": ("lifted_structure", {}, peers.LiftedStructureLoss()),
    "generalized_lifted_structure": ("generalized_lifted_structure", {}, peers.GeneralizedLiftedStructureLoss()),
    "multi_similarity": ("multi_similarity", {}, peers.MultiSimilarityLoss()),
    "multi_similarity, mined": (
        "multi_similarity",
        {"miner": MultiSimilarityMiner()},
        mined(peers.MultiSimilarityLoss(), miners.MultiSimilarityMiner()),
    ),
    "circle": ("circle", {}, peers.CircleLoss()),
    "sup_con": ("sup_con", {}, peers.SupConLoss()),
    "nt_xent": ("nt_xent", {}, peers.NTXentLoss()),
    "nca": ("nca", {}, peers.NCALoss()),
    "tuplet_margin": ("tuplet_margin", {}, peers.TupletMarginLoss()),
    "intra_pair_variance": ("intra_pair_variance", {}, peers.IntraPairVarianceLoss()),
    "ranked_list": ("ranked_list", {"negative_temperature": 2.0}, RANKED_LIST),
    "angular": ("angular", {"angle": 40.0}, peers.AngularLoss()),
    "snr_contrastive": ("snr_contrastive", {"average": "active"}, peers.SignalToNoiseRatioContrastiveLoss()),
    "histogram": ("histogram", {}, peers.HistogramLoss()),
    "fast_ap": ("fast_ap", {}, peers.FastAPLoss()),
    "smooth_ap": ("smooth_ap", {"query_counts": True}, peers.SmoothAPLoss()),
}
COPIES = ("copies", "copies across classes", "classes of copies", "one point", "identical classes", "many copies")
LONE = ("all alone", "one positive pair", "some alone")
ONE_CLASS = ("one class", "one pair")

LOGARITHM_OF_NOTHING = "it takes a sum over no pairs for 1, so that what is left of an anchor's hinge counts"
DIFFERS: dict[str, dict[str, str]] = {
    "generalized_lifted_structure": dict.fromkeys(LONE + ONE_CLASS, LOGARITHM_OF_NOTHING),
    "sup_con": {"one class": "it gives 0 without negatives, where the paper's denominator still has the positives"},
    "nca": {"all alone": "it divides by the number of no images"},
    "ranked_list": dict.fromkeys(
        ("copies across classes", "one point", "identical classes"), "it leaves out negatives at distance 0"
    ),
    "histogram": {
        **dict.fromkeys(COPIES, "it looks for a bin behind the last one"),
        **dict.fromkeys(("one positive pair", "some alone"), "it leaves out pairs of images that are both alone"),
    },
}
# Of a cosine of 1 or -1 its angle has no gradient, and of one that is rounded beyond it is NaN itself.
NOT_A_NUMBER = {"tuplet_margin": (*COPIES, "opposite rows")}
THREE_BY_THREE = (0, 0, 0, 1, 1, 1, 2, 2, 2)


def edge(kind: str) -> tuple[Tensor, Tensor]:
    labels = torch.tensor(THREE_BY_THREE)
    E = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    match kind:
        case "copies":
            E[1], E[4] = E[0], E[3]
        case "copies across classes":
            E[3] = E[0]
        case "classes of copies":
            E = E[[0, 0, 0, 3, 3, 3, 6, 6, 6]]
        case "one point":
            E = E[:1].expand(9, 4).clone()
        case "identical classes":
            E[3:6] = E[:3]
        case "many copies":  # more rows than its distances are taken exactly of
            E, labels = E[:3].repeat(8, 1), torch.arange(3).repeat(8)
        case "opposite rows":
            E[1], E[3] = -E[0], -E[2]
        case "ties":
            E = torch.eye(9, dtype=torch.float64)
        case "one class":
            E, labels = E[:6], labels[:6] * 0
        case "one pair":
            E, labels = E[:2], labels[:2]
        case "all alone":
            E, labels = E[:6], torch.arange(6)
        case "one positive pair":
            E, labels = E[:6], torch.tensor([0, 0, 1, 2, 3, 4])
        case "some alone":
            labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 3])
        case "tiny norms":
            E *= 1e-6
        case "huge norms":
            E *= 1e6
    return E, labels


KINDS = (*COPIES, *LONE, *ONE_CLASS, "opposite rows", "ties", "tiny norms", "huge norms")


@pytest.fixture(autouse=True)
def its_histogram_indexes_with_a_tuple(monkeypatch: pytest.MonkeyPatch) -> None:
    """It indexes with a list of lists, of which torch warns."""
    found = histogram_loss.filter_pairs
    monkeypatch.setattr(histogram_loss, "filter_pairs", lambda *tensors: tuple(found(*tensors)))


def value_and_gradient(loss: Peer, E: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    E = E.clone().requires_grad_()
    value = loss(E, labels).double()
    (gradient,) = torch.autograd.grad(value, E, allow_unused=True, materialize_grads=True)
    return value.detach(), gradient


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list(SAME))
def test_values_and_gradients_are_the_incumbents_but_where_the_page_says_otherwise(name: str, kind: str) -> None:
    ours, parameters, peer = SAME[name]
    E, labels = edge(kind)
    if name == "smooth_ap" and tuple(labels.tolist()) != THREE_BY_THREE:
        return  # it takes k classes of k images in order
    if name == "angular":
        E = functional.normalize(E, dim=1)  # it leaves negatives as they are
    value, gradient = value_and_gradient(LOSSES[ours](**parameters), E, labels)
    assert value.isfinite()
    assert gradient.isfinite().all()
    differs = kind in DIFFERS.get(name, {})
    try:
        theirs, expected = value_and_gradient(peer, E, labels)
    except RuntimeError:
        assert differs
        return
    rtol = {"ranked_list": 2e-3, "histogram": 1e-5, "smooth_ap": 1e-5}.get(name, 1e-6)
    undefined = kind in NOT_A_NUMBER.get(name, ())
    assert bool(torch.isclose(value, theirs, rtol=rtol, atol=1e-7)) is not differs or (undefined and theirs.isnan())
    if differs or undefined:
        return
    if name == "angular":
        gradient, expected = (g - (g * E).sum(dim=1, keepdim=True) * E for g in (gradient, expected))
    largest = max(expected.abs().max().item(), gradient.abs().max().item())
    torch.testing.assert_close(gradient, expected, rtol=10 * rtol, atol=1e-9 + 10 * rtol * largest)


@pytest.mark.parametrize("name", list(WRAPPED))
def test_expanded_it_has_the_values_of_our_loss_there_as_well(name: str) -> None:
    peer, ours, parameters, tolerance = WRAPPED[name]
    theirs, expected = EmbeddingExpansion(peer), EmbeddingExpansion(LOSSES[ours](**parameters))
    for kind in KINDS:
        E, labels = edge(kind)
        if kind in {**DIFFERS.get(ours, {}), **dict.fromkeys(NOT_A_NUMBER.get(ours, ()))}:
            continue
        if name == "SmoothAPLoss" and tuple(labels.tolist()) != THREE_BY_THREE:
            continue
        value, wanted = theirs(E, labels).double(), expected(E, labels)
        assert torch.isclose(value, wanted, rtol=tolerance, atol=1e-7), kind


@pytest.mark.parametrize("rows", [24, 28])
def test_copies_are_not_counted_however_large_the_batch_is(rows: int) -> None:
    """Two rows of each class are copies but in the first; what is left to average is their one distance.

    Of more than 25 rows its own distances are rounded, and it counts copies.
    """
    generator = torch.Generator().manual_seed(0)
    E = torch.randn(rows // 2, 64, generator=generator).repeat_interleave(2, dim=0)
    E[1] = torch.randn(64, generator=generator)
    labels = torch.arange(rows) // 2
    ours = LOSSES["contrastive"](margin=0.0, **ACTIVE)(E, labels)
    E = functional.normalize(E.double(), dim=1)
    torch.testing.assert_close(ours.double(), (E[0] - E[1]).norm(), rtol=1e-5, atol=0)
    if rows <= 25:
        torch.testing.assert_close(peers.ContrastiveLoss(neg_margin=0)(E, labels), ours.double(), rtol=1e-5, atol=0)


def test_it_leaves_out_anchors_whose_softmax_rounds_to_nothing() -> None:
    E = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.3], [-1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    terms = LOSSES["sup_con"]().per_anchor(E, labels)
    assert terms.weight.tolist() == [[1.0] * 5]
    left = terms.total[terms.total > 0]
    assert len(left) == 3
    torch.testing.assert_close(peers.SupConLoss()(E, labels), left.mean(), rtol=1e-4, atol=0)


NO_REFERENCE = ("ranked_list", "histogram", "fast_ap", "smooth_ap")  # it raises ValueError


@pytest.mark.parametrize("name", [name for name, (ours, _, peer) in SAME.items() if isinstance(peer, torch.nn.Module)])
def test_compared_with_a_reference_the_values_are_the_incumbents_but_for_lifted_structure(name: str) -> None:
    ours, parameters, peer = SAME[name]
    generator = torch.Generator().manual_seed(0)
    E, reference = (
        functional.normalize(torch.randn(rows, 4, generator=generator, dtype=torch.float64), dim=1) for rows in (6, 8)
    )
    labels, others = torch.tensor([0, 0, 1, 1, 2, 3]), torch.tensor([0, 1, 1, 2, 2, 3, 4, 0])
    value = LOSSES[ours](**parameters)(E, labels, reference=reference, reference_labels=others)
    if name in NO_REFERENCE:
        with pytest.raises(ValueError, match="not supported"):
            peer(E, labels, ref_emb=reference, ref_labels=others)
        return
    theirs = peer(E, labels, ref_emb=reference, ref_labels=others)
    if name == "lifted_structure":
        torch.testing.assert_close(value, lifted(E, labels, reference, others, of_reference=True))
        torch.testing.assert_close(theirs, lifted(E, labels, reference, others, of_reference=False))
        assert abs(value - theirs) > 0.1
    else:
        torch.testing.assert_close(value, theirs, rtol=1e-6, atol=1e-9)


def lifted(E: Tensor, labels: Tensor, reference: Tensor, others: Tensor, *, of_reference: bool) -> Tensor:
    """By loops: a positive's negatives are those of its row of the reference, or of the batch's row of its number."""
    terms = []
    for i in range(len(E)):
        for j in range(len(reference)):
            if labels[i] == others[j]:
                apart = [(E[i] - reference[k]).norm() for k in range(len(reference)) if others[k] != labels[i]]
                if of_reference:
                    apart += [(reference[j] - row).norm() for row in reference[others != others[j]]]
                elif j < len(E) and j != i:
                    apart += [(E[j] - row).norm() for row in reference[others != labels[j]]]
                pushed = torch.logsumexp(1 - torch.stack(apart), dim=0)
                terms.append(torch.relu(pushed + (E[i] - reference[j]).norm()) ** 2 / 2)
    return torch.stack(terms).mean()
