"""What a trained network is compared with: the images themselves, and the network before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.data.transforms import test_transform, transform_of
from embedding_expansion.model.input_convention import preprocessing_of
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.training.evaluation import RAW_SIZE, measure, raw_pixels
from embedding_expansion.training.job import Job

#: The baselines in the order in which they are measured and shown. A run has those that apply to it.
TITLES = {
    "raw_vectors": "raw vectors",
    "raw_pixels": "raw pixels",
    "untrained": "untrained net",
    "backbone": "backbone as it comes",
    "backbone_own_size": "backbone with its own preprocessing",
}
NEAR = 5e-4  # a difference that three decimals do not show
SMALL_FACTOR = 0.03  # of the learning rate, for a pretrained backbone


def measure_baselines(job: Job) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measures the test classes before training, one baseline after the other.

    A network with random weights is measured as it is. For a pretrained one the baseline is the backbone as it comes:
    the pooled, L2-normalised features, without the head, whose weights are random. They are measured with the image
    size and the test transform of the run and, if that differs, with the size and the crop that the weights were made
    for.

    Yields:
        The key of each baseline in `TITLES`, and its metrics. Those of a backbone also have `image_size`.

    Raises:
        NotFinite: an embedding is NaN or infinite.
        DataError: no image can be read.
    """
    test, size = job.dataset.test, job.test_transform.size
    small = test_transform(min(size, RAW_SIZE), "none")
    pixels = job.run_over(test, lambda images: raw_pixels(images.to(job.device)), small)
    yield "raw_vectors" if test.holds_vectors else "raw_pixels", _measured(job, pixels)
    if not job.config.model.has_weights:
        yield "untrained", _measured(job, job.embed(test))
        return
    yield "backbone", _measured(job, job.embed_with_backbone(test)) | {"image_size": size}
    own = preprocessing_of(job.model.image_size, job.model.crop)
    if own != Preprocessing.of(size, str(job.config.data.transform)):
        embedded = job.embed_with_backbone(test, transform_of(own))
        yield "backbone_own_size", _measured(job, embedded) | {"image_size": own.size}


def _measured(job: Job, embedded: tuple[Tensor, ImageSet]) -> dict[str, Any]:
    return dict(measure(*embedded, job.dataset.recall_at, seed=job.config.seed))


def title(name: str, measures: dict[str, Any]) -> str:
    """The name of a baseline for the reader, such as "backbone as it comes, 128 pixels"."""
    size = measures.get("image_size")
    return TITLES.get(name, name) + ("" if size is None else f", {size} pixels")


def verdict(before: dict[str, dict[str, Any]], after: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """Says whether training helped, compared with the best baseline, and otherwise what to change.

    Args:
        before: the metrics of each baseline, by its key in `TITLES`.
        after: the final metrics.
        config: the configuration of the run.

    Returns:
        `baseline`, the key of the baseline with the highest Recall@1; `gain`, the difference of Recall@1; and
        `sentence`. Empty without a baseline.
    """
    if not before:
        return {}
    best = max(before, key=lambda name: before[name]["recall_at_1"])
    value, bar = after["recall_at_1"], before[best]["recall_at_1"]
    change = value - bar
    than = f"that of the {title(best, before[best])} ({bar:.3f})"
    same_size = before[best].get("image_size", 0) == config.data.image_size
    if change >= NEAR:
        sentence = f"training helped: Recall@1 {value:.3f} is {change:.3f} above {than}"
    elif change > -NEAR:
        sentence = f"training changed little: Recall@1 {value:.3f} is {than}; {_advice(best, config, same_size)}"
    else:
        sentence = f"training did not help: Recall@1 {value:.3f} is {-change:.3f} below {than}; "
        sentence += _advice(best, config, same_size)
    return {"baseline": best, "gain": change, "sentence": sentence}


def _advice(best: str, config: TrainConfig, same_size: bool) -> str:
    """What to change, where the best baseline is at least as good as the trained network."""
    model = config.model
    if best == "backbone_own_size" and same_size:
        return "train with --data.transform center_crop, as the weights expect, or use the backbone as it is"
    if best == "backbone_own_size":
        return "train at that size (omit --data.image_size), or use the backbone without training"
    if best == "backbone":
        changes = [] if config.expansion.is_plain else ["--expansion none"]
        if not model.freeze_backbone and config.optimizer.backbone_lr_factor > SMALL_FACTOR:
            changes.append(f"--optimizer.backbone_lr_factor {SMALL_FACTOR}")
        if not model.freeze_backbone and not model.freeze_batch_norm:
            changes.append("--model.freeze_batch_norm true")
        changes.append("a smaller --optimizer.lr")
        return f"try {', '.join(changes)}, or use the backbone without training"
    ways = [] if config.expansion.is_plain else ["--expansion none"]
    ways.append("more --steps")
    if best == "raw_pixels" and not model.has_weights:
        ways.append("a pretrained backbone (--model.backbone, --model.pretrained or --model.weights)")
    return f"try {', '.join(ways[:-1])} or {ways[-1]}" if len(ways) > 1 else f"try {ways[0]}"
