"""The page of a study, and the sentences on what cannot be tuned."""

from __future__ import annotations

import importlib.util
import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.app.cli import main
from embedding_expansion.app.pages.tuning import stairs

from .conftest import ARMS, OPTIONS, TRIALS, command
from .study_files import stored

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_best_value_against_the_budget_of_every_arm(study: Path) -> None:
    page, results = (study / "report.html").read_text(), stored(study)
    assert page.count("<figure") == 2
    for arm in ARMS:
        own = [results[arm, number] for number in range(TRIALS)]
        spent = list(itertools.accumulate(result["trained"] for result in own))
        best = list(itertools.accumulate((result["value"] for result in own), max))
        said = f"{arm} goes from {best[0]:.3g} at {spent[0]} steps to {best[-1]:.3g} at {spent[-1]} steps."
        assert said in page
        for steps, value in zip(spent, best, strict=True):
            assert f"<title>{steps} steps: {arm} {value:.3g}</title>" in page
        for number in range(TRIALS):
            assert f"{arm}-{number:03d}" in page
    assert "It is the best of many trials, so it is optimistic" in page
    assert "2 of 8" in page  # held-out classes
    assert "different budgets" not in page


def test_the_commands_of_the_documentation_have_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"embex tune (.*)", text)
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    known = set(re.findall(r"--[\w.]+", capsys.readouterr().out)) | {"--data"}
    given = {option for each in commands for option in re.findall(r"--[\w.]+", each)}
    assert len(given) > 10
    assert {option for option in given if not option.startswith("--loss.")} <= known


def test_the_page_is_one_file_without_scripts(study: Path) -> None:
    page = (study / "report.html").read_text()
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page)


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 1)), min_size=1))
def test_stairs_keep_a_value_until_the_next_point(points: list[tuple[float, float]]) -> None:
    corners = stairs(points)
    assert set(points) <= set(corners)
    assert corners[0] == points[0]
    for (x, y), (later, value) in itertools.pairwise(corners):
        assert x == later or y == value  # no slope


MISTAKES = [
    (["--arms", "papper"], "there is no arm named 'papper'; did you mean 'paper'?"),
    (["--arms", "none", "none"], "contain one twice"),
    (["--trials", "0"], "trials is 0; pass a number of 1 to 10,000"),
    (["--trials", "many"], "--trials is 'many'; pass a whole number"),
    (["--folds", "0"], "folds is 0"),
    (["--folds", "5"], "8 classes of two images or more, too few for 5 folds"),
    (["--search", "lrr"], "did you mean 'lr'"),
    (["--search", "backbone", "--model.freeze_backbone", "true"], "the backbone is frozen"),
    (["--search", "loss", "--loss", "fast_ap"], "the loss has no margin"),
    (["--measure", "recall"], "did you mean recall_at_1"),
    (["--protocol", "paper"], "does not select on held-out training classes"),
    (["--patience", "3"], "different budgets"),
    (["--loss", "snr_contrastive", "--arms", "paper"], "cannot be expanded"),
    (["--loss", "tripplet"], "did you mean 'triplet'"),
    (["--stps", "3"], "did you mean --steps"),
    (["--out", "a?b"], "question mark"),
]


@pytest.mark.parametrize(("more", "expected"), MISTAKES, ids=[" ".join(more) for more, _ in MISTAKES])
def test_a_mistake_is_one_sentence_before_anything_is_written(
    more: list[str],
    expected: str,
    unreadable: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "--data", str(unreadable), *OPTIONS, "--out", "study", *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("embex: ")
    assert said.count("\n") == 1
    assert expected in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--optimizer.lr", "0.1"], "the option optimizer.lr is 0.1 and was 0.001"),
        (["--measure", "map_at_r"], "measure is map_at_r and was recall_at_1"),
        (["--search", "lr"], "search is"),
        (["--folds", "2"], "folds is 2 and was 1"),
        (["--data.train_classes", "6"], "the option data.train_classes is 6"),
    ],
)
def test_a_study_of_something_else_is_refused(
    more: list[str], expected: str, study: Path, unreadable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*") if "lock" not in str(path)}
    assert main([*command(unreadable, study), *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"embex: {study} is a study of something else: ")
    assert said.count("\n") == 1
    assert expected in said
    assert said.endswith("; undo this, or pass another --out\n")
    after = {path: path.stat().st_mtime_ns for path in study.rglob("*") if "lock" not in str(path)}
    assert after == before


def test_a_folder_that_is_no_study_is_left_alone(
    unreadable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "mine.txt"):
        assert main(command(unreadable, out)) == 2
        assert f"{out} is not a study made by embex tune" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_broken_database_is_one_sentence(
    unreadable: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    (out / "locks").mkdir(parents=True)
    (out / "study.sqlite").write_bytes(b"no database, but longer than the header of one" * 50)
    assert main(command(unreadable, out)) == 2
    said = capsys.readouterr().err
    assert "study.sqlite cannot be used (file is not a database)" in said
    assert said.count("\n") == 1


def test_without_optuna_one_sentence_says_what_to_install(
    unreadable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(command(unreadable, tmp_path / "study")) == 2
    assert capsys.readouterr().err == ("embex: embex tune needs Optuna; run pip install 'embedding-expansion[tune]'\n")


def test_a_training_that_diverges_counts_as_a_trial_of_value_0(
    unreadable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    given = [*command(unreadable, out), "--arms", "none", "--trials", "1", "--search", "steps"]
    assert main([*given, "--optimizer.lr", "1e30"]) == 0
    result = stored(out)["none", 0]
    assert (result["value"], result["trained"]) == (0, 4)
    assert "NaN or infinite" in result["diverged"]
    assert "none-000: diverged: " in capsys.readouterr().out
    assert not list((out / "best").iterdir())
    assert "diverged" in (out / "report.html").read_text()


def test_a_run_can_leave_the_test_classes_alone(
    unreadable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train", "--data", str(unreadable), *OPTIONS, "--measure_test", "false", "--validation_share", "0.3"]
    assert main([*options, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "before, raw pixels" not in said
    assert "held-out training classes" in said
    assert "never reads the test classes" in (tmp_path / "run" / "report.html").read_text()
    assert main([*options, "--protocol", "last", "--out", str(tmp_path / "other")]) == 2
    assert "measure_test is false, but --protocol last holds out no classes" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
