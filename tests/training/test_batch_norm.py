"""Batch norm over several processes: what is converted keeps its weights and its activation, and the CPU is warned."""

from __future__ import annotations

import pytest
import torch
from timm.layers.norm_act import SyncBatchNormAct
from torch import nn

from embedding_expansion.model.network import EmbeddingModel
from embedding_expansion.training.ranks import batch_norm_warning, learns_statistics, synchronize_batch_norm

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize(
    ("backbone", "kind"), [("conv4", nn.SyncBatchNorm), ("timm/efficientnet_lite0", SyncBatchNormAct)]
)
def test_batch_norm_is_synchronised_and_stays_what_it_was(backbone: str, kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = EmbeddingModel(backbone, 8).train()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    parameters, names, before = list(model.parameters()), list(model.state_dict()), model.embed(images)
    assert synchronize_batch_norm(model) is model
    assert norms(model)
    assert all(isinstance(module, kind | nn.SyncBatchNorm) for module in norms(model))
    assert all(found is parameter for found, parameter in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model.embed(images), before)
    assert learns_statistics(model)


def test_only_batch_norm_that_learns_on_several_cpu_processes_is_warned_of() -> None:
    free = EmbeddingModel("conv4", 8).train()
    frozen = EmbeddingModel("conv4", 8, freeze_batch_norm=True).train()
    assert "of the 12 images of each process, not of the batch of 24" in batch_norm_warning(free, CPU, 2, 24)
    assert {batch_norm_warning(*quiet) for quiet in ((free, CPU, 1, 24), (free, GPU, 2, 24), (frozen, CPU, 2, 24))} == {
        ""
    }
    assert batch_norm_warning(free.head, CPU, 2, 24) == ""
