"""A few of the faults of benchmarks/reliability/indexes.py: kills, second writers, full and read-only disks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "reliability"))

import indexes

Fault = Callable[[indexes.Bench, int, int], indexes.Count]


@pytest.fixture(scope="module")
def bench(exports: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> indexes.Bench:
    return indexes.Bench(exports / "onnx", photographs, tmp_path_factory.mktemp("reliability"))


@pytest.mark.parametrize(("fault", "tries"), [(indexes.kills, 6), (indexes.writers, 1), (indexes.full_disks, 6)])
def test_nothing_is_lost(fault: Fault, tries: int, bench: indexes.Bench) -> None:
    _, tried, survived = fault(bench, tries, 7)
    assert tried == survived == tries


@pytest.mark.parametrize("fault", [indexes.small_disks, indexes.read_only])
def test_nothing_is_lost_on_disks_of_their_own(fault: Fault, bench: indexes.Bench) -> None:
    _, tried, survived = fault(bench, 2, 7)
    if tried == 0:
        pytest.skip("file systems cannot be mounted here")
    assert tried == survived == 2
