"""Mutation testing: changes one place of a module at a time, and says which changes no test notices.

    pip install -e '.[test]' cosmic-ray
    OMP_NUM_THREADS=1 nice python .ci/mutation.py retrieval/duplicates.py --minutes 15

Cosmic Ray says what can be changed and how; its operators are the ones used here. Its runner starts Python and imports
torch for every change. This one imports the libraries once and forks a process for each change, which writes the
changed module into a copy of the package and runs the module's tests on it. Needs a Unix system.

At each place of a module one change is drawn, and besides every exchange of `<` with `<=` and of `>` with `>=`, because
boundaries are what tests miss most. Annotations and decorators are left alone. With `--minutes` the changes that fit
into that time are a random part of all.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "embedding_expansion"
#: The quick tests that a module answers to.
TESTS: dict[str, list[str]] = {
    "retrieval/duplicates.py": ["tests/retrieval/test_duplicates.py", "tests/retrieval/test_boundaries.py"],
    "retrieval/kmeans.py": ["tests/retrieval/test_clustering.py", "tests/retrieval/test_boundaries.py"],
    "retrieval/metrics.py": [
        "tests/retrieval/test_boundaries.py",
        "tests/retrieval/test_counting.py",
        "tests/retrieval/test_measures.py",
        "tests/retrieval/test_metrics.py",
    ],
    "retrieval/index/index.py": ["tests/retrieval/index/test_operations.py", "tests/retrieval/index/test_bad_input.py"],
    "retrieval/index/folder/store.py": [
        "tests/retrieval/index/test_folder.py",
        "tests/retrieval/index/test_operations.py",
        "tests/retrieval/index/test_read_only.py",
    ],
    "core/terms.py": [
        "tests/core/test_boundaries.py",
        "tests/core/test_ties.py",
        "tests/core/test_degenerate.py",
        "tests/core/test_losses.py",
        "tests/core/test_numbers.py",
    ],
    "core/pairs.py": [
        "tests/core/test_ties.py",
        "tests/core/test_pairs.py",
        "tests/core/test_past.py",
        "tests/core/test_selective.py",
        "tests/core/test_indices_tuple.py",
        "tests/core/test_numbers.py",
    ],
    "core/losses/*.py": [
        "tests/core/test_boundaries.py",
        "tests/core/test_losses.py",
        "tests/core/test_proxy_losses.py",
        "tests/core/test_numbers.py",
    ],
}
LEFT_ALONE = ("RemoveDecorator", "VariableReplacer", "VariableInserter")
BOUNDARIES = ("_Lt_LtE", "_LtE_Lt", "_Gt_GtE", "_GtE_Gt")
LIBRARIES = (  # but no plugin of pytest
    "torch",
    "torch._dynamo",
    "numpy",
    "scipy.sparse.csgraph",
    "sklearn.cluster",
    "sklearn.metrics",
)


@dataclass(frozen=True)
class Mutant:
    """A module with one place changed."""

    line: int
    operator: str
    code: str


def mutants(module: Path, draw: random.Random) -> list[Mutant]:
    """One change for each place of a module and every exchange at a boundary, in random order."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = module.read_text()
    tree, annotations = get_ast(source), list(_annotations(source))
    places: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name in operator_names():
        if name.endswith(LEFT_ALONE):
            continue
        operator = get_operator(name)()
        found = (start for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node))
        for occurrence, start in enumerate(found):
            if not any(low <= start < high for low, high in annotations):
                places.setdefault(start, []).append((name, occurrence))
    chosen = []
    for start, changes in sorted(places.items()):
        drawn = {change for change in changes if change[0].endswith(BOUNDARIES)} | {draw.choice(changes)}
        chosen += [(start[0], *change) for change in sorted(drawn)]
    draw.shuffle(chosen)
    made = [(line, name, mutate_code(source, get_operator(name)(), at)) for line, name, at in chosen]
    return [Mutant(line, name, code) for line, name, code in made if code is not None and code != source]


def _annotations(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations begin and end: nothing reads them when the program runs but the checks of the tests."""
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            part = getattr(node, name, None)
            if part is not None:
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def passes(copy: Path, tests: Sequence[str], log: Path, limit: float) -> bool:
    """Whether the tests pass on a copy of the package, in a process that is forked and has `limit` seconds of CPU."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit) + 1))
        _run_tests(copy, tests, log)
    end = time.monotonic() + 60 + 5 * limit  # of a process that waits for ever, or a machine with others on it
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_tests(copy: Path, tests: Sequence[str], log: Path) -> None:
    import pytest

    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(ROOT)
        sys.path.insert(0, str(copy))
        os.environ["PYTHONPATH"] = str(copy)
        # Without the checks of types by jaxtyping, which take most of the time of the quick tests.
        code = pytest.main(["-q", "-x", "-o", "addopts=", "-p", "no:cacheprovider", *tests])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code))


def survivors(module: Path, tests: Sequence[str], options: argparse.Namespace) -> None:
    """Runs the tests on one mutant after another until the time is over; prints those that survive."""
    source, killed, lived, seconds = module.read_text(), 0, 0, 60 * options.minutes
    with tempfile.TemporaryDirectory() as scratch:
        copy, log = Path(scratch) / "src", Path(scratch) / "log"
        shutil.copytree(PACKAGE, copy / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        changed = copy / module.relative_to(PACKAGE.parent)
        if not passes(copy, tests, log, 600):
            sys.exit(f"the tests of {module.name} fail without a change:\n{log.read_text()[-3000:]}")
        sys.dont_write_bytecode = True  # what was compiled just now stays, and no mutant's code is kept
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        every = [
            mutant
            for mutant in mutants(module, random.Random(options.seed))
            if not options.lines or mutant.line in options.lines
        ]
        begun = time.monotonic()
        for mutant in every:
            if time.monotonic() - begun > seconds:
                break
            changed.write_text(mutant.code)
            if passes(copy, tests, log, 3 + 3 * (used.ru_utime + used.ru_stime)):
                lived += 1
                print(f"{module.relative_to(PACKAGE)}:{mutant.line} {mutant.operator.removeprefix('core/')}")
                for line in difflib.unified_diff(source.splitlines(), mutant.code.splitlines(), n=0, lineterm=""):
                    if line[:1] in "+-" and line[:3] not in ("+++", "---"):
                        print(f"    {line}")
            else:
                killed += 1
            sys.stdout.flush()
    print(f"{module.relative_to(PACKAGE)}: {killed} of {killed + lived} killed, of {len(every)} drawn", flush=True)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", default=list(TESTS), help="such as retrieval/kmeans.py; default: all")
    parser.add_argument("--minutes", type=float, default=60.0, help="for each module (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--lines", nargs="+", type=int, default=[], help="only changes in these; default: all")
    options = parser.parse_args()
    for library in LIBRARIES:
        __import__(library)
    for name in options.modules:
        for module in sorted(PACKAGE.glob(name)):
            tests = next(tests for pattern, tests in TESTS.items() if module.relative_to(PACKAGE).match(pattern))
            found = [test for test in tests if (ROOT / test).exists()]
            survivors(module, found, options)


if __name__ == "__main__":
    main()
