"""The recipes of `embex train --recipe`: defaults of options for a kind of training.

An option that the user passes has precedence over a recipe. The numbers come from tuning on training classes
(docs/recipes.md).
"""

from __future__ import annotations

from typing import Any

from embedding_expansion.runs.options import RecipeName, TrainConfig

#: Full name of an option -> its default in the recipe. Options that are not listed keep their own defaults, which are
#: those of a training from scratch.
RECIPES: dict[RecipeName, dict[str, Any]] = {
    "scratch": {"patience": 5},
    "head": {
        "model.freeze_backbone": True,
        "model.dim": "width",
        "model.head_init": "pca",
        "data.transform": "paper",
        "optimizer.lr": 3e-4,
        "optimizer.warmup": 20,
        "optimizer.schedule": "cosine",
        "ema": 0.98,
        "protocol": "folds",
        "eval_every": 25,
        "steps": 400,
    },
    "finetune": {
        "model.freeze_batch_norm": True,
        "model.dim": "width",
        "model.head_init": "pca",
        "data.transform": "paper",
        "optimizer.lr": 1e-4,
        "optimizer.warmup": 20,
        "optimizer.schedule": "cosine",
        "ema": 0.98,
        "eval_every": 25,
        "patience": 6,
    },
}
#: How often fine-tuning sees each image, and the bounds of its steps.
EPOCHS, FEWEST_STEPS, MOST_STEPS = 4, 50, 3_000
#: The fewest training classes for a cross-validation.
LEAST_FOR_FOLDS = 6


def defaults(name: RecipeName, given: TrainConfig, classes: int) -> dict[str, Any]:
    """The defaults of a recipe, without those that contradict what the user has passed.

    Args:
        name: the recipe.
        given: the options as the user passed them, with their own defaults otherwise.
        classes: the number of training classes with two images or more.
    """
    found: dict[str, Any] = {"recipe": name} | RECIPES[name]
    if given.model.dim == "none":
        found.pop("model.head_init", None)
    if name == "head" and (given.validation_share is not None or classes < LEAST_FOR_FOLDS or not given.measure_test):
        found.pop("protocol")
    return found


def finetuning_steps(images: int, batch: int, most: int = MOST_STEPS) -> int:
    """The steps of the recipe finetune, a multiple of 50.

    Args:
        images: the number of training images.
        batch: the number of images in a batch.
        most: the most steps that the machine has time for.
    """
    wanted = EPOCHS * images / batch
    return max(FEWEST_STEPS, min(round(wanted / 50) * 50, most // 50 * 50, MOST_STEPS))
