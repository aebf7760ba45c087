"""A name that does not exist is answered at once, without torch, and with the sentence of the registry."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import pytest
import timm
import torchvision

from embedding_expansion.app.names import check_names, loss_parameters, method_parameters
from embedding_expansion.core.losses import PROXY_LOSSES
from embedding_expansion.data.datasets import DATASETS, open_dataset
from embedding_expansion.data.sources import SOURCES
from embedding_expansion.data.transforms import train_transform
from embedding_expansion.errors import UnknownName
from embedding_expansion.generation import METHODS
from embedding_expansion.methods import METHODS as TAKES
from embedding_expansion.methods import PROXIES
from embedding_expansion.model.backbone_names import backbone_names, check_backbone_name
from embedding_expansion.model.backbones import build_backbone
from embedding_expansion.runs import options
from embedding_expansion.runs.options import DataConfig, MinerConfig, ModelConfig, TrainConfig
from embedding_expansion.training.factory import BY_NAME, MINERS, make_loss

WRONG = {
    "loss": TrainConfig(loss={"name": "tripet"}),
    "parameter": TrainConfig(loss={"name": "triplet", "margn": 0.1}),
    "size": TrainConfig(loss={"name": "proxy_anchor", "num_classes": 3}),
    "miner": TrainConfig(miner=MinerConfig("batch_hrd")),
}


def test_losses_and_parameters_are_those_of_the_registry() -> None:
    registered = {
        name: {
            key
            for key, parameter in inspect.signature(loss).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD and key not in ("num_classes", "embedding_size")
        }
        for name, loss in BY_NAME.items()
    }
    assert {name: set(parameters) for name, parameters in loss_parameters().items()} == registered


def test_methods_and_parameters_are_those_of_the_registry() -> None:
    of_the_run = {"loss", "head", "width", "num_classes", "embedding_size", "batch_size"}
    registered = {name: inspect.signature(method).parameters.keys() - of_the_run for name, method in METHODS.items()}
    assert {name: set(parameters) for name, parameters in method_parameters().items()} == registered
    assert set(PROXIES) < PROXY_LOSSES.keys()
    assert not any(TAKES["das"].accepts(name) for name in PROXY_LOSSES)


def test_miners_and_data_sets_are_those_of_the_registries() -> None:
    assert set(options.MINERS) == MINERS.keys()
    assert SOURCES.keys() == DATASETS.keys()


@pytest.mark.parametrize("config", WRONG.values(), ids=WRONG.keys())
def test_the_sentence_is_that_of_the_registry(config: TrainConfig) -> None:
    with pytest.raises(UnknownName) as early:
        check_names(config)
    with pytest.raises(UnknownName) as late:
        make_loss(config, 10)
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize("name", ["resnt50", "timm/resnt50", "timm/resnt50.a1_in1k", "timm/", "x", "tim/resnet50"])
def test_the_sentence_on_a_backbone_is_that_of_making_it(name: str) -> None:
    with pytest.raises(UnknownName) as early:
        check_names(TrainConfig(model=ModelConfig(name)))
    with pytest.raises(UnknownName) as late:
        build_backbone(name)
    assert str(early.value) == str(late.value)


def test_the_names_of_backbones_are_those_of_the_libraries() -> None:
    assert sorted(backbone_names("torchvision")) == sorted(torchvision.models.list_models(module=torchvision.models))
    assert sorted(backbone_names("timm")) == sorted(timm.list_models())
    for name in ("conv4", "mlp", "resnet50", "timm/resnet50", "timm/resnet50.a1_in1k"):
        check_backbone_name(name)


def test_a_library_that_is_not_installed_is_left_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedding_expansion.model.backbone_names.find_spec", lambda name: None)
    assert backbone_names("timm") == []
    check_backbone_name("timm/resnt50")


def test_the_sentence_on_data_is_that_of_opening_it() -> None:
    with pytest.raises(UnknownName) as early:
        check_names(TrainConfig(data=DataConfig("glyhps")))
    with pytest.raises(UnknownName) as late:
        open_dataset("glyhps")
    assert str(early.value) == str(late.value)
    with pytest.raises(UnknownName) as early:
        check_names(TrainConfig(data=DataConfig(transform="papre")))
    with pytest.raises(UnknownName) as late:
        train_transform(32, "papre")
    assert str(early.value) == str(late.value)


@pytest.mark.parametrize("name", ["glyphs", "photos/of/mine", "vectors.npz", "."])
def test_what_may_exist_passes(name: str) -> None:
    given = dataclasses.replace(TrainConfig(), data=DataConfig(name, transform="paper"))
    check_names(given)


TYPED = """
import sys
from embedding_expansion.app.cli import main
for line in sys.stdin:
    print(main(line.split()), flush=True)
    loaded = [name for name in ("torch", "torchvision", "timm", "sklearn", "optuna") if name in sys.modules]
    print(*loaded, file=sys.stderr)
"""
MISTYPED = (
    "train --loss tripet",
    "train --method damll",
    "train --method daml --method.hiden 8",
    "train --loss.margn 0.1",
    "train --miner batch_hrd",
    "train --data glyhps",
    "train --expansion.form balnced",
    "tune --arms papre",
    "tune --loss tripet",
    "train --model resnt50",
    "train --model timm/resnt50",
    "tune --model resnt50",
    "evaluate resnt50",
    "index timm/resnt50 . --out x",
    "reproduce evidence --only glyhps",
    "trian",
)


def test_a_typing_error_is_answered_without_torch() -> None:
    """In one process, which none of the commands may load torch into."""
    lines = "\n".join(MISTYPED)
    found = subprocess.run([sys.executable, "-c", TYPED], input=lines, capture_output=True, text=True)
    assert found.stdout.split() == ["2"] * len(MISTYPED)
    answers = found.stderr.splitlines()
    assert answers[1::2] == [""] * len(MISTYPED)
    assert all(sentence.startswith("embex: ") for sentence in answers[::2])
