"""Working through the grid: nothing twice, nothing lost, and a part for each machine."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from embedding_expansion.errors import InvalidInput, RunError, UnknownName
from embedding_expansion.evidence.grid import PLAIN, TRIALS, Cell, Regime, chosen_regimes
from embedding_expansion.evidence.results import FILE, Record, Results, add, extended, join, read
from embedding_expansion.evidence.work import Part, left, work

LOSSES = ("triplet", "contrastive")
REGIME = Regime("small", "glyphs", "a small one", {}, 3, "choice", losses=LOSSES, whole=(), settings=("default",))
FAULTY = Regime("faulty", "glyphs", "with faults", {}, 2, "confirmation", losses=LOSSES, whole=(), tuned_in="small")


def fake(regime: Regime, cell: Cell, values: dict[str, float]) -> Record:
    """A run whose best trial is 2 with the plain loss and 0 with the others."""
    best = cell.setting == "trial" and cell.seed == (2 if cell.arm == PLAIN else 0)
    value = 0.9 if best else 0.5
    test = {"recall_at_1": value, "map_at_r": value}
    return {"key": cell.key, "values": values, "held_out": [[300, value, value]], "test": test, "wall_seconds": 2.0}


def finished(folder: Path, regimes: Sequence[Regime] = (REGIME,), part: str = "1/1") -> list[str]:
    """Works until the end; returns the keys that were run."""
    _choose(folder)
    ran: list[str] = []
    ended = work(
        folder, folder, regimes, Part.read(part), fake, hours=None, show=lambda record: ran.append(record["key"])
    )
    assert ended == "nothing is left that can be run now"
    return ran


def _choose(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if not (folder / FILE).exists():
        choice = {"balanced": ["balanced"], "default": "balanced"}
        (folder / FILE).write_text(json.dumps({"format": 1, "choice": choice, "runs": []}))


def test_everything_is_run_once(tmp_path: Path) -> None:
    ran = finished(tmp_path, [REGIME, FAULTY])
    assert len(set(ran)) == len(ran) == len(read(tmp_path).runs)
    assert not list(left([REGIME, FAULTY], read(tmp_path), Part(1, 1)))
    assert finished(tmp_path, [REGIME, FAULTY]) == []


def test_tuned_runs_take_the_values_of_the_best_trial(tmp_path: Path) -> None:
    finished(tmp_path)
    runs = read(tmp_path).runs
    for loss in LOSSES:
        best = runs[f"small/{loss}/plain/trial/2"]["values"]
        assert all(runs[f"small/{loss}/plain/tuned/{seed}"]["values"] == best for seed in (1, 2, 3))
        assert best != runs[f"small/{loss}/plain/trial/0"]["values"]


def test_where_the_given_values_are_best_the_runs_with_them_count_as_tuned(tmp_path: Path) -> None:
    finished(tmp_path)
    keys = read(tmp_path).runs.keys()
    assert "small/triplet/balanced/default/1" in keys
    assert "small/triplet/balanced/tuned/1" not in keys


def test_faulty_data_take_the_tuning_of_the_clean_regime(tmp_path: Path) -> None:
    assert finished(tmp_path, [FAULTY]) == []  # nothing can be run before that tuning
    finished(tmp_path, [REGIME, FAULTY])
    runs = read(tmp_path).runs
    assert runs["faulty/triplet/plain/tuned/1"]["values"] == runs["small/triplet/plain/trial/2"]["values"]
    assert not any(key.startswith("faulty/") and "/trial/" in key for key in runs)


def test_parts_are_disjoint_and_together_whole(tmp_path: Path) -> None:
    parts = [set(finished(tmp_path / str(number), part=f"{number}/3")) for number in (1, 2, 3)]
    whole = set(finished(tmp_path / "whole"))
    assert set.union(*parts) == whole
    assert sum(map(len, parts)) == len(whole)
    joined = tmp_path / "joined"
    _choose(joined)
    for number in (1, 2, 3):
        add(joined, read(tmp_path / str(number)).runs.values())
    assert finished(joined) == []


def test_joining_keeps_what_is_there(tmp_path: Path) -> None:
    _choose(tmp_path)
    first = {"key": "small/triplet/plain/trial/0", "values": {}, "held_out": [[1, 0.1, 0.1]]}
    assert join(tmp_path, Results({first["key"]: first})) == (1, 0)
    assert join(tmp_path, Results({first["key"]: first | {"held_out": []}})) == (0, 0)
    assert read(tmp_path).runs[first["key"]] == first


def test_joining_leaves_out_runs_that_were_tuned_to_other_values(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        finished(folder)
    runs = read(there).runs
    other = {key: record | {"values": {"optimizer.lr": 9.0}} for key, record in runs.items() if "/tuned/" in key}
    with extended(here) as results:
        results.runs = {key: record for key, record in results.runs.items() if "/tuned/" not in key}
    assert join(here, Results(runs | other, read(there).choice)) == (0, len(other))
    assert join(here, Results(runs, read(there).choice)) == (len(other), 0)


def test_joining_takes_the_choice_and_refuses_another_one(tmp_path: Path) -> None:
    choice = {"balanced": ["balanced"], "default": "balanced", "date": "2026-01-01"}
    join(tmp_path, Results({}, choice))
    assert read(tmp_path).choice == choice
    with pytest.raises(InvalidInput, match="the choices differ: balanced of 2026-01-01, and plain of 2026-01-02"):
        join(tmp_path, Results({}, choice | {"default": "plain", "date": "2026-01-02"}))


def test_the_parts_of_faulty_data_are_those_of_their_tuning() -> None:
    for number in (1, 2, 3):
        planned = list(left([REGIME, FAULTY], _chosen(), Part(number, 3)))
        groups = {(regime.name, cell.loss, cell.arm) for regime, cell in planned}
        assert {group[1:] for group in groups if group[0] == "faulty"} <= {
            group[1:] for group in groups if group[0] == "small"
        }


def test_no_run_begins_after_the_hours(tmp_path: Path) -> None:
    _choose(tmp_path)
    ended = work(tmp_path, tmp_path, [REGIME], Part(1, 1), fake, hours=1e-9, show=print)
    assert ended == "stopped after 1e-09 hours"
    assert not read(tmp_path).runs


def _slow(regime: Regime, cell: Cell, values: dict[str, float]) -> Record:
    time.sleep(0.02)
    return fake(regime, cell, values)


def _in_process(folder: Path) -> None:
    work(folder, folder, [REGIME], Part(1, 1), _slow, hours=None, show=lambda record: None)


def test_processes_share_the_work_and_one_that_is_killed_loses_one_run(tmp_path: Path) -> None:
    _choose(tmp_path)
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_in_process, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    while len(read(tmp_path).runs) < 5:
        time.sleep(0.01)
    assert workers[0].pid is not None
    os.kill(workers[0].pid, signal.SIGKILL)
    for worker in workers:
        worker.join()
    assert not list(left([REGIME], read(tmp_path), Part(1, 1)))
    assert not list(tmp_path.glob("*.partial*")) or finished(tmp_path) == []


def test_trials_come_before_the_seeds_that_need_them() -> None:
    planned = [cell for _, cell in left([REGIME], _chosen(), Part(1, 1)) if cell.group == "small/triplet/plain"]
    assert [cell.setting for cell in planned[:TRIALS]] == ["trial"] * TRIALS


def _chosen() -> Results:
    return Results(choice={"balanced": ["balanced"], "default": "balanced"})


@pytest.mark.parametrize("text", ["0/3", "4/3", "2", "a/b", "", "1/0", "-1/2"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="pass K/N, such as 1/3"):
        Part.read(text)


def test_an_unknown_regime_is_named() -> None:
    with pytest.raises(UnknownName, match="glyph"):
        chosen_regimes({"glyphs": REGIME}, ["glyph"])


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2, "runs": []}', '{"format": 1, "runs": [{}]}', '{"runs": 3}'])
def test_a_broken_file_of_results_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RunError, match=r"results\.json"):
        add(tmp_path, [])
    assert (tmp_path / FILE).read_text() == text
