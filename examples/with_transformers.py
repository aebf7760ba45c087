"""Train an expanded triplet loss with the Trainer of Hugging Face's transformers, on the built-in glyphs.

pip install 'transformers[torch]' && python examples/with_transformers.py [STEPS]
"""

import sys
import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from embedding_expansion import (
    ClassBalancedSampler,
    DistributedLoss,
    EmbeddingExpansion,
    EmbeddingModel,
    TripletLoss,
    open_dataset,
)


class MetricTrainer(Trainer):
    expanded = DistributedLoss(EmbeddingExpansion(TripletLoss(), n=2))  # one loss over all devices

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        return self.expanded(model(inputs["images"]), inputs["labels"])


def main(steps: int = 60) -> list[float]:
    torch.manual_seed(0)
    glyphs = open_dataset("glyphs").train
    sampler = ClassBalancedSampler(glyphs.labels, classes_per_batch=16, images_per_class=4, seed=0)
    rows = [row for step in range(steps) for row in sampler.batch(step).tolist()]  # batch after batch

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=sampler.batch_size,
            train_sampling_strategy="sequential",  # the rows are already in the sampler's order
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        data = [{"images": glyphs.load(row), "label": int(glyphs.labels[row])} for row in rows]
        trainer = MetricTrainer(EmbeddingModel("conv4", dim=64, channels=1), arguments, train_dataset=data)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    values = main(*map(int, sys.argv[1:]))
    print(f"loss {values[0]:.3f} -> {values[-1]:.3f} after {len(values)} steps")
