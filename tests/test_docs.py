"""The examples that users read: in the docstrings and in the README."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import embedding_expansion
from embedding_expansion.app.train import run as run_train

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(embedding_expansion.__path__, "embedding_expansion.")
    if not module.name.endswith(("__main__", "._hardest"))  # the latter is a library of C, no module
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_print_what_they_say(name: str) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, extraglobs={"torch": torch}, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_the_core_has_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in ("compare", "expand", "hardest", "synthesize", "EmbeddingExpansion"):
        assert any(test.examples for test in finder.find(getattr(embedding_expansion, name), name)), name


def test_the_readme_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {"model": torch.nn.Linear(6, 4), "images": torch.randn(8, 6)}
        names["labels"] = torch.arange(8) // 2
        exec(compile(block, "README.md", "exec"), names)


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_options_that_the_pages_name_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_train(["--help"])
    known = set(re.findall(r"--[\w.]+", capsys.readouterr().out)) | {"--data", "--loss", "--model", "--expansion"}
    known |= {"--memory", "--miner"}
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command in re.findall(r"embex train (.*)|compare_losses.py .* -- (.*)", text):
            for option in re.findall(r"--[\w.]+", " ".join(command)):
                assert option in known or option.startswith("--loss."), f"{page.name}: {option}"
