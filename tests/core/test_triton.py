"""The search in Triton: against the other forms in Triton's interpreter, and compiled for a GPU that is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from embedding_expansion.core.search import native, table, triton

ROOT = Path(__file__).parents[2]
pytest.importorskip("triton", reason="torch's builds for Linux bring Triton")


def ran(*command: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.skipif(not native.available(), reason="there is no native kernel to compare with")
def test_the_three_forms_find_the_same() -> None:
    ran(
        "-m",
        "pytest",
        "-q",
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        "-W",  # of the interpreter of Triton 3.4
        "ignore:Conversion of an array with ndim:DeprecationWarning",
        "tests/core/triton_checks.py",
        TRITON_INTERPRET="1",
    )


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from embedding_expansion.core.search.triton import _kernels

numbers = ("stride", "n", "right_count")
types = {"left_member": "*i64", "left_label": "*i64", "right_label": "*i64", "ends": "*i32", "barred": "*i1"}
types |= {name: "*i32" for name in ("left_segment", "right_segment", "left_table", "right_table")}
constants = dict(SYMMETRIC=False, NORMALIZE=True, EUCLIDEAN=True, BARRED=True, NEVER=-1e30, SMALLEST=1e-4, LEAST=1e-6)
constants |= dict(POINTS=4, GROUPS=32)
for name in ("search_points", "search_backward"):
    kernel = _kernels()[name]
    given = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature = {
        key: "constexpr" if key in given else "i32" if key in numbers else types.get(key, "*fp32")
        for key in kernel.arg_names
    }
    options = {"num_warps": 4, "enable_fp_fusion": True}
    source = ASTSource(kernel, signature, constexprs=given)
    print(name, len(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]) > 1000)
"""


def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """The interpreter accepts more than Triton's compiler does. That of n = infinity takes it a minute."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        pytest.skip("the interface of Triton's compiler is that of the version that torch 2.13 and later bring")
    assert ran("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path)).count("True") == 2


def test_a_variable_turns_it_off() -> None:
    code = "import torch; from embedding_expansion.core.search.triton import available; "
    code += "print(available(torch.device('cuda')))"
    assert ran("-c", code, EMBEX_TRITON="0").strip() == "False"
    assert ran("-c", code).strip() == "True"


def test_on_the_cpu_other_forms_serve() -> None:
    assert not triton.available(torch.device("cpu"))
    assert table.limit(torch.device("cpu")) == table.LIMIT


@pytest.mark.parametrize(("points", "groups"), [(1, 1), (4, 512), (16, 3), (64, 128), (5000, 32)])
def test_a_program_is_bounded(points: int, groups: int) -> None:
    found = triton.blocks(points, groups)
    assert found.points * found.groups <= triton.TILE
    for size in found[:2]:
        assert size & (size - 1) == 0
