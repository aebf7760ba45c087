"""The numbers that a configuration may hold: at each end of a range, and just beyond it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from embedding_expansion.data.images import ImageSet
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.runs.options import (
    MOST_BYTES,
    MOST_PARTS,
    RANGES,
    DataConfig,
    ExpansionConfig,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    SamplerConfig,
    TrainConfig,
)
from embedding_expansion.training.evaluation import hold_out_classes


def with_option(name: str, value: Any) -> TrainConfig:
    """The default configuration with one option changed, and with what this one cannot do without."""
    section, _, field = name.rpartition(".")
    plain = TrainConfig(steps=10**9, sampler=SamplerConfig(1, 1), expansion=ExpansionConfig(n="none"))
    plain = dataclasses.replace(plain, memory=MemoryConfig(size=2), model=ModelConfig(dim=1))
    if not section:
        return dataclasses.replace(plain, **{field: value})
    return dataclasses.replace(plain, **{section: dataclasses.replace(getattr(plain, section), **{field: value})})


def fits(name: str, value: Any) -> bool:
    """Whether the range of this option allows a value; other sentences, of what is too large together, do not count."""
    try:
        with_option(name, value)
    except InvalidInput as error:
        return not str(error).startswith(f"{name} is {value}; pass a number of ")
    return True


@pytest.mark.parametrize("name", RANGES)
def test_each_end_of_a_range_is_allowed_and_what_is_beyond_it_is_not(name: str) -> None:
    low, high = RANGES[name]
    beyond = low - 1, high + 1
    if name in REAL:
        low, high = float(low), float(high)
        beyond = math.nextafter(low, -math.inf), math.nextafter(high, math.inf)
    assert [fits(name, value) for value in (beyond[0], low, high, beyond[1])] == [False, True, True, False]


REAL = {"miner.epsilon", "optimizer.weight_decay", "optimizer.backbone_lr_factor", "optimizer.loss_lr_factor"}


@pytest.mark.parametrize("name", ["ema", "validation_share"])
def test_a_share_lies_between_0_and_1_without_them(name: str) -> None:
    for value in (5e-324, math.nextafter(1, 0)):
        dataclasses.replace(TrainConfig(), **{name: value})
    for value in (0.0, 1.0):
        with pytest.raises(InvalidInput, match=f"{name} is {value}"):
            dataclasses.replace(TrainConfig(), **{name: value})


@pytest.mark.parametrize("name", ["lr", "gamma", "clip_norm"])
def test_a_rate_is_above_0_and_finite(name: str) -> None:
    for value in (5e-324, 1.7e308):
        OptimizerConfig(**{name: value})
        dataclasses.replace(TrainConfig(), optimizer=OptimizerConfig(**{name: value}))
    for value in (0.0, math.inf):
        with pytest.raises(InvalidInput, match=f"optimizer.{name} is {value}"):
            dataclasses.replace(TrainConfig(), optimizer=OptimizerConfig(**{name: value}))


def test_a_whole_number_of_a_loss_is_at_most_ten_thousand() -> None:
    loss = {"name": "histogram"}
    for bins in (MOST_PARTS, -MOST_PARTS):
        dataclasses.replace(TrainConfig(), loss={**loss, "bins": bins})
    for bins in (MOST_PARTS + 1, -MOST_PARTS - 1):
        with pytest.raises(InvalidInput, match="at most 10,000"):
            dataclasses.replace(TrainConfig(), loss={**loss, "bins": bins})
    assert MOST_PARTS == 10_000


def test_the_memory_starts_before_the_last_step() -> None:
    memory = MemoryConfig(size=8, start=9)
    dataclasses.replace(TrainConfig(), steps=10, memory=memory)
    with pytest.raises(InvalidInput, match=r"memory\.start is 9, but there are 9 steps"):
        dataclasses.replace(TrainConfig(), steps=9, memory=memory)


def test_just_ten_gigabytes_are_allowed() -> None:
    # The similarities of 50,000 anchors and as many images: 4 bytes each, 10 GB.
    dataclasses.replace(TrainConfig(), sampler=SamplerConfig(25_000, 2), data=DataConfig(image_size=8))
    with pytest.raises(InvalidInput, match="similarities of 50,002 x 50,002 images would take 10 GB"):
        dataclasses.replace(TrainConfig(), sampler=SamplerConfig(25_001, 2), data=DataConfig(image_size=8))
    # A memory of 2,500,000 x 1,000 numbers of 4 bytes.
    one = {"sampler": SamplerConfig(1, 2), "model": ModelConfig(dim=1000)}
    dataclasses.replace(TrainConfig(), memory=MemoryConfig(size=2_500_000), **one)
    with pytest.raises(InvalidInput, match="a memory of 2,500,002 x 1,000"):
        dataclasses.replace(TrainConfig(), memory=MemoryConfig(size=2_500_002), **one)
    assert MOST_BYTES == 10**10


def classes(count: int) -> ImageSet:
    labels = np.repeat(np.arange(count), 3)
    return ImageSet(labels, tuple(map(str, range(count))), pixels=np.zeros((len(labels), 3, 1, 1), np.uint8))


@pytest.mark.parametrize("share", [1e-9, 0.5, 1 - 1e-9])
def test_from_four_classes_on_at_least_two_train_and_two_select(share: float) -> None:
    trained, held = hold_out_classes(classes(4), share, 0)
    assert (len(trained.classes), len(held.classes)) == (2, 2)
    trained, held = hold_out_classes(classes(5), share, 0)
    assert min(len(trained.classes), len(held.classes)) == 2
    with pytest.raises(DataError, match="3 classes"):
        hold_out_classes(classes(3), share, 0)
