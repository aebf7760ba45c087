"""What is wrong with the text of a configuration, in sentences that name the line, the option and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedding_expansion.app.arguments import parse
from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.runs.config import dump, from_namespace, load, may_be_null, parser
from embedding_expansion.runs.options import ModelConfig, TrainConfig

CHOICES_OF_THE_PROGRAM = {
    "patience",
    "chunk",
    "ema",
    "threads",
    "out",
    "data.root",
    "model.mean",
    "optimizer.clip_norm",
}


def lines(name: str, value: str) -> str:
    section, _, last = name.rpartition(".")
    return f"{section}:\n  {last}:{value}\n" if section else f"{last}:{value}\n"


def parsed(text: str, tmp_path: Path) -> TrainConfig:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    return from_namespace(parse(parser(), ["--config", str(tmp_path / "mine.yaml")]))


@pytest.mark.parametrize("name", [*may_be_null(), "loss", "loss.name", "loss.margin"])
def test_an_option_left_empty_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=rf"line \d of \S+/mine\.yaml: {name} is empty; give it a value, or remove"):
        parsed("# mine\n" + lines(name, " # later"), tmp_path)


@pytest.mark.parametrize("name", may_be_null())
def test_null_in_letters_is_a_value_where_the_program_chooses(name: str, tmp_path: Path) -> None:
    assert may_be_null()[name] or name not in CHOICES_OF_THE_PROGRAM
    if may_be_null()[name]:
        assert parsed(lines(name, " null"), tmp_path) == TrainConfig()
        return
    with pytest.raises(InvalidInput, match=f"{name} is null; give it a value, or remove the line"):
        parsed(lines(name, " ~"), tmp_path)


@pytest.mark.parametrize("name", ["steps", "optimizer.lr", "sampler.images_per_class", "seed", "data.part"])
def test_null_on_the_command_line_is_refused_alike(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"--{name} is 'None'"):
        from_namespace(parse(parser(), [f"--{name}", "null"]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mine.yaml is empty; write options as steps: 300, or omit the file"),
        ("# nothing yet\n", "mine.yaml is empty"),
        ("steps\n", "mine.yaml contains no options; write options as steps: 300, one per line"),
        ("- steps: 3\n", "mine.yaml contains no options"),
        ("data:\n\tname: glyphs\n", "line 2 of mine.yaml is indented with a tab; indent it with spaces"),
        ("seed: 1\n  steps: 3\n", "line 2 of mine.yaml is not YAML (mapping values are not allowed"),
        ("loss: {name: triplet\n", "mine.yaml is not YAML (did not find expected ',' or '}')"),
        ("a\x00", "mine.yaml is not YAML (unacceptable character"),
        ("steps: 3\n---\nsteps: 4\n", "line 2 of mine.yaml is not YAML"),
        ("steps: 3\nseed: 1\nsteps: 4\n", "line 3 of mine.yaml: steps is already given in line 1; remove one"),
        ("model:\n  dim: 3\n  dim: 3\n", "line 3 of mine.yaml: model.dim is already given in line 2"),
        ("optimizer:\n", "line 1 of mine.yaml: optimizer is empty; give it a value, or remove the line"),
        (
            "optimizer:\n  learning_rate: 1\n",
            "line 2 of mine.yaml: there is no option 'optimizer.learning_rate'; did"
            " you mean optimizer.lr? embex train --help lists all options",
        ),
        ("lr: 1\n", "no option 'lr'; did you mean optimizer.lr?"),
        ("epochs: 1\n", "no option 'epochs'; did you mean steps?"),
        ("batch_size: 1\n", "no option 'batch_size'; did you mean sampler.classes_per_batch?"),
        ("optimizer: {lrr: 1}\n", "no option 'optimizer.lrr'; did you mean optimizer.lr?"),
        ("training: {steps: 3}\n", "line 1 of mine.yaml: there is no option 'training'; embex train --help lists"),
        ("config: other.yaml\n", "there is no option 'config'"),
        ("1: 2\n", "there is no option '1'"),
        ("? [steps]\n: 3\n", "line 1 of mine.yaml: there is no option '[...]'"),
        ("steps: {a: 1}\n", "steps is nested; pass a single value, or a list of numbers"),
        ("loss: {name: triplet, margin: {a: 1}}\n", "loss.margin is nested"),
        ("optimizer: {milestones: [[1]]}\n", "optimizer.milestones is nested"),
        ("steps: .inf\n", "--steps is 'inf'; pass a whole number"),
        ("steps: .nan\n", "--steps is 'nan'; pass a whole number"),
        ("steps: many\n", "--steps is 'many'; pass a whole number"),
        ("steps: 1.5\n", "--steps is '1.5'; pass a whole number"),
        ("steps: true\n", "--steps is 'True'; pass a whole number"),
        ("optimizer: {lr: .inf}\n", "optimizer.lr is inf; pass a number above 0"),
        ("optimizer: {lr: .nan}\n", "optimizer.lr is nan; pass a number above 0"),
        ("data: {name: 2024}\n", "--data.name is '2024'; pass text"),
        ("data: glyphs\n", "data is 'glyphs'; pass entries, such as data: {name: glyphs}"),
        ("optimizer: {milestones: [1, null]}\n", "--optimizer.milestones is 'None'; pass a whole number"),
        ("steps: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("steps: " + 500 * "[" + 500 * "]" + "\n", "steps is nested"),
        ("steps: " + 5000 * "[" + "\n", "not YAML"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        parsed(text, tmp_path)
    assert said in str(caught.value).replace(f"{tmp_path}/", "")
    assert len(str(caught.value)) < 6000
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=r"mine\.yaml is not the configuration of a run: "):
        load(tmp_path / "mine.yaml")


def test_one_list_under_two_names_reads_back(tmp_path: Path) -> None:
    shared = [0.5, 0.25, 0.125]  # YAML writes the second as an alias of the first
    config = TrainConfig(model=ModelConfig(mean=shared, std=shared))
    (tmp_path / "config.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "config.yaml") == config
