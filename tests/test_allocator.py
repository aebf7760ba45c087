"""Freed memory is kept: the system does not have to clear the same pages again and again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from embedding_expansion.allocator import keep_freed_memory

print(keep_freed_memory() if sys.argv[1] == "kept" else False)
np.ones(2**23)  # 64 MiB, which is kept from now on
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(name: str) -> tuple[bool, int]:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, name], capture_output=True, text=True, check=True)
    was_set, faults = ran.stdout.split()
    return was_set == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_large_blocks_are_not_taken_from_the_system_again() -> None:
    was_set, faults = page_faults("kept")
    _, by_default = page_faults("default")
    assert was_set
    assert faults < by_default / 10
