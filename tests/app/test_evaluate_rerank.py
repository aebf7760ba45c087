"""embex evaluate with post-processing: before and after, and one sentence for what makes no sense."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from embedding_expansion.app.cli import main
from embedding_expansion.data.images import read_image
from embedding_expansion.data.transforms import test_transform
from embedding_expansion.model.trained import load_trained
from embedding_expansion.retrieval.rerank.whitening import PCAWhitening
from retrieval.oracles import neighbours
from retrieval.rerank_oracles import expanded, list_measures


def embedded(run: Path, photographs: Path, classes: range) -> np.ndarray:
    found = load_trained(run)
    transform = test_transform(found.preprocessing.size, str(found.config.data.transform))
    files = [photographs / f"class_{number}" / f"{image}.png" for number in classes for image in range(4)]
    return found.model.embed(torch.stack([transform(read_image(path)) for path in files])).numpy()


def test_the_measures_before_and_after_are_printed_side_by_side_and_written(
    trained: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(trained), "--out", str(tmp_path / "plain.json")]) == 0
    capsys.readouterr()
    options = ["--rerank.qe", "3", "--rerank.dba", "2", "--rerank.alpha", "0.5", "--out", str(tmp_path / "both.json")]
    assert main(["evaluate", str(trained), *options]) == 0
    plain, both = (json.loads((tmp_path / name).read_text()) for name in ("plain.json", "both.json"))
    after = both.pop("reranked")
    assert both == plain
    rows, labels = embedded(trained, photographs, range(4, 8)).tolist(), np.repeat(range(4), 4).tolist()
    everything = list(range(16))
    gallery = expanded(rows, rows, 2, 0.5, everything)
    lists = neighbours(expanded(rows, gallery, 3, 0.5, everything), gallery, 8, everything)
    expected = list_measures(lists, labels, labels, (1, 2, 4, 8), everything)
    assert after.pop("steps") == {"dba": 2, "qe": 3, "alpha": 0.5}
    assert after == pytest.approx(expected, abs=1e-6)
    said = capsys.readouterr().out
    assert "post-processing: dba 2, qe 3 (alpha 0.5)" in said
    for name, key in (("Recall@1", "recall_at_1"), ("MAP@R", "map_at_r")):
        (line,) = [line for line in said.splitlines() if line.startswith(f"{name} ") and "," not in line]
        change = f"{after[key] - plain[key]:+.3f}"
        assert line.split() == [name, f"{plain[key]:.3f}", f"{after[key]:.3f}", change]


def test_whitening_is_fitted_on_the_training_classes_without_their_labels(
    trained: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[np.ndarray] = []
    fit = PCAWhitening.fit

    def spied(embeddings: torch.Tensor, dimensions: int | None, *, shrinkage: float) -> PCAWhitening:
        fitted.append(embeddings.numpy())
        return fit(embeddings, dimensions, shrinkage=shrinkage)

    monkeypatch.setattr(PCAWhitening, "fit", spied)
    assert main(["evaluate", str(trained), "--rerank.whiten", "3", "--rerank.reciprocal", "4"]) == 0
    np.testing.assert_allclose(fitted[0], embedded(trained, photographs, range(4)), atol=1e-6)
    assert len(fitted) == 1


def test_every_last_step_can_be_asked_for(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--rerank.whiten", "all", "--rerank.diffusion", "3"]) == 0
    assert "post-processing: whiten all (shrinkage 0), diffusion 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--rerank.qe 0", "rerank.qe is 0; pass a whole number of at least 1"),
        ("--rerank.qe many", "--rerank.qe is 'many'; pass a whole number"),
        ("--rerank.alpha 3", "rerank.alpha is 3.0, but only has a meaning for rerank.dba or rerank.qe"),
        (
            "--rerank.diffusion 5 --rerank.reciprocal 5",
            "rerank.reciprocal and rerank.diffusion both make the final list",
        ),
        ("--rerank.whiten 7", "rerank.whiten is 7, but the embeddings of"),
        ("--rerank.whiten some", "--rerank.whiten is 'some'; pass a whole number or all"),
        ("--rerank.reciprocl 20", "there is no option '--rerank.reciprocl'; did you mean --rerank.reciprocal?"),
        ("--rerank qe", "there is no option '--rerank'"),
    ],
)
def test_nonsense_is_one_sentence_and_no_work_is_done(
    trained: Path, options: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "embedding_expansion.model.network.EmbeddingModel.forward", lambda *_: pytest.fail("work was done")
    )
    assert main(["evaluate", str(trained), *options.split()]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_the_table_of_what_each_step_brings_is_made_of_the_measures(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "chosen.json").write_text(json.dumps({"chosen": {"qe": {"qe": 2, "alpha": 0.0}}}))
    script = Path(__file__).parents[2] / "benchmarks" / "post_processing.py"
    out = tmp_path / "table.json"
    command = [sys.executable, str(script), str(trained), "--chosen", str(tmp_path / "chosen.json"), "--out", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert main(["evaluate", str(trained), "--rerank.qe", "2", "--rerank.alpha", "0", "--out", str(out) + "2"]) == 0
    rows, measured = json.loads(out.read_text())["rows"], json.loads(Path(str(out) + "2").read_text())
    assert rows["plain"]["map_at_r"] == pytest.approx(measured["map_at_r"], abs=1e-6)
    assert rows["chosen: qe 2 (alpha 0)"]["map_at_r"] == pytest.approx(measured["reranked"]["map_at_r"], abs=1e-6)
    assert f"| plain | {100 * measured['recall_at_1']:.1f} |" in ran.stdout
