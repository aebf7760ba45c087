"""Train on vectors instead of images: a head on hashed words, trained on some topics and measured on others.

A text mixes words of its topic with common words in an individual style. Word counts alone find texts of the same
style. On the training topics, the head learns to ignore the words of style, and this also works for topics that it has
never seen. The example needs no images and no download, and takes a few seconds.

    python examples/vectors_of_text.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from embedding_expansion.runs.options import (
    DataConfig,
    ExpansionConfig,
    ModelConfig,
    OptimizerConfig,
    SamplerConfig,
    TrainConfig,
)
from embedding_expansion.training.run import train

TOPICS, TEXTS, WORDS = 60, 20, 40


def make_word(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list("bdfgklmnprst")) + rng.choice(list("aeiou")) for _ in range(3))


def write_features(path: Path) -> None:
    rng = np.random.default_rng(0)
    common, special = ([make_word(rng) for _ in range(count)] for count in (60, 400))
    texts, labels = [], []
    for topic in range(TOPICS):
        subject = rng.choice(special, 12, replace=False)
        for _ in range(TEXTS):
            style = rng.dirichlet(np.full(len(common), 0.1))  # few of the common words, often
            words = [*rng.choice(subject, WORDS // 4), *rng.choice(common, WORDS - WORDS // 4, p=style)]
            texts.append(" ".join(words))
            labels.append(topic)
    features = HashingVectorizer(n_features=256, analyzer="char", ngram_range=(3, 3)).transform(texts).toarray()
    np.savez(path, features=features.astype(np.float32), labels=np.array(labels), names=np.array(texts))


def main(steps: int = 100) -> tuple[float, float]:
    """Return Recall@1 on the unseen topics, for the raw features and for the trained embeddings."""
    with tempfile.TemporaryDirectory() as folder:
        write_features(Path(folder) / "texts.npz")
        config = TrainConfig(
            data=DataConfig(name=f"{folder}/texts.npz"),
            model=ModelConfig(backbone="linear", dim=64),
            sampler=SamplerConfig(classes_per_batch=12, images_per_class=4),
            expansion=ExpansionConfig(n=2),
            optimizer=OptimizerConfig(lr=3e-3),
            steps=steps,
            out=f"{folder}/run",
        )
        metrics = train(config).metrics
    assert metrics is not None
    return metrics["before"]["raw_vectors"]["recall_at_1"], metrics["recall_at_1"]


if __name__ == "__main__":
    main()
