"""The head's initial weights: the identity, or the principal components of the training features."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from embedding_expansion.model.network import check_embeddings
from embedding_expansion.training.job import Job


def start_head(job: Job) -> None:
    """Sets the head of a new run as `model.head_init` says; with "random" it is left as it is.

    With "pca", the embedding of an image begins with the neighbours of its features. If the head is as wide as they
    are, it begins as the identity. Otherwise it begins as the projection onto the first principal components of the
    training features, with nearly the same neighbours. The mean is subtracted: all images share it, and among few
    components it hides what differs between them.

    Raises:
        NotFinite: a feature is NaN or infinite.
        DataError: no training image can be read.
    """
    head = job.model.head
    if job.config.model.head_init == "random" or not isinstance(head, nn.Linear):
        return
    if head.out_features == head.in_features:
        nn.init.eye_(head.weight)
        nn.init.zeros_(head.bias)
    else:
        project_onto_principal_components(head, check_embeddings(job.features_of(job.train)[0]))
    if job.average is not None:
        job.average.load_state_dict(job.model.state_dict())


@torch.no_grad()
def project_onto_principal_components(head: nn.Linear, features: Float[Tensor, "n w"]) -> None:
    """Makes a linear layer the projection onto the first principal components of some features.

    Args:
        head: (w to d); with d > w the other outputs are 0.
        features: the features; their mean is mapped to 0.
    """
    rows = features.double().cpu()
    mean = rows.mean(dim=0)
    centred = rows - mean
    components = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1).T[: head.out_features]  # (d, w)
    # The sign of an eigenvector is arbitrary; this one does not depend on the machine.
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    components = components * largest.sign()
    head.weight.zero_()
    head.bias.zero_()
    head.weight[: len(components)] = components.to(head.weight)
    head.bias[: len(components)] = (-components @ mean).to(head.bias)
