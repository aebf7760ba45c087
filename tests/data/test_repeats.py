"""The same image twice: by its path, and by its bytes."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.data.repeats import equal_bytes, first_repeat


@given(st.lists(st.lists(st.sampled_from(["a", "b", "..", "link", "."]), min_size=1, max_size=4), max_size=8))
def test_the_first_repeat_is_that_of_the_real_paths(tmp_path: Path, names: list[list[str]]) -> None:
    (tmp_path / "a" / "b" / "a").mkdir(parents=True, exist_ok=True)
    if not (tmp_path / "link").is_symlink():
        (tmp_path / "link").symlink_to("a")
        (tmp_path / "a" / "link").symlink_to("b/a")
    paths = [tmp_path.joinpath("a", *parts) for parts in names]
    real = [os.path.realpath(path) for path in paths]
    pairs = [(real.index(one), position) for position, one in enumerate(real) if real.index(one) < position]
    assert first_repeat(paths) == (pairs[0] if pairs else None)


def test_equal_bytes_are_found_across_the_sides_only(tmp_path: Path) -> None:
    contents = dict(
        zip("012345678", (b"one", b"two", b"one", b"longer", b"six", b"two", b"two", b"", b""), strict=True)
    )
    paths = {name: tmp_path / name for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pairs = equal_bytes([paths[n] for n in "01237"], [*(paths[n] for n in "4568"), tmp_path / "gone", pipe])
    assert pairs == [(paths["1"], paths["5"]), (paths["1"], paths["6"])]
    assert equal_bytes([], [paths["0"]]) == []
