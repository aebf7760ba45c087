"""A collection of images with odd names and labels, in a folder and in PostgreSQL, with its model."""

from __future__ import annotations

import io
import itertools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.export import export
from embedding_expansion.retrieval.index import Item, create_index
from retrieval.index.conftest import server  # noqa: F401

COUNTER = itertools.count()
ODD_LABEL = "a \"b\" 'c' <b>&amp;"
#: Markup, two lines with a colour, and bytes that are no UTF-8.
ODD_NAMES = ("<script>alert(1).png", "two\nlines \x1b[31m.png", os.fsdecode(b"caf\xe9.png"))


@dataclass(frozen=True)
class Shop:
    """The images, what the index holds of them, and their vectors."""

    model: Path
    items: list[Item]
    vectors: npt.NDArray[np.float32]

    def fill(self, place: str) -> str:
        """Makes an index of it."""
        with create_index(place, dimensions=self.vectors.shape[1]) as index:
            for file in self.model.iterdir():
                index.files.put(file)
            index.add(self.items, self.vectors)
        return place


def thumbnail(path: Path) -> bytes:
    stream = io.BytesIO()
    Image.open(path).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="session")
def model(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(trained, "safetensors", folder)
    return folder


@pytest.fixture(scope="session")
def shop(model: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The 32 photographs, labelled by their folders, and three oddly named ones, of which one has no thumbnail."""
    odd = tmp_path_factory.mktemp("odd")
    files = sorted(photographs.rglob("*.png"))
    for number, name in enumerate(ODD_NAMES):
        shutil.copy(files[9 * number], odd / name)
    labels = [*(file.parent.name for file in files), ODD_LABEL, None, None]
    files += [odd / name for name in ODD_NAMES]
    items = [
        Item(str(file), label, {"width": 20, "height": 20}, thumbnail(file) if "caf" not in file.name else None)
        for file, label in zip(files, labels, strict=True)
    ]
    return Shop(model, items, Embedder.load(model, device="cpu").embed([item.path for item in items]))


@pytest.fixture(scope="session")
def place(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index in a folder; no test changes it."""
    return shop.fill(str(tmp_path_factory.mktemp("shop") / "index"))


@pytest.fixture(params=["folder", "postgres"])
def either_place(request: pytest.FixtureRequest, shop: Shop) -> str:
    """The same on each backend."""
    if request.param == "folder":
        return str(request.getfixturevalue("place"))
    return shop.fill(f"{request.getfixturevalue('server')}&index=pages{next(COUNTER)}")
