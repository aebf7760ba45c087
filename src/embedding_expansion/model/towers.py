"""Pairs of towers of open_clip, such as CLIP and SigLIP: images and texts as points of one space.

open_clip/NAME        a pair by the name of its architecture
open_clip/NAME.TAG    with the pretrained weights that open_clip knows by this tag
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from embedding_expansion.errors import DataError, InvalidInput, RunError, UnknownName
from embedding_expansion.model.input_convention import InputConvention
from embedding_expansion.model.weights import load_tensors, save_tensors

PREFIX = "open_clip/"
#: The file of a text tower beside its image tower.
FILE = "text.safetensors"


class ImageTower(nn.Module):
    """The image tower of a pair, with its projection: normalised images (b, 3, h, w) -> (b, d)."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        """Embeds images, without L2 normalisation."""
        found = self.visual(images)
        pooled: Tensor = found[0] if isinstance(found, tuple) else found  # some towers return their tokens as well
        return pooled


class TextTower:
    """The text tower of a pair.

    Args:
        name: the name of the pair, `open_clip/NAME`.
        pair: the pair; its image tower is dropped.

    Raises:
        DataError: its tokenizer cannot be had, as one that has to be downloaded.
    """

    def __init__(self, name: str, pair: Any) -> None:
        import open_clip

        pair.visual = nn.Identity()
        self.name, self._pair = name, pair.eval()
        try:
            self._tokenizer: Any = open_clip.get_tokenizer(_parts(name)[0])
        except Exception as error:  # of the library that has the tokenizer, each in its own way
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"the tokenizer of {name} cannot be loaded ({reason}); go online once") from error

    @classmethod
    def load(cls, name: str, folder: Path) -> TextTower:
        """Opens what `save` has written.

        Raises:
            RunError: the file is broken or of another pair.
            InvalidInput: open_clip is not installed.
            DataError: its tokenizer cannot be had.
        """
        tower = cls(name, open_pair(name))
        tensors, _ = load_tensors(folder / FILE)
        try:
            tower._pair.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(f"{folder / FILE} is not the text tower of {name}; build the index again") from error
        return tower

    def save(self, folder: Path) -> None:
        """Writes the weights into a folder. The tokenizer is part of open_clip."""
        tensors = {key: value.clone() for key, value in self._pair.state_dict().items()}
        save_tensors(folder / FILE, tensors, {"data": None})

    @torch.no_grad()
    def embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """The L2-normalised embeddings of texts, (n, d). Longer texts than the tower takes are cut off at their end."""
        rows: npt.NDArray[np.float32] = self._pair.encode_text(self._tokenizer(texts), normalize=True).float().numpy()
        return rows


def open_pair(name: str, *, pretrained: bool = False, weights: str | None = None) -> Any:
    """Opens a pair of towers on the CPU.

    Args:
        name: `open_clip/NAME` or `open_clip/NAME.TAG`.
        pretrained: whether to download the weights of the tag, or else of the first tag that fits the name.
        weights: a .safetensors file with the state dict of the whole pair.

    Raises:
        InvalidInput: open_clip is not installed, or the weights are of another pair.
        UnknownName: there is no such pair or tag.
        DataError: the weights cannot be downloaded or read.
    """
    try:
        import open_clip
    except ImportError as error:
        raise InvalidInput(f"{name} needs the library open_clip; pip install 'embedding-expansion[text]'") from error
    short, tag = _parts(name)
    if short not in open_clip.list_models():
        raise UnknownName("pair of open_clip", short, open_clip.list_models())
    chosen = _tag(open_clip, short, tag) if pretrained else None
    try:
        pair = open_clip.create_model(short, pretrained=chosen, pretrained_text=False)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name} cannot be made ({reason}); go online or pass a local file of weights") from error
    if weights is not None:
        _fill(pair, Path(weights), name)
    return pair


def convention_of(name: str, pair: Any) -> InputConvention:
    """What is known about the images of a pair.

    open_clip keeps it with the tags of weights, not with the architecture. For a name without a tag, and for weights of
    a file, it is that of the first tag.
    """
    import open_clip

    short, tag = _parts(name)
    tags = open_clip.list_pretrained_tags_by_model(short)
    said = open_clip.get_pretrained_cfg(short, tag if tag in tags else tags[0]) if tags else {}
    facts = dict(pair.visual.preprocess_cfg) | {
        key: said[key] for key in ("mean", "std", "resize_mode") if said.get(key)
    }
    size = facts.get("size", 224)
    return InputConvention(
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        image_size=int(size[0] if isinstance(size, (tuple, list)) else size),
        crop="squash" if facts.get("resize_mode") == "squash" else 1.0,
    )


def _parts(name: str) -> tuple[str, str]:
    short, _, tag = name.removeprefix(PREFIX).partition(".")
    return short, tag


def _tag(open_clip: Any, short: str, tag: str) -> str:
    """The tag of the weights. Those made with another activation than the architecture's are not taken by default."""
    tags = open_clip.list_pretrained_tags_by_model(short)
    if tag:
        if tag not in tags:
            raise UnknownName(f"tag of {short}", tag, tags)
        return tag
    fitting = [
        one
        for one in tags
        if not open_clip.get_pretrained_cfg(short, one).get("quick_gelu") or short.endswith("quickgelu")
    ]
    if not fitting:
        raise InvalidInput(f"open_clip has no pretrained weights of {short}; pass a file of weights, or another name")
    return str(fitting[0])


def _fill(pair: Any, weights: Path, name: str) -> None:
    if not weights.is_file():
        raise DataError(f"there is no file {weights}; pass a .safetensors file with the state dict of {name}")
    try:
        pair.load_state_dict(load_file(weights))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{weights} cannot be read as safetensors ({error})") from error
    except RuntimeError as error:
        raise InvalidInput(f"{weights} does not fit {name}: {str(error).splitlines()[-1].strip()}") from error
