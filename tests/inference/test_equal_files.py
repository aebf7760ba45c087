"""Copies of files, bit for bit, embedded in other batches than the files: near-duplicates at a threshold of 1."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest

from embedding_expansion.app.cli import main


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_equal_files_are_found_at_1(
    kind: str, precision: str, exports: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, file in enumerate(files):
        shutil.copy(file, tmp_path / f"{number:02}-original.jpg")
        if number % 3 == 0:
            shutil.copy(file, tmp_path / f"{97 * (number + 1) % 100:02}-copy-of-{number:02}.jpg")
    index, table = str(tmp_path / "index"), tmp_path / "table.csv"
    given = ["--out", index, "--batch_size", "5", "--precision", precision]
    assert main(["index", str(exports / kind), *map(str, sorted(tmp_path.glob("*.jpg"))), *given]) == 0
    assert main(["duplicates", index, "--threshold", "1", "--csv", str(table)]) == 0
    assert "11 groups, 22 images, 11 pairs" in capsys.readouterr().out
    groups: dict[str, set[str]] = {}
    with table.open(encoding="utf-8", newline="") as content:
        for row in csv.DictReader(content):
            groups.setdefault(row["group"], set()).add(re.findall(r"(\d\d)(?:-original)?\.jpg", row["path"])[0])
            assert float(row["similarity"]) == 1
    assert sorted(map(sorted, groups.values())) == [[f"{number:02}"] for number in range(0, 32, 3)]
