"""Text queries with tiny random pairs of towers, as CLIP and as SigLIP are built, against open_clip itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from embedding_expansion.errors import DataError, InvalidInput, UnknownName
from embedding_expansion.inference.collection import Collection
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.indexing import index_images

open_clip = pytest.importorskip("open_clip", reason="the extra text is not installed")

TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
PAIRS: dict[str, dict[str, Any]] = {
    "tiny-clip": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": TEXT,
    },
    # A tower of timm, squashed images, other statistics, and texts that are not masked, as SigLIP has them.
    "tiny-sig": {
        "embed_dim": 64,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
}
#: What open_clip knows about the images of a pair, by the tag of its weights.
TAGS = {"tiny-sig": {"webli": {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash", "url": ""}}}
WORDS = ["a red bird", "a map of the moon, seen from very far away and in very many words indeed", "ü"]


def weights_of(name: str, folder: Path, described: dict[str, Any]) -> tuple[Path, Any]:
    """Random weights of a pair in a file, and the pair itself, as open_clip has it."""
    (folder / f"{name}.json").write_text(json.dumps(described))
    open_clip.add_model_config(folder / f"{name}.json")
    open_clip.pretrained._PRETRAINED |= TAGS
    torch.manual_seed(1)
    made = open_clip.create_model(name, pretrained_text=False).eval()
    save_file({key: value.clone() for key, value in made.state_dict().items()}, folder / "weights.safetensors")
    return folder / "weights.safetensors", made


@pytest.fixture(scope="module", params=sorted(PAIRS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """The name of a pair, the file of its weights and the pair."""
    weights, made = weights_of(request.param, tmp_path_factory.mktemp("pair"), PAIRS[request.param])
    return f"open_clip/{request.param}", weights, made


def texts_of(pair: Any, name: str) -> Any:
    with torch.no_grad():
        rows = pair.encode_text(open_clip.get_tokenizer(name.partition("/")[2])(WORDS))
    return torch.nn.functional.normalize(rows, dim=1).numpy()


def test_images_and_texts_are_embedded_as_open_clip_does(pair: tuple[str, Path, Any]) -> None:
    name, weights, made = pair
    embedder = Embedder.from_backbone(name, weights=weights, device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)  # of the size: nothing is resized
    (said,) = TAGS.get(name.partition("/")[2], {"": {}}).values()
    settings = open_clip.transform.PreprocessCfg(
        **made.visual.preprocess_cfg | {k: said[k] for k in said if k != "url"}
    )
    prepare = open_clip.transform.image_transform_v2(settings, is_train=False)
    with torch.no_grad():
        row = made.encode_image(prepare(Image.fromarray(image))[None])
    np.testing.assert_allclose(embedder.embed(image), torch.nn.functional.normalize(row, dim=1), atol=1e-5)
    assert embedder.takes_text
    np.testing.assert_allclose(embedder.embed_text(WORDS), texts_of(made, name), atol=1e-5)
    assert embedder.preprocessing.short_side == (None if name.endswith("sig") else 32)


def test_an_index_keeps_both_towers(pair: tuple[str, Path, Any], tmp_path: Path) -> None:
    name, weights, made = pair
    rng = np.random.default_rng(2)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    embedder = Embedder.from_backbone(name, weights=weights, device="cpu")
    index_images(embedder, [tmp_path], tmp_path / "index")
    with Collection.open(tmp_path / "index", device="cpu") as collection:
        assert collection.takes_text
        rows = collection.embed_text(WORDS)
        np.testing.assert_allclose(rows, texts_of(made, name), atol=1e-5)
        images = {str(tmp_path / f"{i}.png"): embedder.embed(tmp_path / f"{i}.png")[0] for i in range(6)}
        for row, answer in zip(rows, collection.search(rows, 6), strict=True):
            found = {match.item.path: match.similarity for match in answer.matches}
            assert found == pytest.approx({path: float(image @ row) for path, image in images.items()}, abs=1e-5)


def test_what_has_no_text_tower_says_so(pair: tuple[str, Path, Any], tmp_path: Path) -> None:
    name, weights, _ = pair
    plain = Embedder.from_backbone("conv4", device="cpu")
    assert not plain.takes_text
    with pytest.raises(InvalidInput, match="the model has no text tower"):
        plain.embed_text("a bird")
    with pytest.raises(UnknownName, match="there is no pair of open_clip named 'tiny-clap'"):
        Embedder.from_backbone("open_clip/tiny-clap", weights=weights)
    with pytest.raises(DataError, match="there is no file"):
        Embedder.from_backbone(name, weights=tmp_path / "gone.safetensors")
    if name == "open_clip/tiny-clip":
        with pytest.raises(InvalidInput, match="no pretrained weights"):
            Embedder.from_backbone(name, pretrained=True)
