"""The recipes in examples/ run end to end, and what they train falls."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


# Lightning: the data is loaded in the training process, and a name of torch is called by what it was before.
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["bare_loop", "with_lightning", "with_transformers"])
def test_the_recipe_trains_on_the_glyphs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](12)
    assert len(values) == 12
    assert sum(values[-3:]) < 0.8 * sum(values[:3])
    assert not any(tmp_path.iterdir())  # nothing is left behind


def test_a_head_on_hashed_words_finds_topics_that_it_has_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, after = runpy.run_path(str(EXAMPLES / "vectors_of_text.py"))["main"](30)
    assert after > 4 * before
    assert not any(tmp_path.iterdir())
