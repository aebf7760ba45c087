"""What every test shares: fixed seeds, the profiles of hypothesis, and the folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

COMMON = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
# The same few cases every time, so that a change is to blame where a test fails.
settings.register_profile("stable", max_examples=8, derandomize=True, database=None, **COMMON)
# New cases each time, and the failing ones kept in .hypothesis/: HYPOTHESIS_PROFILE=long, on a schedule.
settings.register_profile("long", max_examples=200, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "stable"))


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
