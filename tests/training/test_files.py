"""Files: whole or not there, and every refusal of the system as one sentence that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import SafetensorError

from embedding_expansion.errors import RunError
from embedding_expansion.training.files import check_place, write_atomically


@pytest.mark.parametrize("refusal", [OSError(28, "No space left on device"), SafetensorError("I/O: No space left")])
def test_writing_that_fails_leaves_the_old_file_and_nothing_half_written(refusal: Exception, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")

    def fail(partial: Path) -> None:
        partial.write_bytes(b"half")
        assert partial.suffix != ".safetensors"
        raise refusal

    with pytest.raises(RunError, match=r"model\.safetensors cannot be written .*No space left"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_in_no_folder_or_that_is_one_is_refused_before_and_when_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "nowhere" / "x.json", tmp_path / "file" / "x.json", tmp_path):
        with pytest.raises(RunError, match=str(path)):
            check_place(path)
        with pytest.raises(RunError, match=f"{path} cannot be written"):
            write_atomically(path, lambda partial: partial.write_bytes(b"x"))
    check_place(tmp_path / "x.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
