"""Numbers and names as users pass them: the same values are taken and refused, whoever asks."""

from __future__ import annotations

import math
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from embedding_expansion.checks import (
    as_limit,
    as_number,
    as_share,
    as_whole,
    as_wholes,
    check_name,
    shown,
    whole_number,
)
from embedding_expansion.errors import InvalidInput, InvalidType, UnknownName


class Indexed:
    """What says of itself that it is a whole number."""

    def __index__(self) -> int:
        return 3


WHOLE = {
    "int": 3,
    "NumPy": np.int64(3),
    "NumPy, unsigned": np.uint8(3),
    "an array without dimensions": np.array(3),
    "torch": torch.tensor(3),
    "torch, 8 bits": torch.tensor(3, dtype=torch.uint8),
    "__index__": Indexed(),
}
NOT_WHOLE = {
    "True": True,
    "NumPy's True": np.True_,
    "an array of True": np.array(True),
    "torch's True": torch.tensor(True),
    "2.0": 2.0,
    "NumPy's 2.0": np.float64(2),
    "torch's 2.0": torch.tensor(2.0),
    "NaN": math.nan,
    "infinity": math.inf,
    "text": "3",
    "bytes": b"3",
    "None": None,
    "a list": [3],
    "an array of one": np.array([3]),
    "a tensor of one": torch.tensor([3]),
    "a tensor without values": torch.tensor(3, device="meta"),
    "a fraction": Fraction(3),
    "a decimal": Decimal(3),
    "complex": 3 + 0j,
    "a type": int,
}


@pytest.mark.parametrize("value", WHOLE.values(), ids=WHOLE)
def test_a_whole_number_of_any_library_is_pythons_own_afterwards(value: Any) -> None:
    for found in (whole_number(value), as_whole(value, "k", least=1, most=3), as_limit(value, "k")):
        assert type(found) is int
        assert found == 3
    assert as_wholes([value, 1], "ks") == (3, 1)


@pytest.mark.parametrize("value", NOT_WHOLE.values(), ids=NOT_WHOLE)
def test_what_is_not_a_whole_number_is_refused_in_one_sentence(value: Any) -> None:
    assert whole_number(value) is None
    with pytest.raises(InvalidType) as refused:
        as_whole(value, "k", least=1)
    sentence = str(refused.value)
    assert sentence == f"k is {shown(value)}; pass a whole number of at least 1"
    assert "\n" not in sentence
    with pytest.raises(InvalidType, match=r"^ks holds .*; pass whole numbers of at least 1, such as"):
        as_wholes([1, value], "ks", least=1)


def test_a_whole_number_out_of_its_range_is_refused() -> None:
    for value, bounds, wanted in (
        (0, {"least": 1}, "of at least 1"),
        (-1, {"least": 0}, "of at least 0"),
        (16_385, {"least": 1, "most": 16_384}, "from 1 to 16,384"),
        (5, {"most": 4}, "of at most 4"),
        (10**30, {"most": 2**31}, "of at most 2,147,483,648"),
    ):
        with pytest.raises(InvalidInput) as refused:
            as_whole(value, "size", **bounds)
        assert str(refused.value) == f"size is {value}; pass a whole number {wanted}"
    assert [as_whole(value, "size", least=1, most=4) for value in (1, 4)] == [1, 4]
    assert as_whole(-(10**30), "label") == -(10**30)


def test_a_limit_may_be_none_and_says_so() -> None:
    assert as_limit(None, "chunk") is None
    with pytest.raises(InvalidInput, match=r"^chunk is 0; pass a whole number of at least 1, or None$"):
        as_limit(0, "chunk")
    with pytest.raises(InvalidType, match=r"^chunk is 2\.0; pass a whole number of at least 1, or None$"):
        as_limit(2.0, "chunk")


def test_several_whole_numbers_may_come_in_any_sequence() -> None:
    for given in ([1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2]), range(1, 3), iter([1, 2]), {1: "a", 2: "b"}):
        assert as_wholes(given, "ks", least=1) == (1, 2)
    assert as_wholes((), "ks") == ()
    for given in ("12", b"12", 3, None, np.array(3), torch.tensor(3), math.nan):
        with pytest.raises(InvalidType, match=r"^ks is .*; pass whole numbers, such as \(1, 2, 4\)$"):
            as_wholes(given, "ks")
    with pytest.raises(InvalidInput, match=r"^ks holds 0; pass whole numbers of at least 1, such as"):
        as_wholes([4, 0], "ks", least=1)


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)], ids=lambda v: type(v).__name__
)
def test_a_number_of_any_library_is_a_float_afterwards(value: Any) -> None:
    found = as_number(value, "alpha", 0, 1)
    assert type(found) is float
    assert found == 0.5


def test_a_number_is_finite_and_within_its_range() -> None:
    assert [as_number(value, "alpha", 0, 1) for value in (0, 1)] == [0.0, 1.0]
    for value in (math.nan, math.inf, -math.inf, 10**400, -0.001):
        with pytest.raises(InvalidInput, match=r"^alpha is .*; pass a finite number of at least 0$"):
            as_number(value, "alpha", 0)
    for value in (True, np.True_, torch.tensor(True), "0.5", None, 1j, [0.5], np.array([0.5]), Decimal(1)):
        with pytest.raises(InvalidType, match=r"^alpha is .*; pass a finite number$"):
            as_number(value, "alpha")
    with pytest.raises(InvalidInput, match=r"^similarity is 2; pass a cosine from -1 to 1$"):
        as_number(2, "similarity", -1, 1, what="cosine")
    with pytest.raises(InvalidInput, match=r"^far is 1\.5; pass a share from 0 to 1$"):
        as_share(1.5, "far")


def test_a_name_is_one_of_those_known_and_the_nearest_is_said() -> None:
    check_name("linkage", "single", ("average", "single"))
    for given in ("singel", ["single"], None, 3):
        with pytest.raises(UnknownName, match="there is no linkage named"):
            check_name("linkage", given, ("average", "single"))
    with pytest.raises(UnknownName, match="did you mean 'single'"):
        check_name("linkage", "singel", iter(("average", "single")))


def test_a_value_in_a_sentence_is_short_and_in_one_line() -> None:
    assert shown("k") == "'k'"
    assert shown(np.float64(2)) == "2.0"
    assert shown(torch.zeros(1000, 7)) == "a Tensor of shape (1000, 7)"
    assert shown(np.zeros((2, 3))) == "a ndarray of shape (2, 3)"
    assert len(shown("x" * 10_000)) == 80

    class Lines:
        def __repr__(self) -> str:
            return "first\nsecond"

    assert shown(Lines()) == "first second"


def test_the_checks_load_nothing_heavy() -> None:
    program = "import embedding_expansion.checks, sys; print(bool({'numpy', 'torch'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "False"
