"""Write letters as image files, one folder per class, to follow docs/tutorial.md without your own photos.

python examples/glyph_photos.py FOLDER [CLASSES [IMAGES]]
"""

import sys
import unicodedata
from pathlib import Path

from PIL import Image

from embedding_expansion.data.glyphs import TEST_CHARACTERS, TRAIN_CHARACTERS, render


def main(folder: str, classes: int = 114, images: int = 12) -> None:
    letters = (TRAIN_CHARACTERS + TEST_CHARACTERS)[:: (len(TRAIN_CHARACTERS) + len(TEST_CHARACTERS)) // classes][
        :classes
    ]  # some of each script
    pixels = render(letters, images, seed=0)[:, 0].reshape(len(letters), images, *(32, 32))
    for letter, its_images in zip(letters, pixels, strict=True):
        place = Path(folder, unicodedata.name(letter).lower().replace(" ", "-"))
        place.mkdir(parents=True)
        for number, image in enumerate(its_images):
            Image.fromarray(image).resize((96, 96), Image.Resampling.BICUBIC).save(place / f"{number:02}.png")
    print(f"{classes} classes of {images} images in {folder}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
