"""A tiny SentenceTransformer made on the spot, and texts of a few topics."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever the libraries warn of while they are imported
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.sampler import BatchSamplers
    from sentence_transformers.sentence_transformer import losses, modules
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

__all__ = ["features", "losses", "texts", "tiny_model", "train"]

TOPICS = ("wing beak nest egg", "wheel engine brake road", "flour oven sugar egg", "goal ball road team")


def texts(per_topic: int = 6) -> tuple[list[str], list[int]]:
    """Three words of a topic, in other combinations, topic after topic."""
    words = [topic.split() for topic in TOPICS]
    made = [f"{own[0]} {own[k % 4]} {own[3 * k % 4]} {own[k % 4]}" for own in words for k in range(per_topic)]
    return made, [number for number in range(len(TOPICS)) for _ in range(per_topic)]


def tiny_model(*, normalize: bool = True) -> SentenceTransformer:
    """A mean of random word vectors in 8 dimensions."""
    words = sorted({word for topic in TOPICS for word in topic.split()})
    tokenizer = Tokenizer(WordLevel({word: k for k, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    vectors = torch.randn(len(words) + 1, 8, generator=torch.Generator().manual_seed(0))
    layers: list[nn.Module] = [modules.StaticEmbedding(tokenizer, embedding_weights=vectors.numpy())]
    return SentenceTransformer(modules=[*layers, modules.Normalize()] if normalize else layers, device="cpu")


def features(model: SentenceTransformer, sentences: list[str]) -> dict[str, Tensor]:
    """What the collator makes of a column."""
    tokenize = model.preprocess if hasattr(model, "preprocess") else model.tokenize
    made: dict[str, Tensor] = tokenize(sentences)
    return made


def train(
    model: SentenceTransformer, loss: nn.Module, columns: dict[str, list[str] | list[int]], folder: Path, steps: int = 8
) -> list[float]:
    """A real run of the library's trainer; the loss of each step."""
    by_label = BatchSamplers.GROUP_BY_LABEL if "label" in columns else BatchSamplers.BATCH_SAMPLER
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=12,
        learning_rate=0.05,
        batch_sampler=by_label,
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
