"""What every test shares: fixed seeds, the profiles of hypothesis, the order, and the folder of real data."""

from __future__ import annotations

import ast
import functools
import os
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings

COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
# The same few cases every time, so that a change is to blame where a test fails.
settings.register_profile("stable", max_examples=5, derandomize=True, database=None, **COMMON)
# New cases each time, and the failing ones kept in .hypothesis/: HYPOTHESIS_PROFILE=long, on a schedule.
settings.register_profile("long", max_examples=200, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "stable"))


def parse_one_at_a_time() -> None:
    """Makes `ast.parse` wait for its turn.

    pytest, jaxtyping and hypothesis parse what they import or draw, in a server's threads as well. CPython 3.11 counts
    the depth of a syntax tree once for all threads, and fails with "recursion depth mismatch" where two of them parse.
    """
    parse, turn = ast.parse, threading.RLock()

    @functools.wraps(parse)
    def parse_in_turn(*args: Any, **named: Any) -> ast.AST:
        with turn:
            return parse(*args, **named)

    ast.parse = parse_in_turn


parse_one_at_a_time()


#: The files that take long, the longest first: in parallel they start first, or one worker would end alone with them.
LONG = (
    "test_compile.py",
    "test_benchmarks.py",
    "test_ranks.py",
    "test_failures.py",
    "test_search_limits.py",
    "test_resume.py",
    "test_native.py",
    "test_command.py",
    "test_tutorial.py",
    "test_calls.py",
    "test_outputs.py",
    "test_distributed.py",
    "test_drawings.py",
    "test_read_only_commands.py",
    "test_site.py",
)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist: files with many tests first, if it is true
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not hasattr(config, "workerinput"):  # in one process the order does not matter
        return
    count = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[int, int, str]:
        name = item.path.name
        return LONG.index(name) if name in LONG else len(LONG), -count[item.path], str(item.path)

    items.sort(key=place)


jaxtyping.config.update("jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def checked_types(request: pytest.FixtureRequest) -> Iterator[None]:
    """Has jaxtyping check the shapes and types of all calls: in each test, and in a quarter of a test's many cases.

    The checks take longer than what they check; fixtures go without them. The scheduled profile checks all cases.
    """
    is_one_of_many = hasattr(request.node, "callspec") and os.environ.get("HYPOTHESIS_PROFILE") != "long"
    jaxtyping.config.update("jaxtyping_disable", is_one_of_many and zlib.crc32(request.node.nodeid.encode()) % 4 != 0)
    yield
    jaxtyping.config.update("jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.default_generator.manual_seed(0)  # as torch.manual_seed, which takes 2 ms to look for other devices


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; a test that asks for it is skipped only where the variable is not set."""
    given = os.environ.get("EMBEX_REAL_DATA")
    if not given:
        pytest.skip("EMBEX_REAL_DATA is not set: no folder of real data to test on")
    return Path(given).resolve(strict=True)
