"""The examples that users read: in the docstrings and in the README."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import embedding_expansion
from embedding_expansion.app.train import run as run_train
from embedding_expansion.training.factory import BY_NAME

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(embedding_expansion.__path__, "embedding_expansion.")
    if not module.name.endswith(("__main__", "._hardest", "._measures"))  # the latter two are libraries of C
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


PAGES = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md"))


@pytest.mark.parametrize(
    "page",
    # Whose examples need more: see below, and tests/inference/test_export.py.
    [page for page in PAGES if page.name not in ("integrations.md", "export.md")],
    ids=lambda page: page.name,
)
def test_the_examples_on_the_pages_run(page: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks or page.name not in ("README.md", "proxy-losses.md")
    for block in blocks:
        names: dict[str, object] = {"model": torch.nn.Linear(6, 4), "images": torch.randn(8, 6)}
        names["labels"] = torch.arange(8) // 2
        exec(compile(block, page.name, "exec"), names)


def blocks_of_integrations() -> list[tuple[str, str]]:
    """The heading and the code of every example on the page."""
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    sections = [section.partition("\n") for section in page.split("\n## ")]
    code = re.compile(r"```python\n(.*?)```", re.DOTALL)
    return [(heading, block) for heading, _, text in sections for block in code.findall(text)]


# Lightning: the data is loaded in the training process, and a name of torch is called by what it was before.
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("heading", "block"),
    # Open Metric Learning's have an environment of their own: tests/interop/test_open_metric_learning.py
    [(heading, block) for heading, block in blocks_of_integrations() if heading != "Open Metric Learning"],
)
def test_the_examples_for_other_trainers_run(heading: str, block: str, tmp_path: Path) -> None:
    images, labels = torch.randn(8, 6), torch.arange(8) // 2
    names: dict[str, Any] = {"torch": torch, "model": torch.nn.Linear(6, 4), "images": images, "labels": labels}
    names["loader"] = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8)
    if heading == "sentence-transformers":
        from interop.sentences import texts, tiny_model, train

        sentences, topics = texts()
        names["sentence_model"] = tiny_model()
        names["train"] = partial(train, columns={"sentence": sentences, "label": topics}, folder=tmp_path, steps=2)
    exec(compile(block, "docs/integrations.md", "exec"), names)
    if "MetricTrainer" in names:
        value = names["MetricTrainer"].compute_loss(names["MetricTrainer"], names["model"], names)
        assert value.requires_grad


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_options_that_the_pages_name_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_train(["--help"])
    known = set(re.findall(r"--[\w.]+", capsys.readouterr().out)) | {"--data", "--loss", "--model", "--expansion"}
    known |= {"--memory", "--miner", "--method"}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command in re.findall(r"embex train (.*)|compare_losses.py .* -- (.*)", text):
            for option in re.findall(r"--[\w.]+", " ".join(command)):
                assert option in known or option.startswith(("--loss.", "--method.")), f"{page.name}: {option}"


def rows_of_losses() -> dict[str, list[str]]:
    """The cells of the tables of docs/losses.md whose first one names a loss."""
    text = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8").split("\n## 2.")[0]
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if "|" in line]
    found = [row for row in rows if row[0].startswith("`")]
    assert len({row[0] for row in found}) == len(found), "a loss stands there twice"
    return {row[0].strip("`"): row[1:] for row in found}


def test_the_page_of_losses_has_every_loss_and_no_other() -> None:
    assert set(rows_of_losses()) == set(BY_NAME)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_page_of_losses_says_what_the_code_does(name: str) -> None:
    shown_class, _, parameters, expansion, *_, source = rows_of_losses()[name]
    loss = BY_NAME[name]
    assert shown_class == f"`{loss.__name__}`"
    given = inspect.signature(loss).parameters.values()
    defaults = {p.name: p.default for p in given if p.default is not p.empty}
    shown = dict(cell.split("=") for cell in re.findall(r"`([^`]+)`", parameters))
    assert {key: ast.literal_eval(value) for key, value in shown.items()} == defaults
    if loss.not_expandable:
        assert expansion == f"no: {loss.not_expandable}"
    else:
        assert expansion.startswith("yes")
    assert re.search(r"\d{4}", source)
