"""The model card: the content of model.json as readable Markdown."""

from __future__ import annotations

from typing import Any

from embedding_expansion.inference.manifest import FILES
from embedding_expansion.inference.thresholds import Thresholds


def card(about: dict[str, Any], thresholds: Thresholds) -> str:
    """Writes the model card as Markdown.

    Args:
        about: the content of model.json.
        thresholds: the thresholds calibrated for the model.
    """
    embedding, training = about["embedding"], about["training"]
    made = "as it comes" if training is None else f"trained on {training['data']}"
    alike = "similar images" if training is None else "images of one class"
    return f"""---
library_name: embedding-expansion
pipeline_tag: image-feature-extraction
tags: [deep-metric-learning, image-retrieval]
---
# {about["model"]["backbone"]} {made}

Maps an image to an L2-normalised embedding of {embedding["dimensions"]} dimensions, so that {alike} are
close to each other: the inner product of two embeddings is the similarity of their images.

{_use(about["format"])}

## Input

uint8, RGB, {" x ".join(map(str, about["input"]["shape"]))}, prepared in these steps:
{"; ".join(about["preprocessing"]["steps"])}.
Resizing is {about["preprocessing"]["interpolation"]}. The model itself divides by 255 and normalises with mean
{about["preprocessing"]["mean"]} and standard deviation {about["preprocessing"]["std"]}.{_assumed(about.get("assumed"))}

{_of_backbone(about) if training is None else _of_training(about)}

## Limits

{_valid_for(training)}
- A similarity is not a probability. {_thresholds(thresholds)}
- This card states no licence for the weights. The terms of the data and of the initial weights (see above) may apply to
  them; if you distribute the model, you are responsible for its use.
"""


def _of_training(about: dict[str, Any]) -> str:
    training, started = about["training"], about["weights_came_from"]
    return f"""## Training

- data: {training["data"]}{_licence(training["licence_of_the_data"])}
- loss: {training["loss"]["name"]}, {_samples(training)}
- {training["steps"]} steps, seed {training["seed"]}
- initial weights: {started["start"]}{_licence(started["licence"])}
- versions: {_versions(about)}

## Metrics

{_measures(about)}"""


def _of_backbone(about: dict[str, Any]) -> str:
    model, started = about["model"], about["weights_came_from"]
    return f"""## Origin

This model was not trained for retrieval: there was no training, no loss and no data besides those of its weights. An
embedding is the pooled features of the backbone before its classifier.

- backbone: {model["backbone"]}, pooling {model["pooling"]}
- weights: {started["start"]}{_licence(started["licence"])}
- versions: {_versions(about)}"""


def _assumed(sentence: str | None) -> str:
    return f"\n\n**Assumed**: {sentence}." if sentence else ""


def _valid_for(training: dict[str, Any] | None) -> str:
    if training is None:
        return "- Nothing was measured; evaluate the model on labelled images with `embex evaluate`."
    where = f"images like those of {training['data']}; evaluate the model on other images with"
    return f"- The metrics are valid for {where}\n  `embex evaluate`."


def _versions(about: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in about["versions"].items())


def _thresholds(thresholds: Thresholds) -> str:
    if not thresholds:
        return """The similarity from which two images count as the same class depends on
  the data. Calibrate it with `embex calibrate` on images that the model was not trained on."""
    sentences = "\n".join(f"  - {threshold.sentence()}." for threshold in thresholds.values())
    return f"""Thresholds were calibrated (`thresholds.json`); other classes may need other thresholds:
{sentences}"""


_WAYS = {
    "onnx": "`{file}` runs in onnxruntime, without PyTorch. The batch size is free.",
    "torch": "`{file}` is a program of `torch.export`. The batch size is free. `torch.export.load` may unpickle the "
    "content of a file, so load it only from a source that you trust.",
    "safetensors": "`{file}` contains the weights, and `config.yaml` describes the network.",
}


def _use(kind: str) -> str:
    text = _WAYS[kind].format(file=FILES[kind])
    if kind == "torch":
        return text
    return text + (
        "\n\n```python\nfrom embedding_expansion.inference.embedder import Embedder\n\n"
        'embeddings = Embedder.load("this folder").embed(["a.jpg", "b.jpg"])\n```'
    )


def _licence(text: str | None) -> str:
    return f" (terms: {text})" if text else " (terms: unknown)"


def _samples(training: dict[str, Any]) -> str:
    """Which synthetic samples the loss was trained with."""
    if "method" in training:
        return f"with the method {training['method']['name']}"
    expansion = training["expansion"]
    is_plain = "none" in (expansion["form"], expansion["n"])
    return "plain" if is_plain else f"with embedding expansion, n = {expansion['n']}"


def _measures(about: dict[str, Any]) -> str:
    shown = {
        name: value
        for name, value in about["measures"].items()
        if name.startswith(("recall_at", "precision")) or name in ("r_precision", "map_at_r", "nmi", "f1", "ami")
    }
    if not shown:
        return "The run is not complete, so it has no metrics."
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in shown.items())
    chosen = f" The weights were selected by {about['selected_by']}." if about["selected_by"] else ""
    chosen += " The embeddings of each image and its mirror image were averaged." if about["measured_with_flip"] else ""
    return (
        f"On classes of {about['training']['data']} that training did not see.{chosen}\n\n"
        f"| metric | value |\n|---|---|\n{rows}"
    )
