"""The head that starts from the principal components of the training features."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.training import checkpoint
from embedding_expansion.training.head import project_onto_principal_components
from embedding_expansion.training.job import prepare
from embedding_expansion.training.run import resume, train


@pytest.mark.parametrize(("rows", "width", "dim"), [(40, 12, 5), (40, 12, 12), (6, 12, 8), (40, 3, 7)])
def test_the_head_projects_onto_the_principal_components(rows: int, width: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(1)
    found = torch.randn(rows, width, generator=generator) * torch.arange(1, width + 1) + 3
    head = nn.Linear(width, dim)
    project_onto_principal_components(head, found)
    ours = head(found).detach().double().numpy()
    expected = PCA(min(dim, width, rows)).fit_transform(found.double().numpy())
    np.testing.assert_allclose(ours @ ours.T, expected @ expected.T, atol=1e-3 * rows)
    ours = np.abs(ours[:, : min(dim, width, rows - 1)])
    np.testing.assert_allclose(ours, np.abs(expected[:, : ours.shape[1]]), atol=1e-3)
    np.testing.assert_array_equal(head(found).detach()[:, width:], 0)
    kept = head.weight[: min(dim, width)].detach()
    torch.testing.assert_close(kept @ kept.T, torch.eye(len(kept)), atol=1e-5, rtol=0)


@pytest.fixture
def principal(small: TrainConfig) -> TrainConfig:
    model = dataclasses.replace(small.model, head_init="pca", dim=16)
    return dataclasses.replace(small, model=model, steps=1, ema=0.9)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_starts_with_the_principal_components_of_the_features(principal: TrainConfig, frozen: bool) -> None:
    model = dataclasses.replace(principal.model, freeze_backbone=frozen)
    run = train(dataclasses.replace(principal, model=model)).run
    tensors, _ = checkpoint.load(checkpoint.checkpoint_path(run / "checkpoints", 0))
    job = prepare(principal)
    for part in ("model", "average"):
        job.model.load_state_dict(
            {name.removeprefix(f"{part}."): x for name, x in tensors.items() if name.startswith(f"{part}.")}
        )
        train_features, test_features = (
            job.features_of(images)[0].double() for images in (job.train, job.dataset.test)
        )
        projected = torch.from_numpy(PCA(16).fit(train_features.numpy()).transform(test_features.numpy()))
        projected = projected / projected.norm(dim=1, keepdim=True)
        embedded = job.model.embed(
            torch.stack([job.test_transform(job.dataset.test.load(k)) for k in range(36)])
        ).double()
        torch.testing.assert_close(embedded @ embedded.T, projected @ projected.T, atol=1e-3, rtol=0)


def test_a_run_that_is_killed_before_its_first_checkpoint_starts_with_the_same_head(principal: TrainConfig) -> None:
    run = train(principal).run
    weights = (run / "model.safetensors").read_bytes()
    for path in [*(run / "checkpoints").iterdir(), run / "metrics.json", run / "model.safetensors"]:
        path.unlink()
    assert (resume(run).run / "model.safetensors").read_bytes() == weights
