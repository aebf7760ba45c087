"""The fuzzer of every parser, a few faults of each kind; docs/reliability.md has the counts of many."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "reliability"))

import parsers

TRIES = 6
KINDS = parsers.kinds()
COMMANDS = {
    "notes of an index",
    "items of an index",
    "index.sqlite",
    "model of an index",
    "thresholds.json",
    "model.json",
}
COMMANDS |= {"resumed checkpoint"}  # whole commands read it: fewer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the kinds around a run share."""
    folder = tmp_path_factory.mktemp("run")
    KINDS["metrics.json"].write(folder)
    return folder


@pytest.mark.parametrize("name", [name for name in KINDS if name != "model.onnx"])  # its export takes long
def test_damage_is_survived_or_said_in_a_sentence(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if name in parsers.OF_A_RUN:
        whole = request.getfixturevalue("run")
    else:
        whole = tmp_path / "whole"
        whole.mkdir()
        KINDS[name].write(whole)
    for seed in range(2 if name in COMMANDS else TRIES):
        assert parsers.attempt(KINDS[name], whole, seed) is None, f"{name}, seed {seed}"


def test_a_fault_that_is_no_sentence_is_counted(tmp_path: Path) -> None:
    def read(folder: Path) -> None:
        raise KeyError("found by nobody")

    kind = parsers.Kind(lambda folder: None, lambda folder, rng: None, read)
    assert "KeyError" in str(parsers.attempt(kind, tmp_path, 0))


def test_a_process_that_dies_is_counted_and_the_next_fault_is_tried() -> None:
    said: list[str] = []
    deaths = sum(int(np.random.default_rng(seed).integers(2)) for seed in range(6))
    assert 0 < deaths < 6
    assert list(parsers.counts(["dying"], tries=6, say=said.append)) == [("dying", 6, 6 - deaths)]
    assert len(said) == deaths


def test_faults_are_faults_and_the_same_for_the_same_seed() -> None:
    content = bytes(range(200))
    made = [parsers.flip(content, np.random.default_rng(seed)) for seed in range(50)]
    assert made == [parsers.flip(content, np.random.default_rng(seed)) for seed in range(50)]
    assert sum(one != content for one in made) > 45
