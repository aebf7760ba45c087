"""Where the search could go wrong in numbers or in size: rounding, large rows, large classes."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import normalize

from embedding_expansion.core.expansion import expand
from embedding_expansion.core.search import native

from .test_search import both_are_there, torch_search

__all__ = ["both_are_there"]  # a fixture of every test here

TESTS = [
    "test_search.py::test_in_a_larger_batch_pruning_loses_nothing",
    "test_search.py::test_single_precision_differs_by_rounding",
    "test_search_lanes.py::test_single_precision_in_lanes",
    "test_search_limits.py::test_in_single_precision_no_cosine_is_above_1",
    "test_search_limits.py::test_large_rows_do_not_overflow_in_single_precision",
]


@pytest.mark.parametrize("metric", ["inner", "euclidean"])
@pytest.mark.parametrize("form", ["native", "torch"])
def test_in_single_precision_no_cosine_is_above_1(form: str, metric: str) -> None:
    search = expand if form == "native" else torch_search
    labels = torch.arange(6).repeat_interleave(4)
    for seed in range(12):  # in a plane the arcs of two classes meet often, and opposite ends are common
        E = normalize(torch.randn(24, 2, generator=torch.Generator().manual_seed(seed)), dim=1)
        for n in (2, 50, math.inf):
            pairs = search(E, labels, n, metric=metric)
            assert pairs.negative[pairs.negative_mask].max() <= 1 + 2e-7  # unit rows are of norm 1 to 1e-7


@pytest.mark.parametrize("scale", [1.0, 1e9, 1e11])
@pytest.mark.parametrize(("form", "n"), [("native", 2), ("torch", 2), ("torch", math.inf)])
def test_large_rows_do_not_overflow_in_single_precision(form: str, n: float, scale: float) -> None:
    search = expand if form == "native" else torch_search
    generator = torch.Generator().manual_seed(0)
    for k, classes in ((3, 20), (12, 4)):
        labels = torch.arange(classes).repeat_interleave(k)
        E = torch.randn(len(labels), 16, generator=generator, dtype=torch.float64)
        exact = torch_search(E * scale, labels, n, normalize_synthetic=False)
        single = search((E * scale).float(), labels, n, normalize_synthetic=False)
        mask = exact.negative_mask
        torch.testing.assert_close(
            single.negative[mask].double(), exact.negative[mask], rtol=1e-5, atol=1e-6 * scale**2
        )


def peak_of(code: str) -> float:
    """How many MB the peak of a process rises by, on one thread, as `code` runs `work()` the second time, larger."""
    lines = [
        "import torch",
        "from torch.nn.functional import normalize",
        "from embedding_expansion import expand",
        "torch.set_num_threads(1)",
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024",
        code,
        "work(4)",
        "before = peak()",
        "work(1)",
        "print(peak() - before)",
    ]
    ran = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return float(ran.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_points() -> None:
    one_class = """def work(part):
    expand(normalize(torch.randn(512 // part, 8), dim=1), torch.zeros(512 // part).long(), {n})"""
    few, many = (peak_of(one_class.format(n=n)) for n in (8, 100))
    assert many < few + 6 * 512 * 512 * 4 / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_two_large_classes_ask_for_no_room_to_search_in_lanes() -> None:
    code = """import resource, torch
from embedding_expansion import expand
torch.set_num_threads(1)
E, labels = torch.randn(8000, 4), torch.arange(8000) // 4000
expand(E[::40], labels[::40], 2, max_segments=2)
used = int(open('/proc/self/statm').read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + MOST,) * 2)
expand(E, labels, 2, max_segments=2, rows=torch.arange(4000))
"""
    ran = subprocess.run([sys.executable, "-c", code.replace("MOST", "1_250_000_000")], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("chosen", list(native.INSTRUCTION_SETS))
def test_every_instruction_set_that_the_machine_has_finds_the_same(chosen: str) -> None:
    library = native.library()
    if library is None or list(native.INSTRUCTION_SETS).index(chosen) > library.instruction_set():
        pytest.skip(f"this machine has no {native.INSTRUCTION_SETS[chosen]}")
    environment = os.environ | {"EMBEX_INSTRUCTIONS": chosen, "OMP_NUM_THREADS": "1"}
    # One process, as the libraries take seconds to import: it runs the tests, then says on what.
    code = """import sys, pytest
status = pytest.main(sys.argv[1:])
from embedding_expansion.core.search import native
print(native.describe())
sys.exit(status)"""
    # By their names, so that one that is renamed or gone makes pytest fail.
    command = [sys.executable, "-c", code, "-q", "-o", "addopts=", *(f"tests/core/{test}" for test in TESTS)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert ran.stdout.endswith(f"\nnative ({native.INSTRUCTION_SETS[chosen]})\n")


def test_an_instruction_set_that_there_is_not_is_refused() -> None:
    code = "from embedding_expansion.core.search import native; native.library()"
    environment = os.environ | {"EMBEX_INSTRUCTIONS": "neon"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "there is no EMBEX_INSTRUCTIONS named 'neon'" in ran.stderr
