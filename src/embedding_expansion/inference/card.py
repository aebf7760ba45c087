"""The model card: what model.json says, for people."""

from __future__ import annotations

from typing import Any

from embedding_expansion.inference.manifest import FILES
from embedding_expansion.inference.thresholds import Thresholds


def card(about: dict[str, Any], thresholds: Thresholds) -> str:
    """The model card as Markdown.

    Args:
        about: the content of model.json.
        thresholds: that were calibrated for the model.
    """
    training, embedding = about["training"], about["embedding"]
    started = about["weights_came_from"]
    return f"""---
library_name: embedding-expansion
pipeline_tag: image-feature-extraction
tags: [deep-metric-learning, image-retrieval]
---
# {about["model"]["backbone"]} trained on {training["data"]}

Maps an image to a point of {embedding["dimensions"]} dimensions and length 1, so that images of one class lie close
together: the inner product of two points says how alike their images are.

{_use(about["format"])}

## Input

uint8, RGB, {" x ".join(map(str, about["input"]["shape"]))}; made so:
{"; ".join(about["preprocessing"]["steps"])}.
Resizing is {about["preprocessing"]["interpolation"]}. The model divides by 255 and normalises by itself, with mean
{about["preprocessing"]["mean"]} and standard deviation {about["preprocessing"]["std"]}.

## Training

- data: {training["data"]}{_licence(training["licence_of_the_data"])}
- loss: {training["loss"]["name"]}, {_expansion(training["expansion"])}
- {training["steps"]} steps, seed {training["seed"]}
- started from: {started["start"]}{_licence(started["licence"])}
- made with: {", ".join(f"{name} {number}" for name, number in about["versions"].items())}

## Measures

{_measures(about)}

## Limits

- The measures hold for images like those of {training["data"]}; on others measure first: `embex evaluate`.
- A similarity is no probability. {_thresholds(thresholds)}
- Whoever passes the model on answers for its use: no licence of the weights is stated here, and those above (of the
  data, and of what training started from) may bind it.
"""


def _thresholds(thresholds: Thresholds) -> str:
    if not thresholds:
        return """From which one on two images count as alike depends on the data, and has to be
  calibrated on some that the model was not trained on: `embex calibrate`."""
    said = "\n".join(f"  - {threshold.sentence()}." for threshold in thresholds.values())
    return f"""Thresholds were calibrated (`thresholds.json`); other classes than these can differ:
{said}"""


_WAYS = {
    "onnx": "`{file}` runs in onnxruntime, without PyTorch. The number of images in a batch is free.",
    "torch": "`{file}` is a program of `torch.export`. The number of images in a batch is free. `torch.export.load` "
    "may unpickle what a file holds: load it only from a source that you trust.",
    "safetensors": "`{file}` holds the weights and `config.yaml` the network that they fit.",
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
    return f" (terms: {text})" if text else " (terms: not known to this package)"


def _expansion(expansion: dict[str, Any]) -> str:
    return "plain" if expansion["n"] == "none" else f"with embedding expansion, n = {expansion['n']}"


def _measures(about: dict[str, Any]) -> str:
    shown = {
        name: value
        for name, value in about["measures"].items()
        if name.startswith(("recall_at", "precision")) or name in ("r_precision", "map_at_r", "nmi", "f1", "ami")
    }
    if not shown:
        return "The run was not measured to its end."
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in shown.items())
    chosen = f" The weights were selected by {about['selected_by']}." if about["selected_by"] else ""
    chosen += " The embedding of each image's mirror image was averaged in." if about["measured_with_flip"] else ""
    return (
        f"On classes of {about['training']['data']} that were not trained on.{chosen}\n\n"
        f"| measure | value |\n|---|---|\n{rows}"
    )
