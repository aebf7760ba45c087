"""Our reader of .mat files against scipy's writer and reader."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from embedding_expansion.data import matlab
from embedding_expansion.data.matlab import read_mat

RANDOM = np.random.default_rng(0)
KINDS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def structs(count: int) -> np.ndarray:
    rows = np.zeros(count, dtype=[("file", "O"), ("class", "O"), ("box", "O")])
    for row in range(count):
        rows[row]["file"] = f"Größe/{row:05}.jpg"[: RANDOM.integers(1, 16)]
        rows[row]["class"] = RANDOM.integers(0, 100, dtype=np.uint8)
        rows[row]["box"] = RANDOM.integers(-100, 100, RANDOM.integers(2, 5)).astype(RANDOM.choice(KINDS[::2]))
    return rows


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_what_scipy_writes_reads_back_as_scipy_reads_it(tmp_path: Path, packed: bool, count: int) -> None:
    names = np.array([f"Ärmel {k}" for k in range(count)], dtype=object)
    path = tmp_path / "list.mat"
    savemat(path, {"first": np.eye(3), "rows": structs(count), "names": names}, do_compression=packed)
    found = read_mat(path, "rows", "names", "nothing")
    theirs = loadmat(path, squeeze_me=True)
    assert found.keys() == {"rows", "names"}
    assert found["names"] == np.atleast_1d(theirs["names"]).tolist()
    for field in ("file", "class", "box"):
        assert isinstance(found["rows"], dict)
        assert found["rows"][field] == [plain(value) for value in np.atleast_1d(theirs["rows"])[field]]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_every_kind_are_read(tmp_path: Path, kind: str) -> None:
    limits = np.finfo(kind) if kind.startswith("f") else np.iinfo(kind)
    numbers = np.array([limits.min, 0, limits.max], dtype=kind)
    cell = np.empty(2, dtype=object)
    cell[:] = [numbers, numbers[2]]
    savemat(tmp_path / "list.mat", {"numbers": cell})
    assert read_mat(tmp_path / "list.mat", "numbers") == {"numbers": [numbers.tolist(), numbers[2].item()]}


def test_files_of_other_versions_and_of_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.mat"
    savemat(path, {"a": 1}, format="4")
    for content in (path.read_bytes(), b"", b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="its header is not that of version 5"):
            read_mat(path, "a")


def test_a_number_is_no_list(tmp_path: Path) -> None:
    savemat(tmp_path / "list.mat", {"a": 1})
    with pytest.raises(ValueError, match="a is neither a cell nor a struct"):
        read_mat(tmp_path / "list.mat", "a")


def test_what_unpacks_to_more_than_is_allowed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list.mat"
    savemat(path, {"a": structs(2)})
    head = path.read_bytes()[:128]
    bomb = zlib.compress(struct.pack("<II", 14, 10**6) + bytes(10**6))
    path.write_bytes(head + struct.pack("<II", 15, len(bomb)) + bomb)
    monkeypatch.setattr(matlab, "MOST_BYTES", 10_000)
    with pytest.raises(ValueError, match="cut off, or have more than 10,000 bytes"):
        read_mat(path, "a")
    path.write_bytes(head + bytes(10_001))
    with pytest.raises(ValueError, match="it has more than 10,000 bytes"):
        read_mat(path, "a")


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_bytes_are_a_value_error(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "list.mat"
    savemat(path, {"rows": structs(20), "names": np.array(["a", "b"], dtype=object)}, do_compression=packed)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(200):
        damaged = whole.copy()
        damaged[RANDOM.integers(128, len(whole), RANDOM.integers(1, 20))] = RANDOM.integers(0, 256)
        path.write_bytes(damaged[: len(whole) if RANDOM.random() < 0.5 else RANDOM.integers(len(whole))].tobytes())
        try:
            read_mat(path, "rows", "names")
        except ValueError:
            refused += 1
    assert refused > 100
