"""An .npz whose bytes are not what they say: one sentence each, before memory is taken."""

from __future__ import annotations

import io
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedding_expansion.data import npz
from embedding_expansion.data.npz import read_npz
from embedding_expansion.errors import DataError

ROWS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)


def array(header: str, body: bytes = ROWS.tobytes(), version: int = 1) -> bytes:
    """What stands in one file of the archive."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + body


def archive(path: Path, content: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as written:
        written.writestr("embeddings.npy", content)
    return path


def header(shape: object = (12, 5), kind: str = "<f4") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("version", [1, 2])
def test_arrays_of_every_compression_and_version_are_read(tmp_path: Path, method: int, version: int) -> None:
    path = archive(tmp_path / "some.npz", array(header(), version=version), method)
    found = read_npz(path, ("embeddings", "labels"))
    assert found.keys() == {"embeddings"}
    assert np.array_equal(found["embeddings"], ROWS)


@pytest.mark.parametrize(
    "array_", [ROWS.T, ROWS.astype(">f8"), np.array(["é", "b"]), np.array([], "U3"), np.float32(3)]
)
def test_whatever_numpy_writes_is_read(tmp_path: Path, array_: np.ndarray) -> None:
    np.savez_compressed(tmp_path / "some.npz", embeddings=array_)
    found = read_npz(tmp_path / "some.npz", ("embeddings",))["embeddings"]
    assert found.dtype == array_.dtype
    assert np.array_equal(found, array_)


def marked(offset: int, value: int) -> Callable[[bytes], bytes]:
    """Sets two bytes of the entry, at its place before the content and in the directory."""

    def change(content: bytes) -> bytes:
        changed, directory = bytearray(content), content.index(b"PK\x01\x02")
        for at in (offset, directory + offset + 2):
            changed[at : at + 2] = value.to_bytes(2, "little")
        return bytes(changed)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (marked(6, 1), "encrypted"),
        (marked(8, 99), "compression"),
        (lambda content: content[:-30], "not a zip file"),
        (lambda content: content.replace(ROWS.tobytes()[:8], b"damaged!"), "CRC"),
        (lambda content: b"", "not a zip file"),
    ],
)
def test_what_an_archive_cannot_be_read_for_is_said(
    tmp_path: Path, change: Callable[[bytes], bytes], said: str
) -> None:
    path = archive(tmp_path / "some.npz", array(header()))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=rf"some\.npz cannot be read as \.npz \(.*{said}.*\); save it with np\.savez"):
        read_npz(path, ("embeddings",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (array(header((10**12, 5))), "takes 20,000,000,000,000 bytes, but the file has"),
        (array(header((2**70,))), "bytes, but the file has"),
        (array(header((-12, 5))), "bytes, but the file has"),
        (array(header((12, 4))), "takes 192 bytes, but the file has"),
        (array(header(kind="|O")), "embeddings holds objects"),
        (array(header((12,), "<U100000000")), "takes 4,800,000,000 bytes"),
        (array(header(kind="<f3")), "descr"),
        (array(header((1,), "<U1"), b"\xff\xff\xff\x7f"), "holds invalid characters"),
        (array(header(), version=9), "version"),
        (array("{"), "embeddings"),
        (b"no array", "magic"),
    ],
)
def test_an_array_is_held_against_its_bytes(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read_npz(archive(tmp_path / "embeddings.npz", content), ("embeddings",))
    assert "\n" not in str(caught.value)


def test_what_unpacks_to_more_than_the_machine_has_is_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO()
    np.save(content, np.zeros((1000, 1000), np.float32))
    path = archive(tmp_path / "bomb.npz", content.getvalue(), zipfile.ZIP_DEFLATED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, value in (("_memory", lambda: 10**6), ("LARGE", 10**6)):
        with monkeypatch.context() as changed:
            changed.setattr(npz, name, value)
            with pytest.raises(DataError, match=r"of shape \(1000, 1000\) would take 0 GB"):
                read_npz(path, ("embeddings",))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4_000  # KiB
    assert read_npz(path, ("embeddings",))["embeddings"].shape == (1000, 1000)
