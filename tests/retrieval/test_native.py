"""The kernels of retrieval for every instruction set that the machine has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from embedding_expansion.core.compiled import INSTRUCTION_SETS
from embedding_expansion.retrieval import native

TESTS = [
    "test_counting.py::test_ranks_of_leave_one_out_are_those_of_a_sort",
    "test_counting.py::test_ranks_in_a_gallery_of_its_own_are_those_of_a_sort",
    "test_counting.py::test_ranks_between_masks_are_those_of_a_sort",
    "test_centers.py::test_every_row_goes_to_the_center_that_is_nearest_in_double_precision",
    "test_rerank_diffusion.py::test_the_solver_in_c_walks_as_the_one_without",
]


@pytest.mark.parametrize("chosen", list(INSTRUCTION_SETS))
def test_every_instruction_set_that_the_machine_has_finds_the_same(chosen: str) -> None:
    library, number = native.library(), list(INSTRUCTION_SETS).index(chosen)
    if library is None or number > library.instruction_set():
        pytest.skip(f"this machine has no {INSTRUCTION_SETS[chosen]}")
    environment = os.environ | {"EMBEX_INSTRUCTIONS": chosen, "OMP_NUM_THREADS": "1"}
    # One process, as the libraries take seconds to import: it runs the tests, then says on what.
    code = """import sys, pytest
status = pytest.main(sys.argv[1:])
from embedding_expansion.retrieval import native
print(native.library().instruction_set())
sys.exit(status)"""
    # By their names, so that one that is renamed or gone makes pytest fail.
    command = [sys.executable, "-c", code, "-q", "-o", "addopts=", *(f"tests/retrieval/{test}" for test in TESTS)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert ran.stdout.endswith(f"\n{number}\n")


def test_measures_are_the_same_where_onednn_is_held_to_older_instructions() -> None:
    program = (
        "import torch; from embedding_expansion import retrieval_metrics\n"
        "rows = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))\n"
        "print(retrieval_metrics(rows, torch.arange(300) // 6, ks=(1, 8)))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **held}, capture_output=True, text=True, check=True
        ).stdout
        for held in ({}, {"ONEDNN_MAX_CPU_ISA": "SSE41"}, {"EMBEX_NATIVE": "0"})
    ]
    assert said[0] == said[1] == said[2]
