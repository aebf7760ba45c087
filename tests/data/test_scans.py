from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedding_expansion.app.cli import main
from embedding_expansion.data import scans
from embedding_expansion.data.decoding import decode
from embedding_expansion.data.images import read_image
from embedding_expansion.errors import DataError
from embedding_expansion.inference.pixels import as_pixels

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)


def jpeg(**options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(NOISE).save(content, "JPEG", **options)
    return content.getvalue()


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose first scan stands in it `count` times more."""
    content = jpeg(progressive=True)
    start = content.index(b"\xff\xda")
    end = content.index(b"\xff\xda", start + 2)
    return content[:end] + content[start:end] * count + content[end:]


READERS: dict[str, Callable[[Path], object]] = {
    "training": read_image,
    "path": as_pixels,
    "bytes": lambda path: as_pixels(path.read_bytes()),
    "Pillow": lambda path: as_pixels(Image.open(io.BytesIO(path.read_bytes()))),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_jpeg_of_hundreds_of_scans_is_refused_wherever_it_comes_from(tmp_path: Path, reader: str) -> None:
    (tmp_path / "image.jpg").write_bytes(with_scans(200))
    with pytest.raises(DataError, match="more than 100 scans"):
        READERS[reader](tmp_path / "image.jpg")


def test_embex_data_names_such_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "good.jpg").write_bytes(jpeg())
    (tmp_path / "b" / "bad.jpg").write_bytes(with_scans(200))
    assert main(["data", str(tmp_path), "check"]) != 0
    said = "".join(capsys.readouterr())
    assert "bad.jpg" in said
    assert "scans" in said
    assert "good.jpg cannot be decoded" not in said


@pytest.mark.parametrize(("options", "count"), [({}, 1), ({"progressive": True}, 10)])  # libjpeg's own progression: 10
def test_the_limit_is_the_number_of_scans(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], count: int
) -> None:
    content = jpeg(restart_marker_rows=1, **options)
    monkeypatch.setattr(scans, "MOST_SCANS", count)
    decode(content)
    monkeypatch.setattr(scans, "MOST_SCANS", count - 1)
    with pytest.raises(DataError, match="scans"):
        decode(content)


def test_markers_in_a_tag_or_behind_the_image_do_not_count() -> None:
    many = b"\xff\xda\x00\x02" * 10_000  # a film behind a photograph, a picture in its tags
    assert decode(jpeg(comment=many[:60_000]) + many).shape == (40, 40, 3)


def test_markers_are_found_across_blocks_and_behind_fill_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    content = with_scans(200).replace(b"\xff\xda", b"\xff\xff\xff\xda")
    for size in (2, 3, 64):
        monkeypatch.setattr(scans, "_BLOCK", size)
        with pytest.raises(DataError, match="scans"):
            decode(content)


def test_a_second_image_of_an_mpo_file_is_counted_alone() -> None:
    content = io.BytesIO()
    image = Image.fromarray(NOISE)
    image.save(content, "MPO", save_all=True, append_images=[image], progressive=True)
    assert np.array_equal(decode(content.getvalue()), decode(jpeg(progressive=True)))
