"""Train an expanded triplet loss with Lightning, on the built-in glyphs.

pip install lightning && python examples/with_lightning.py [STEPS]
"""

import sys

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from embedding_expansion import (
    ClassBalancedSampler,
    DistributedLoss,
    EmbeddingExpansion,
    EmbeddingModel,
    TripletLoss,
    open_dataset,
)


class Glyphs(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = EmbeddingModel("conv4", dim=64, channels=1)
        self.loss = DistributedLoss(EmbeddingExpansion(TripletLoss(), n=2))  # one loss over all devices
        self.values: list[float] = []

    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        value = self.loss(self.model(images), labels)
        self.values.append(value.item())
        return value

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(steps: int = 60) -> list[float]:
    lightning.seed_everything(0, verbose=False)
    glyphs = open_dataset("glyphs").train
    sampler = ClassBalancedSampler(glyphs.labels, classes_per_batch=16, images_per_class=4, seed=0)
    data = TensorDataset(torch.from_numpy(glyphs.pixels), torch.from_numpy(glyphs.labels))
    loader = DataLoader(data, batch_sampler=[sampler.batch(step) for step in range(steps)])

    module = Glyphs()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=1, enable_checkpointing=False, **quiet)
    trainer.fit(module, loader)
    return module.values


if __name__ == "__main__":
    values = main(*map(int, sys.argv[1:]))
    print(f"loss {values[0]:.3f} -> {values[-1]:.3f} after {len(values)} steps")
