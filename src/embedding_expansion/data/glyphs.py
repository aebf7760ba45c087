"""The embedded default data set: characters rendered from the DejaVu faces in `fonts/`.

Every image is 32 x 32 and grey, with a random face, size, position, rotation, shear, contrast and noise. Each class has
its own random stream, so an image depends only on the seed, its character and its number.

The faces are those of DejaVu 2.35, reduced to the characters below and otherwise unchanged:

    pyftsubset DejaVuSans.ttf --text=CHARACTERS --layout-features= --name-IDs='*' --drop-tables+=MATH

The training split has 75 characters: digits, Greek and Cyrillic. The test split has 39: Latin. The following characters
are left out, so that no test class is seen in training and no two classes of a split are one shape in two sizes:

- Greek and Cyrillic letters drawn like a Latin one: Α Β Ε Ζ Η Ι Κ Μ Ν Ο Ρ Τ Υ Χ, А В Е К М Н О Р С Т У Х, Є І Ј Ѕ Ү Ԛ,
  Ԝ, Λ (an A without its bar), Ғ (F), Һ (h), and γ ι κ ν ο ρ τ υ χ, г и п т у, the last ones also because of their
  italics;
- the digits 0 (O) and 1 (l);
- Cyrillic letters drawn like a Greek one or a digit: Г П Ф Ө Ѳ (Γ Π Φ Θ), Ԑ (ε), З (3), б (6);
- lower cases that are their upper case made smaller: Latin c k o p s u v w x y z (the upper case stays), π, and nearly
  all of Cyrillic; Latin i and l, which are one stroke, as I is, in a face without serifs;
- letters of another script with a small mark added to the Latin shape (Ҫ Ҭ Ҳ Қ Ұ), accented letters, and letters that
  not every face has (or that differ by a mark only, as Ӌ from Ҷ).

`tests/data/test_glyphs.py` measures that no shape of one split occurs in the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, features
from PIL import __version__ as pillow_version

from embedding_expansion.checks import as_whole, validates
from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.data.npz import read_npz
from embedding_expansion.data.sources import cache_folder
from embedding_expansion.errors import DataError
from embedding_expansion.files import replacing

DIGITS = "23456789"
GREEK = "ΓΔΘΞΠΣΦΨΩαβδεζηθλμξςσφψωϑϖϗϟϠ"
CYRILLIC = "БДЖИЙЛЦЧШЩЪЫЬЭЮЯфЂЉЊЋЏђѢѤѪѬҐҔҖҘҢҤҦҴҶӠԒ"
LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abdefghjmnqrt"

TRAIN_CHARACTERS = DIGITS + GREEK + CYRILLIC
TEST_CHARACTERS = LATIN

#: Increase it whenever the recipe changes, so that older caches are not used for the new images.
RECIPE = 1
SIDE = 32
TRAIN_PER_CLASS = 60
TEST_PER_CLASS = 40
FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
)
_CANVAS = 2 * SIDE  # characters are drawn and moved at twice the size, then averaged, which gives smooth edges
_FONT_SIZE = 40
_WRITING = threading.Lock()
_FONTS = Path(__file__).parent / "fonts"


@validates
def open_glyphs(seed: int = 0) -> Dataset:
    """Opens the glyphs, which are rendered on first use (a few seconds) and then cached.

    Args:
        seed: of every random choice in the images.

    Raises:
        InvalidInput: the seed is negative.
    """
    seed = as_whole(seed, "seed", least=0)
    path = cache_folder() / f"glyphs-{_cache_key(seed)}.npz"
    pixels = _read_cache(path)
    if pixels is None:
        pixels = render(TRAIN_CHARACTERS, TRAIN_PER_CLASS, seed), render(TEST_CHARACTERS, TEST_PER_CLASS, seed)
        _write_cache(path, *pixels)
    train, test = pixels
    return Dataset("glyphs", _image_set(TRAIN_CHARACTERS, train), _image_set(TEST_CHARACTERS, test), transform="none")


def render(characters: Sequence[str], per_class: int, seed: int) -> npt.NDArray[np.uint8]:
    """Renders images of characters, class after class.

    Returns:
        (len(characters) * per_class, 1, 32, 32), uint8.
    """
    faces = load_faces()
    images = np.empty((len(characters), per_class, 1, SIDE, SIDE), dtype=np.uint8)
    for number, character in enumerate(characters):
        masks = [draw(character, face) for face in faces]
        rng = np.random.default_rng([seed, ord(character)])
        for index in range(per_class):
            images[number, index, 0] = _one_image(masks[rng.integers(len(masks))], rng)
    return images.reshape(-1, 1, SIDE, SIDE)


def load_faces() -> list[ImageFont.FreeTypeFont]:
    """Loads the faces of `FACES`, in that order, at the size in which characters are drawn."""
    return [
        ImageFont.truetype(str(_FONTS / f"{face}.ttf"), _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
        for face in FACES
    ]


def draw(character: str, face: ImageFont.FreeTypeFont) -> Image.Image:
    """Draws a character before it is moved: white on black, with its ink centred in 64 x 64."""
    left, top, right, bottom = face.getbbox(character)
    image = Image.new("L", (_CANVAS, _CANVAS))
    corner = ((_CANVAS - left - right) / 2, (_CANVAS - top - bottom) / 2)
    ImageDraw.Draw(image).text(corner, character, fill=255, font=face)
    return image


def _one_image(mask: Image.Image, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Moves the character at random, then adds random contrast and noise."""
    angle = np.deg2rad(rng.uniform(-20, 20))
    shear = rng.uniform(-0.3, 0.3)
    width, height = rng.uniform(0.8, 1.2) * rng.uniform(0.85, 1.15, size=2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    back = np.linalg.inv(rotation @ np.array([[width, shear], [0.0, height]]))  # from the new image to the mask
    middle = np.full(2, _CANVAS / 2)
    offset = middle - back @ (middle + rng.uniform(-7, 7, size=2))
    coefficients = (back[0, 0], back[0, 1], offset[0], back[1, 0], back[1, 1], offset[1])
    moved = mask.transform(mask.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    ink = np.asarray(moved.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64) / 255
    background, foreground = rng.uniform(0, 90), rng.uniform(140, 255)
    noisy = background + (foreground - background) * ink + rng.normal(0, rng.uniform(5, 20), size=ink.shape)
    return noisy.clip(0, 255).round().astype(np.uint8)


def _image_set(characters: str, pixels: npt.NDArray[np.uint8]) -> ImageSet:
    per_class = len(pixels) // len(characters)
    names = tuple(f"{character} {unicodedata.name(character).lower()}" for character in characters)
    return ImageSet(np.repeat(np.arange(len(characters), dtype=np.int64), per_class), names, pixels=pixels)


def _cache_key(seed: int) -> str:
    """A key that changes with everything that the pixels depend on: recipe, seed, characters, faces and versions."""
    faces = [hashlib.sha256((_FONTS / f"{face}.ttf").read_bytes()).hexdigest() for face in FACES]
    parts = (RECIPE, seed, TRAIN_CHARACTERS, TEST_CHARACTERS, pillow_version, features.version("freetype2"), faces)
    return f"{seed}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def _read_cache(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None:
    """The cached pixels of both splits; None if the file is missing or broken, and must be rendered again."""
    try:
        stored = read_npz(path, ("train", "test"))
        train, test = stored["train"], stored["test"]
    except (DataError, KeyError):
        return None
    whole = train.shape == (len(TRAIN_CHARACTERS) * TRAIN_PER_CLASS, 1, SIDE, SIDE)
    whole &= test.shape == (len(TEST_CHARACTERS) * TEST_PER_CLASS, 1, SIDE, SIDE)
    return (train, test) if whole and train.dtype == test.dtype == np.uint8 else None


def _write_cache(path: Path, train: npt.NDArray[np.uint8], test: npt.NDArray[np.uint8]) -> None:
    """Writes the cache atomically; does nothing if the folder cannot be written."""
    with contextlib.suppress(OSError), _WRITING:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, train=train, test=test)
