"""A cache of the tests' own, and small image files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from or written to the user's cache; the glyphs are rendered once for all tests."""
    monkeypatch.setenv("EMBEX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("EMBEX_DATA", raising=False)


@pytest.fixture
def picture() -> Callable[..., Path]:
    """Writes a small image whose pixels all have one value."""

    def write(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(path)
        return path

    return write
