"""A moving average of the weights: a copy of the model that follows the one that is trained."""

from __future__ import annotations

import copy

import torch

from embedding_expansion.model import EmbeddingModel


def start_average(model: EmbeddingModel) -> EmbeddingModel:
    """The copy, as the weights are at first."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def follow(average: EmbeddingModel, model: EmbeddingModel, decay: float, step: int) -> None:
    """Moves the average by one step: average = m average + (1 - m) weights, m = min(decay, (1 + step) / (10 + step)).

    The early steps weigh less than `decay` says, so that the start is soon forgotten. Statistics of batch norm are
    averaged as the weights are; counters are copied.

    Args:
        average: the copy, which changes.
        model: as it is after the step.
        decay: at most so much of the average stays, above 0 and below 1.
        step: steps done, 1 or more.

    Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992, in the exponential form.
    Differs from the source: the mean is exponential, and its decay is less in the early steps.
    """
    keep = min(decay, (1 + step) / (10 + step))
    current = model.state_dict()
    for name, mean in average.state_dict().items():
        if mean.is_floating_point():
            mean.lerp_(current[name], 1 - keep)
        else:
            mean.copy_(current[name])
