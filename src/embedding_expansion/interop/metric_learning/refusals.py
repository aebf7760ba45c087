"""Losses and distances of pytorch-metric-learning that cannot be expanded, and their error messages."""

from __future__ import annotations

from typing import Any

from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.interop.metric_learning.square import Scale

PROXIES = "it compares images with learnt proxies and not with each other; expand this package's proxy losses instead"
WRAPPER = "it holds another loss; expand that one"
REFUSED = {  # by class name; derived classes are refused too
    "AngularLoss": "it computes inner products by itself and reads no distance; expand this package's AngularLoss",
    "NPairsLoss": "it compares one pair per class and not the batch; expand this package's NPairLoss",
    "SignalToNoiseRatioContrastiveLoss": "its distance is a ratio of variances and does not follow from inner products",
    "ThresholdConsistentMarginLoss": "it computes cosines by itself and reads no distance",
    "VICRegLoss": "it compares two views of each image without labels",
    "ManifoldLoss": "it walks from image to image and proxy without labels",
    "InstanceLoss": "it classifies: the columns of its table are classes to it, not images",
    "DynamicSoftMarginLoss": (
        "its histogram keeps the graph of the previous step, so a second backward pass fails even without expansion; "
        "expand this package's TripletLoss(soft_margin=True) instead"
    ),
    "P2SGradLoss": PROXIES,
    "LargeMarginSoftmaxLoss": PROXIES,
    "SphereFaceLoss": PROXIES,
    "WeightRegularizerMixin": PROXIES,
    "BaseLossWrapper": WRAPPER,
    "MultipleLosses": "it holds several losses; expand each of them and add the values",
}


@validates
def check_kind(loss: object) -> None:
    """Raises an error with the class name if the object is not a loss, or is a loss known not to read a table."""
    name = type(loss).__name__
    bases = [c.__name__ for c in type(loss).__mro__]
    for base in bases:
        if base in REFUSED:
            raise InvalidInput(f"{name} cannot be expanded: {REFUSED[base]}")
    if "BaseMetricLossFunction" not in bases:
        raise InvalidType(f"loss is a {name}; pass one of this package's pair losses, or of pytorch-metric-learning's")


@validates
def check_distance(name: str, distance: Any) -> Scale:
    """The scale of a distance of pytorch-metric-learning.

    Raises:
        InvalidInput: if synthetic points are not supported in this distance; the error names the loss and the distance.
    """
    kind = type(distance).__name__
    bases = [c.__name__ for c in type(distance).__mro__]
    power, p = getattr(distance, "power", 1), getattr(distance, "p", 2)
    normalized = getattr(distance, "normalize_embeddings", False)
    refused = f"{name} with {kind} cannot be expanded: "
    if "DotProductSimilarity" in bases:
        if normalized and p != 2:
            raise InvalidInput(f"{refused}it normalises by the norm of p={p}; use p=2")
        if power <= 0 or power % 2 != 1:
            raise InvalidInput(f"{refused}to the power {power}, larger is not always closer; use an odd power")
        return Scale("inner", float(power))
    if "LpDistance" not in bases:
        raise InvalidInput(
            f"{refused}that distance does not follow from inner products; use CosineSimilarity, DotProductSimilarity "
            "or LpDistance(p=2)"
        )
    if p != 2:
        raise InvalidInput(f"{refused}a distance of p={p} does not follow from inner products; use p=2")
    if power <= 0:
        raise InvalidInput(f"{refused}to the power {power}, larger is not further; use a power above 0")
    return Scale("euclidean", float(power))
