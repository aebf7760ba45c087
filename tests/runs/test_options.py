"""The configuration: the command line, config.yaml, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from pathlib import Path

import jsonargparse
import pytest

from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.forms import DEFAULT_FORM, DEFAULT_N, FORMS, SCOPES, Form, FormName
from embedding_expansion.runs.config import dump, from_namespace, load, may_be_null, parser
from embedding_expansion.runs.options import (
    DataConfig,
    ExpansionConfig,
    MemoryConfig,
    MinerConfig,
    ModelConfig,
    OptimizerConfig,
    SamplerConfig,
    TrainConfig,
)

UNUSUAL = TrainConfig(
    data=DataConfig(name="a: b # c", root="/x y", part=True, train_classes=3, workers=2, image_size=64),
    model=ModelConfig(backbone="timm/resnet18", mean=[0.5, 0.25, 0.125], std=[1.0, 2.0, 3.0], freeze_batch_norm=True),
    loss={"name": "hphn_triplet", "margin": 0.3, "soft_margin": True},
    expansion=ExpansionConfig(form="paper", n="none", scope="anchor", normalize_synthetic=False, max_segments=5),
    miner=MinerConfig("multi_similarity", epsilon=0.25),
    memory=MemoryConfig(size=100, start=7),
    chunk=16,
    optimizer=OptimizerConfig(lr=1e-5, schedule="step", milestones=[10, 20], clip_norm=1.0),
    protocol="paper",
    patience=3,
    threads=1,
    out="runs/a b",
)


@pytest.mark.parametrize("config", [TrainConfig(), UNUSUAL], ids=["default", "unusual"])
def test_a_configuration_written_as_yaml_reads_back_as_the_same(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "config.yaml") == config


def test_the_command_line_without_options_is_the_default_configuration() -> None:
    assert from_namespace(parser().parse_args([])) == TrainConfig()


def test_options_override_the_file_and_leave_the_rest_of_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("steps: 7\nloss: {name: triplet, margin: 0.5}\nmodel: {dim: 9}\n")
    given = ["--config", str(tmp_path / "mine.yaml"), "--model.dim", "10", "--loss.margin", "0.75"]
    config = from_namespace(parser().parse_args(given))
    assert (config.steps, config.model.dim, config.model.backbone) == (7, 10, None)
    assert config.loss == {"name": "triplet", "margin": 0.75}


def test_infinity_is_read_from_the_command_line_and_from_yaml_and_written_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("expansion: {n: inf}\n")
    given = [load(path), from_namespace(parser().parse_args(["--expansion.n", "inf"]))]
    for config in given:
        assert config.expansion.resolved == ExpansionConfig(form="paper", n="inf")
        path.write_text(dump(config), encoding="utf-8")
        assert load(path).expansion == config.expansion.resolved


def test_every_option_says_in_the_help_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10000")  # texts are not broken over lines
    described = [" ".join(part.split()) for part in re.split(r"\n +(?=--)", parser().format_help())]
    options = {}
    for section in dataclasses.fields(TrainConfig):
        value = getattr(TrainConfig(), section.name)
        if not dataclasses.is_dataclass(value):
            options[section.name] = said_of(TrainConfig, section.name)
            continue
        for field in dataclasses.fields(value):
            options[f"{section.name}.{field.name}"] = said_of(type(value), field.name)
    assert len(options) > 40
    for name, text in options.items():
        assert text.strip()
        assert [part for part in described if part.startswith(f"--{name} ") and text in part], name


def said_of(config: type, field: str) -> str:
    """The text beside the type of a field, as its declaration has it."""
    _, text = typing.get_args(typing.get_type_hints(config, include_extras=True)[field])
    return str(text)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"patience": 0},
        {"validation_share": 1.0},
        {"loss": {"margin": 1.0}},
        {"seed": -1},
        {"expansion": ExpansionConfig(n=-1)},
        {"expansion": ExpansionConfig(max_segments=0)},
        {"expansion": ExpansionConfig(form="none", balance=True)},
        {"expansion": ExpansionConfig(n="none", balance="sphere")},
        {"expansion": ExpansionConfig(n="none", form="balanced")},
        {"expansion": ExpansionConfig(n="none", form="samples")},
        {"expansion": ExpansionConfig(form="samples", balance=True)},
        {"expansion": ExpansionConfig(form="samples", scope="class_pair")},
        {"expansion": ExpansionConfig(form="samples", n=0)},
        {"expansion": ExpansionConfig(form="selective", balance=True)},
        {"expansion": ExpansionConfig(form="samples"), "memory": MemoryConfig(size=8)},
        {"expansion": ExpansionConfig(form="samples", n="inf")},
        {"expansion": ExpansionConfig(form="anchor"), "sampler": SamplerConfig(4, 3)},
        {"expansion": ExpansionConfig(form="balanced", scope="anchor"), "sampler": SamplerConfig(4, 3)},
        {"memory": MemoryConfig(size=7), "expansion": ExpansionConfig(form="anchor")},
        {"chunk": 0},
        {"miner": MinerConfig(epsilon=math.nan)},
        {"miner": MinerConfig(epsilon=math.inf)},
        {"memory": MemoryConfig(size=0)},
        {"memory": MemoryConfig(size=-3)},
        {"memory": MemoryConfig(start=3)},
        {"memory": MemoryConfig(size=8, start=-1)},
        {"memory": MemoryConfig(size=8, start=300)},
        {"memory": MemoryConfig(size=7), "expansion": ExpansionConfig(scope="anchor")},
        {"optimizer": OptimizerConfig(lr=float("nan"))},
        {"model": ModelConfig(dim=0)},
        {"model": ModelConfig(channels=0)},
        {"model": ModelConfig(channels=2)},
        {"model": ModelConfig(mean=[math.nan, 0.5, 0.5])},
        {"model": ModelConfig(std=[math.inf, 0.5, 0.5])},
        {"data": DataConfig(image_size=0)},
        {"data": DataConfig(workers=-1)},
        {"threads": 10**9},
        {"expansion": ExpansionConfig(scope="anchor"), "sampler": SamplerConfig(4, 3)},
        *(
            {"optimizer": OptimizerConfig(**{name: value})}
            for name, values in {
                "weight_decay": (-1.0, 1e30, math.nan),
                "backbone_lr_factor": (-1.0, math.inf, math.nan),
                "gamma": (-1.0, 0.0, math.inf, math.nan),
                "clip_norm": (-5.0, 0.0, math.inf, math.nan),
            }.items()
            for value in values
        ),
    ],
)
def test_numbers_that_no_run_can_use_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="pass"):
        dataclasses.replace(TrainConfig(), **change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": DataConfig(image_size=99_999_999)}, "data.image_size is 99999999; pass a number of 1 to 4,096"),
        ({"data": DataConfig(image_size=4096), "sampler": SamplerConfig(64, 8)}, "512 images of 4,096 x 4,096 pixels"),
        ({"sampler": SamplerConfig(60_000, 2)}, "similarities of 120,000 x 120,000 images would take 58 GB"),
        (
            {"memory": MemoryConfig(size=2**24, start=1), "model": ModelConfig(dim=4096)},
            "a memory of 16,777,216 x 4,096",
        ),
        ({"loss": {"name": "soft_triple", "centers_per_class": 10**9}}, "loss.centers_per_class is 1000000000"),
    ],
)
def test_sizes_that_no_machine_can_hold_are_refused_before_memory_is_taken(
    change: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidInput, match=re.escape(said)):
        dataclasses.replace(TrainConfig(), **change)


ABOVE_ANY_NUMBER = {"optimizer.lr", "optimizer.gamma", "optimizer.clip_norm", "expansion.n"}  # the last: by the loss


@pytest.mark.parametrize("name", sorted(may_be_null().keys() - ABOVE_ANY_NUMBER))
def test_no_option_takes_a_number_of_thirty_digits(name: str) -> None:
    with pytest.raises((InvalidInput, jsonargparse.ArgumentError), match=re.escape(name)):
        from_namespace(parser().parse_string(as_yaml(name, "1" + 30 * "0")))


def as_yaml(name: str, value: str) -> str:
    section, _, last = name.rpartition(".")
    return f"{section}:\n  {last}: {value}\n" if section else f"{last}: {value}\n"


def test_the_plain_loss_and_the_class_pair_scope_take_an_odd_number_of_images() -> None:
    for expansion in (
        ExpansionConfig(n="none", scope="anchor"),
        ExpansionConfig(form="none"),
        ExpansionConfig(),
        ExpansionConfig(form="anchor", scope="negative"),
        ExpansionConfig(form="samples"),
    ):
        assert TrainConfig(sampler=SamplerConfig(4, 3), expansion=expansion).sampler.images_per_class == 3


def test_a_file_that_is_no_configuration_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml")
    odd = tmp_path / "odd.yaml"
    for content in (b"stepz: 3", b"steps: 0", b"[]", b"{", b"", b"expansion: wide", b"\x00\xff\xfe", b"\x00"):
        odd.write_bytes(content)
        with pytest.raises(RunError, match=r"odd\.yaml") as caught:
            load(odd)
        assert "stepz" in str(caught.value) or content != b"stepz: 3"


def test_a_form_is_what_it_says_and_scope_and_balance_override_it() -> None:
    assert (ExpansionConfig(n=2).resolved.form, ExpansionConfig(form="anchor").resolved.n) == (DEFAULT_FORM, DEFAULT_N)
    for given in (ExpansionConfig(n=0), ExpansionConfig(scope="anchor"), ExpansionConfig(balance=True)):
        assert not given.is_plain  # one of them turns the expansion on
    for name, form in FORMS.items():
        assert ExpansionConfig(form=name).search == form
        assert not ExpansionConfig(form=name).is_plain
        for scope in SCOPES:
            assert ExpansionConfig(form=name, scope=scope).search == dataclasses.replace(form, scope=scope)
        for balance in (False, True, "sphere"):
            changed = ExpansionConfig(form=name, balance=balance).search  # type: ignore[arg-type]
            assert changed == dataclasses.replace(form, balance=balance)  # type: ignore[arg-type]
    for plain in (
        ExpansionConfig(),
        ExpansionConfig(form="none"),
        ExpansionConfig(n="none"),
        ExpansionConfig(n="none", form="none"),
    ):
        assert plain.is_plain
        assert plain.search is None
    assert not ExpansionConfig(form="samples").is_plain
    assert ExpansionConfig(form="samples").search is None


def test_every_form_is_an_option_and_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for name in typing.get_args(FormName):
        for more in ([], ["--expansion.balance", "false"], ["--expansion.max_segments", "3"]):
            config = from_namespace(parser().parse_args(["--expansion.form", name, *more]))
            assert config.expansion.form == name
            path.write_text(dump(config), encoding="utf-8")
            assert load(path) == config
    given = {"true": True, "false": False, "sphere": "sphere"}
    for text, value in given.items():
        found = from_namespace(parser().parse_args(["--expansion.balance", text])).expansion.balance
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "search"),
    [
        ("expansion: {n: 2, scope: class_pair, normalize_synthetic: true}", FORMS["paper"]),
        ("expansion: {n: inf, scope: anchor, normalize_synthetic: false}", FORMS["anchor"]),
        ("expansion: {n: none, scope: class_pair, normalize_synthetic: true}", None),
        ("expansion: {n: none, scope: anchor}", None),
    ],
)
def test_a_file_older_than_the_forms_means_what_it_meant(
    text: str, search: Form | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    assert load(path).expansion.search == search
    # even when another form becomes the default
    monkeypatch.setattr("embedding_expansion.runs.options.DEFAULT_FORM", "balanced_negative")
    assert load(path).expansion.search == search
