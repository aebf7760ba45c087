"""What every test shares: fixed seeds, few and repeatable hypothesis examples, and the way to the real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "stable",
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("stable")


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; a test that asks for it is skipped only where the variable is not set."""
    given = os.environ.get("EMBEX_REAL_DATA")
    if not given:
        pytest.skip("EMBEX_REAL_DATA is not set: no folder of real data to test on")
    return Path(given).resolve(strict=True)
