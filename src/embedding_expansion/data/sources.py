"""Where data sets come from (pages, licences, archives with checksums), and the folders in which they are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Attributes:
        url: the address of the file.
        algorithm: of the checksum, by its name in hashlib.
        checksum: in hexadecimal.
        cited: the public page that states the checksum.
    """

    url: str
    algorithm: str
    checksum: str
    cited: str

    @property
    def file_name(self) -> str:
        """The name of the file, the last part of the URL."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Source:
    """The origin of a data set.

    Attributes:
        what: its content in one line.
        page: its official page.
        licence: the conditions of use.
        archives: the files to download; empty if no official file with a public checksum is known.
        folder: the folder of the root into which the archives are unpacked; "" for the root, if an archive contains
            a folder.
        instructions: how to get the set by hand if there is nothing to download, in complete sentences.
    """

    what: str
    page: str
    licence: str
    archives: tuple[Archive, ...] = ()
    folder: str = ""
    instructions: str = ""


_TORCHVISION_OMNIGLOT = "https://github.com/pytorch/vision/blob/main/torchvision/datasets/omniglot.py"
_OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"

#: One entry for each name of `datasets.DATASETS`.
SOURCES: dict[str, Source] = {
    "glyphs": Source(
        what="characters rendered from the DejaVu faces: Greek, Cyrillic and digits train, Latin letters test",
        page="https://dejavu-fonts.github.io",
        licence="the DejaVu fonts' free licence; comes with this package",
        instructions="The glyphs are rendered on first use.",
    ),
    "omniglot": Source(
        what="handwritten characters of 50 alphabets, 20 drawings each",
        page="https://github.com/brendenlake/omniglot",
        licence="MIT",
        archives=(
            Archive(
                f"{_OMNIGLOT}/images_background.zip", "md5", "68d2efa1b9178cc56df9314c21c6e718", _TORCHVISION_OMNIGLOT
            ),
            Archive(
                f"{_OMNIGLOT}/images_evaluation.zip", "md5", "6b91aef0f799c5bb55b94e3f2daec811", _TORCHVISION_OMNIGLOT
            ),
        ),
        folder="omniglot",
    ),
    "cub": Source(
        what="photographs of 200 species of birds",
        page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        licence="non-commercial research and education; the photographs belong to their owners",
        archives=(
            Archive(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "md5",
                "97eceeb196236b17998738112f37df78",
                "https://data.caltech.edu/records/65de6-vp158",
            ),
        ),
    ),
    "cars": Source(
        what="photographs of 196 models of cars",
        page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html (no longer served)",
        licence="non-commercial research; the photographs belong to their owners",
        instructions=(
            "The official files are no longer available, so nothing is downloaded. Put car_ims/ and cars_annos.mat, or "
            "cars_train/, cars_test/ and devkit/ (with cars_test_annos_withlabels.mat), from a copy that you trust "
            "into a folder CARS196. The counts are checked on opening."
        ),
    ),
    "sop": Source(
        what="photographs of 22,634 products from an auction site",
        page="https://cvgl.stanford.edu/projects/lifted_struct/",
        licence="research; the photographs belong to their owners",
        archives=(
            Archive(
                "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
                "sha256",
                "b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48",
                "https://github.com/tensorflow/datasets/blob/master/tensorflow_datasets/datasets/"
                "stanford_online_products/checksums.tsv",
            ),
        ),
    ),
    "inshop": Source(
        what="photographs of 7,982 pieces of clothing, worn and alone",
        page="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
        licence="non-commercial research, under the terms of the page",
        instructions=(
            "The images are available under the terms of the page above, so nothing is downloaded. Follow its download "
            "link for the In-shop Clothes Retrieval Benchmark, and unpack img.zip and Eval/list_eval_partition.txt "
            "into a folder In-Shop. The counts are checked on opening."
        ),
    ),
}


def cache_folder() -> Path:
    """The folder for what this package caches; it may not exist yet.

    It is $EMBEX_CACHE if set, otherwise $XDG_CACHE_HOME/embedding-expansion, otherwise ~/.cache/embedding-expansion.
    """
    if chosen := os.environ.get("EMBEX_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "embedding-expansion"


def search_folders(root: Path | None) -> list[Path]:
    """The folders in which a named data set is searched for, in order.

    Args:
        root: the only folder to search in; None for $EMBEX_DATA if set, `./data`, and the cache folder.
    """
    if root is not None:
        return [root]
    given = os.environ.get("EMBEX_DATA")
    return [*([Path(given).expanduser()] if given else []), Path("data"), cache_folder()]
