"""Reads texts, numbers, cells and structs from a .mat file of version 5, safely.

Every length is checked against the number of bytes, since a file from elsewhere may hold anything. scipy's reader is
not used, because some damaged files make it end the process.

Source: MathWorks, MAT-File Format, "Level 5 MAT-Files". A file is a sequence of elements; each has a tag (type and
number of bytes) and data, padded to 8 bytes. An array is an element that contains elements: flags, shape, name, and
then the content, which depends on its class.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

#: The most bytes of a file, and of its unpacked content; the largest file of CARS196 has a tenth of a percent of it.
MOST_BYTES = 2**28

_HEADER = 128
_ARRAY, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _NUMBERS = 1, 2, 4, range(6, 16)
#: The formats of numbers and the encodings of texts, by the type of the element.
_FORMATS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_LETTERS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"}

Element: TypeAlias = tuple[int, memoryview]
Number: TypeAlias = "int | float"
Value: TypeAlias = "str | Number | list[Number]"


def read_mat(path: Path, *names: str) -> dict[str, list[Value] | dict[str, list[Value]]]:
    """Reads variables that are cells or structs.

    Args:
        path: of a .mat file of version 5, as `save -v6` and `save -v7` write it on little-endian processors.
        names: of the variables; variables that the file lacks are missing from the result.

    Returns:
        A cell as the list of its values; a struct as one such list for each field. A value is a text, a number or a
        list of numbers.

    Raises:
        ValueError: the file is damaged, of another version or too large, or a variable is neither a cell nor a struct.
        OSError: the file cannot be read.
    """
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    content = memoryview(path.read_bytes())
    if len(content) < _HEADER or bytes(content[124:128]) != b"\x00\x01IM":
        raise ValueError("its header is not that of version 5")
    found: dict[str, list[Value] | dict[str, list[Value]]] = {}
    try:
        for element in _elements(content[_HEADER:]):
            kind, count, name, parts = _array(_unpacked(element))
            if name in names:
                found[name] = _variable(name, kind, count, parts)
    except (struct.error, zlib.error, IndexError, StopIteration) as error:
        raise ValueError(f"it is damaged: {str(error) or 'it ends too early'}") from error
    return found


def _elements(data: memoryview) -> Iterator[Element]:
    """Yields consecutive elements: the type and the bytes of each."""
    offset = 0
    while offset < len(data):
        kind, size = struct.unpack_from("<II", data, offset)
        start = offset + 8
        if kind >> 16:  # up to 4 bytes of data are stored in the tag
            kind, size, start = kind & 0xFFFF, kind >> 16, offset + 4
        end = start + size
        if end > len(data) or (start == offset + 4 and size > 4):
            raise struct.error(f"an element of {size:,} bytes extends beyond the end")
        yield kind, data[start:end]
        offset = end if kind == _COMPRESSED else end + (-end + offset) % 8


def _unpacked(element: Element) -> Element:
    kind, data = element
    if kind != _COMPRESSED:
        return element
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(data, MOST_BYTES)
    if unpacking.unconsumed_tail or not unpacking.eof:
        raise zlib.error(f"its compressed data are cut off, or have more than {MOST_BYTES:,} bytes")
    return next(_elements(memoryview(content)))


def _array(element: Element) -> tuple[int, int, str, Iterator[Element]]:
    """The class of an array, its number of values, its name, and the elements that hold the values."""
    kind, data = element
    if kind != _ARRAY:
        raise struct.error(f"an element has type {kind}, but an array is expected")
    parts = _elements(data)
    (flags, *_), shape = _whole_numbers(next(parts)), _whole_numbers(next(parts))
    return flags & 0xFF, math.prod(shape), bytes(next(parts)[1]).decode("latin-1"), parts


def _whole_numbers(element: Element) -> list[int]:
    """Checks that an element holds at least one number, and only sizes: whole numbers of 0 or more."""
    found = [number for number in _numbers(element) if isinstance(number, int) and number >= 0]
    if len(found) < len(_numbers(element)) or not found:
        raise struct.error("a size is not a whole number")
    return found


def _numbers(element: Element) -> Sequence[Number]:
    kind, data = element
    if kind not in _FORMATS:
        raise struct.error(f"an element has type {kind}, but numbers are expected")
    letter = _FORMATS[kind]
    return struct.unpack(f"<{len(data) // struct.calcsize(letter)}{letter}", data)


def _variable(name: str, kind: int, count: int, parts: Iterator[Element]) -> list[Value] | dict[str, list[Value]]:
    if kind == _CELL:
        values = [_value(part) for part in parts]
        if len(values) != count:
            raise struct.error(f"{name} has {len(values):,} entries instead of {count:,}")
        return values
    if kind != _STRUCT:
        raise ValueError(f"{name} is neither a cell nor a struct")
    length = _whole_numbers(next(parts))[0]
    text = bytes(next(parts)[1])
    if not length:
        raise struct.error(f"the names of the fields of {name} have {length} letters")
    fields = [text[at : at + length].split(b"\0")[0].decode("latin-1") for at in range(0, len(text), length)]
    entries = list(parts)
    if len(entries) != count * len(fields):
        raise struct.error(f"{name} has {len(entries):,} entries instead of {count:,} times {len(fields)} fields")
    return {field: [_value(part) for part in entries[at :: len(fields)]] for at, field in enumerate(fields)}


def _value(element: Element) -> Value:
    """A text, a number or a list of numbers; an empty list for a value of any other class."""
    if not len(element[1]):
        return []
    kind, count, _, parts = _array(element)
    if kind == _CHAR:
        letters, data = next(parts, (16, memoryview(b"")))
        if letters not in _LETTERS:
            raise struct.error(f"an element has type {letters}, but a text is expected")
        return bytes(data).decode(_LETTERS[letters])
    if kind not in _NUMBERS:
        return []
    numbers = list(_numbers(next(parts)))
    if len(numbers) != count:
        raise struct.error(f"an array has {len(numbers):,} numbers instead of {count:,}")
    return numbers[0] if count == 1 else numbers
