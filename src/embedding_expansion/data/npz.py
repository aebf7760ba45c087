"""Reads arrays of an .npz file safely: sizes are checked before memory is allocated, and nothing is unpickled."""

from __future__ import annotations

import math
import os
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedding_expansion.errors import DataError

#: An array of more than `LARGE` bytes is refused if it is compressed more than `PACKED` times, which vectors never are.
LARGE, PACKED = 2**30, 100


def read_npz(path: Path, names: Iterable[str]) -> dict[str, npt.NDArray[Any]]:
    """Reads the arrays with the given names; arrays that the file lacks are missing from the result.

    Raises:
        DataError: the file is damaged or encrypted, its compression is not supported, an array holds objects or does
            not match its size, or it would take more memory than the machine has.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            return {name: _read(archive, members[name], name) for name in names if name in members}
    except Exception as error:  # zipfile and NumPy raise errors of many types for damaged files
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} cannot be read as .npz ({reason}); save it with np.savez, without objects") from error


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> npt.NDArray[Any]:
    with archive.open(member) as content:
        shape, dtype = _header(content)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{name} holds objects")
        if content.tell() + size != member.file_size:
            raise ValueError(f"{name} of shape {shape} takes {size:,} bytes, but the file has {member.file_size:,}")
        if size > _memory() or (size > LARGE and size > PACKED * member.compress_size):
            raise ValueError(f"{name} of shape {shape} would take {size / 1e9:,.0f} GB")
    with archive.open(member) as content:
        array: npt.NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
    if dtype.kind == "U" and size:
        letters = np.ascontiguousarray(array).view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if letters.max() > sys.maxunicode:
            raise ValueError(f"{name} holds invalid characters")
    return array


def _header(content: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads the shape and the type of an array from its header."""
    version = np.lib.format.read_magic(content)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of NumPy's format is not supported")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(content)
    return shape, dtype


def _memory() -> int:
    """The memory of the machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
