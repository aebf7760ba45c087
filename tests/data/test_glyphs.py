from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageFont

from embedding_expansion.data import glyphs
from embedding_expansion.data.glyphs import open_glyphs, render
from embedding_expansion.errors import InvalidInput


def raw_pixel_recall(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> float:
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    similarity = flat @ flat.T
    np.fill_diagonal(similarity, -1)
    return float(np.mean(labels[similarity.argmax(axis=1)] == labels))


#: The DejaVu faces, whole.
WHOLE = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def whole(face: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(WHOLE / f"{face}.ttf"), 40, layout_engine=ImageFont.Layout.BASIC)


def shape(character: str) -> npt.NDArray[np.float64]:
    """The character's ink in the regular face, its larger side scaled to 20 pixels, as a unit vector."""
    image = glyphs.draw(character, whole(glyphs.FACES[0]))
    ink = image.crop(image.getbbox())
    scale = 20 / max(ink.size)
    scaled = ink.resize((max(1, round(ink.width * scale)), max(1, round(ink.height * scale))))
    square = Image.new("L", (20, 20))
    square.paste(scaled, ((20 - scaled.width) // 2, (20 - scaled.height) // 2))
    vector = np.asarray(square, dtype=np.float64).ravel()
    return vector / np.linalg.norm(vector)


def test_the_sides_have_the_documented_sizes() -> None:
    data = open_glyphs()
    assert (data.name, data.transform) == ("glyphs", "none")
    assert (len(data.train.classes), len(data.train)) == (75, 75 * 60)
    assert (len(data.test.classes), len(data.test)) == (39, 39 * 40)
    assert data.train.load(0).shape == (1, 32, 32)
    assert data.test.class_names[0] == "A latin capital letter a"


def test_no_test_class_is_seen_in_training_and_none_comes_twice() -> None:
    characters = glyphs.TRAIN_CHARACTERS + glyphs.TEST_CHARACTERS
    assert len(set(characters)) == len(characters)
    assert not any(name.split()[1] == "latin" for name in open_glyphs().train.class_names)


def test_no_shape_of_one_side_is_found_on_the_other() -> None:
    train, test = (np.stack([shape(c) for c in side]) for side in (glyphs.TRAIN_CHARACTERS, glyphs.TEST_CHARACTERS))
    assert (train @ test.T).max() < 0.95
    assert shape("А") @ shape("A") > 0.99  # the Cyrillic and the Latin one: what the measure is there to find


def test_no_two_classes_of_the_test_side_are_one_shape_in_two_sizes() -> None:
    assert max(shape(a) @ shape(b) for a, b in itertools.combinations(glyphs.TEST_CHARACTERS, 2)) < 0.95
    assert shape("S") @ shape("s") > 0.95


def test_every_face_draws_every_character_as_the_whole_font_does() -> None:
    for name, face in zip(glyphs.FACES, glyphs.load_faces(), strict=True):
        known = set(FT2Font(str(WHOLE / f"{name}.ttf")).get_charmap())
        for character in glyphs.TRAIN_CHARACTERS + glyphs.TEST_CHARACTERS:
            assert ord(character) in known, (name, character)
            drawn = glyphs.draw(character, face)
            assert drawn.tobytes() == glyphs.draw(character, whole(name)).tobytes(), (name, character)


def test_raw_pixels_do_not_solve_the_test_side() -> None:
    test = open_glyphs().test
    assert test.pixels is not None
    assert 0.2 < raw_pixel_recall(test.pixels, test.labels) <= 0.4


def test_an_image_depends_on_the_seed_its_character_and_its_number_only() -> None:
    first = render("AB", 3, seed=1)
    assert np.array_equal(first[3:], render("B", 4, seed=1)[:3])
    assert not np.array_equal(first, render("AB", 3, seed=2))


def test_a_second_opening_reads_what_the_first_one_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_glyphs()

    def forbidden(*_: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(glyphs, "render", forbidden)
    assert np.array_equal(np.asarray(open_glyphs().test.pixels), np.asarray(first.test.pixels))


@pytest.mark.parametrize("damage", ["cut", "emptied", "other"])
def test_a_broken_cache_is_rendered_again(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEX_CACHE", str(tmp_path))
    monkeypatch.setattr(glyphs, "TRAIN_PER_CLASS", 2)
    monkeypatch.setattr(glyphs, "TEST_PER_CLASS", 2)
    whole = np.asarray(open_glyphs().test.pixels)
    (cache,) = tmp_path.iterdir()
    content = cache.read_bytes()
    if damage == "other":
        np.savez(cache, train=np.zeros(3))
    else:
        cache.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    assert np.array_equal(np.asarray(open_glyphs().test.pixels), whole)
    assert cache.read_bytes() == content
    assert list(tmp_path.iterdir()) == [cache]


def test_without_a_place_to_write_the_glyphs_are_rendered_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EMBEX_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(glyphs, "TRAIN_PER_CLASS", 1)
    monkeypatch.setattr(glyphs, "TEST_PER_CLASS", 1)
    assert len(open_glyphs().test) == 39


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InvalidInput, match="seed is -1; pass a whole number of at least 0"):
        open_glyphs(seed=-1)
