"""What an installed package must do for its user. Run outside of the checkout by the environment's own Python.

python smoke.py c|torch: whether the C libraries must be there, or `embex env` must say that they are not.
"""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image

import embedding_expansion
from embedding_expansion import EmbeddingExpansion, MultiSimilarityLoss, TripletLoss, open_dataset


def embex(*arguments: str) -> str:
    """What a command prints."""
    command = [str(Path(sys.prefix, "bin", "embex")), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


assert Path(embedding_expansion.__file__).is_relative_to(sys.prefix), embedding_expansion.__file__
assert embex("--version").split() == ["embex", version("embedding-expansion")]
kernels = dict(line.split(": ", 1) for line in embex("env").splitlines()[-2:])
expected = {"c": "C library (", "torch": "torch, because the C library was not compiled"}[sys.argv[1]]
assert len(kernels) == 2, kernels
assert all(form.startswith(expected) for form in kernels.values()), kernels

embeddings, labels = torch.randn(12, 8, requires_grad=True), torch.arange(12) // 3
for loss in (TripletLoss(), EmbeddingExpansion(MultiSimilarityLoss(), n=2)):
    embeddings.grad = None
    loss(embeddings, labels).backward()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad.any()

print(embex("train", "--steps", "5", "--out", "run").splitlines()[-1])
glyphs = open_dataset("glyphs").test
assert glyphs.pixels is not None
for row in range(0, len(glyphs), 40):
    photo = Path("photos", f"{int(glyphs.labels[row])}.png")
    photo.parent.mkdir(exist_ok=True)
    Image.fromarray(glyphs.pixels[row, 0]).save(photo)
embex("index", "run", "photos", "--out", "photos.index")
found = embex("search", "photos.index", "photos/3.png", "-k", "3")
print(found)
assert "photos/3.png" in found.splitlines()[2], "an image is not the first one found for itself"
