"""The forward and backward pass of a step, with a loss or with a method, which has several objectives."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embedding_expansion.generation.method import Method, backward
from embedding_expansion.model.network import NotFinite, all_finite
from embedding_expansion.training.evaluation import autocast
from embedding_expansion.training.job import Job
from embedding_expansion.training.ranks import Ranks


def gradient_of_loss(
    job: Job, network: nn.Module, loss: nn.Module, scaler: torch.amp.GradScaler, ranks: Ranks, batch: tuple[Tensor, ...]
) -> float:
    """Computes the loss of a batch and its gradient, in `grad` of the parameters.

    Args:
        job: the job.
        network: its network, as `Ranks.wrap` returns it.
        loss: its loss, as `Ranks.wrap` returns it.
        scaler: scales float16 gradients.
        ranks: the processes that train together.
        batch: images or cached features, and labels.

    Returns:
        The value of the loss.

    Raises:
        NotFinite: embeddings, statistics of batch norm or the loss are NaN or infinite, on any rank.
    """
    inputs, labels = batch
    with autocast(job.device, job.precision):
        embeddings = network(inputs)
    _check_finite(embeddings, network, ranks)
    value: Tensor = loss(embeddings, labels)
    job.optimizer.zero_grad()
    scaler.scale(value).backward()  # type: ignore[no-untyped-call]
    _check_values({"loss": value}, ranks)
    return value.item()


def gradients_of_objectives(
    job: Job, method: Method, scaler: torch.amp.GradScaler, ranks: Ranks, batch: tuple[Tensor, ...]
) -> float:
    """Computes the objectives of a method and adds up the gradient of each; otherwise as `gradient_of_loss`.

    Every rank computes the objectives of the whole batch, and back-propagates to its own rows.

    Returns:
        The value of the first objective.
    """
    inputs, labels = batch[0], batch[1].to(job.device)
    ranks.share_first(job.network.buffers())  # statistics of batch norm, as DistributedDataParallel does
    with autocast(job.device, job.precision):
        features, embeddings = job.features_and_embeddings(inputs)
    _check_finite(embeddings, job.network, ranks)
    objectives = method.step(*ranks.gather_batch(labels, features, embeddings))
    job.optimizer.zero_grad()
    backward(method, objectives, job.network, scale=scaler.scale(torch.ones((), device=job.device)))
    ranks.average_gradients([*job.network.parameters(), *method.parameters()])
    _check_values({name: objective.value for name, objective in objectives.items()}, ranks)
    return next(iter(objectives.values())).value.item()


def _check_finite(embeddings: Tensor, network: nn.Module, ranks: Ranks) -> None:
    """Raises on all ranks if the embeddings of one are not finite, as the others would wait for it.

    Checks the norms, as the loss uses them. Batch norm can hide an overflow from the embeddings, but its statistics
    show it.
    """
    if ranks.maximum(not all_finite([embeddings.detach().float().norm(dim=1), *network.buffers()])):
        raise NotFinite("the embeddings or the statistics of batch norm are NaN or infinite")


def _check_values(values: dict[str, Tensor], ranks: Ranks) -> None:
    found = {name: value.item() for name, value in values.items()}
    if ranks.maximum(not all(map(math.isfinite, found.values()))):
        shown = ", ".join(f"{name} {value}" for name, value in found.items())
        raise NotFinite(
            f"the loss is {next(iter(found.values()))}" if len(found) == 1 else f"the objectives are {shown}"
        )
