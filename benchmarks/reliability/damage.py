"""Random damage to files: flipped bytes, and JSON whose values have another type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Random = np.random.Generator
#: Values of every type, including some that no file should contain.
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**30, "", "x", "\ud800", [], [1], ["x"], [[]], {}, {"a": 1},
    float("nan"), float("inf"), -1e308,
)  # fmt: skip


def flip(content: bytes, rng: Random) -> bytes:
    """Return the bytes with a fault: some flipped, some inserted, or the end truncated."""
    if not content:
        return bytes(rng.integers(0, 256, 4, dtype=np.uint8))
    values = np.frombuffer(content, np.uint8).copy()
    choice = rng.integers(5)
    if choice == 0:
        return content[: rng.integers(len(content))]
    if choice == 1:
        at = int(rng.integers(len(content)))
        return content[:at] + rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8).tobytes() + content[at:]
    where = rng.integers(0, len(values), int(rng.integers(1, 12)))
    if choice == 2:  # one bit
        where = where[:1]
        values[where] ^= np.uint8(1 << int(rng.integers(8)))
    else:
        values[where] = rng.integers(0, 256, len(where)) if choice == 3 else rng.choice([0, 255, 127, 128])
    return values.tobytes()


def flip_file(name: str) -> Callable[[Path, Random], object]:
    """Damage the bytes of one file of a folder."""
    return lambda folder, rng: (folder / name).write_bytes(flip((folder / name).read_bytes(), rng))


def retype(value: Any, rng: Random) -> Any:
    """Return JSON in which one value has another type, is missing, or is duplicated under another name."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, changed = keys[int(rng.integers(len(keys)))], value.copy()
        fate = rng.random()
        if fate < 0.1:
            del changed[key]
        elif fate < 0.2 and isinstance(changed, dict):
            changed["more"] = changed[key]
        else:
            changed[key] = retype(value[key], rng)
        return changed
    return ODD[int(rng.integers(len(ODD)))]


def retype_file(name: str, lines: bool = False) -> Callable[[Path, Random], object]:
    """Damage the JSON in one file, or in one of its lines; sometimes damage its bytes."""

    def damage(folder: Path, rng: Random) -> None:
        path = folder / name
        if rng.random() < 0.2:
            path.write_bytes(flip(path.read_bytes(), rng))
            return
        texts = path.read_text(encoding="utf-8").splitlines() if lines else [path.read_text(encoding="utf-8")]
        place = int(rng.integers(len(texts)))
        texts[place] = "[" * 10**5 if rng.random() < 0.05 else json.dumps(retype(json.loads(texts[place]), rng))
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")

    return damage
