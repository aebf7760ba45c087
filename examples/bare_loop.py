"""Train an expanded triplet loss in your own loop, on the built-in glyphs.

python examples/bare_loop.py [STEPS]
"""

import sys

import torch

from embedding_expansion import ClassBalancedSampler, EmbeddingExpansion, EmbeddingModel, TripletLoss, open_dataset


def main(steps: int = 60) -> list[float]:
    torch.manual_seed(0)
    glyphs = open_dataset("glyphs").train
    images, labels = torch.from_numpy(glyphs.pixels), torch.from_numpy(glyphs.labels)
    sampler = ClassBalancedSampler(glyphs.labels, classes_per_batch=16, images_per_class=4, seed=0)
    model = EmbeddingModel("conv4", dim=64, channels=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    values = []

    loss = EmbeddingExpansion(TripletLoss(), n=2)
    for step in range(steps):
        batch = sampler.batch(step)
        value = loss(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values


if __name__ == "__main__":
    values = main(*map(int, sys.argv[1:]))
    print(f"loss {values[0]:.3f} -> {values[-1]:.3f} after {len(values)} steps")
