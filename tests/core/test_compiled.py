"""The C libraries and the Python code agree on the constants that both have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import embedding_expansion
from embedding_expansion.core import compiled
from embedding_expansion.core.search import native as search
from embedding_expansion.errors import ResourceError
from embedding_expansion.retrieval import native as measures

PACKAGE = Path(embedding_expansion.__file__).parent
SHARED = [(search, "NEVER"), (measures, "STEP"), (measures, "MOST_RELEVANT"), (measures, "WALKS")]


@pytest.fixture(autouse=True)
def libraries_are_there() -> None:
    if search.library() is None or measures.library() is None:
        pytest.skip("the package was installed without its C libraries, or EMBEX_NATIVE is 0")


@pytest.mark.parametrize(("module", "name"), SHARED, ids=[name for _, name in SHARED])
def test_a_constant_that_differs_is_an_error_at_load(module: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = 2 * getattr(module, name)
    module.library.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, raised)
        with pytest.raises(ResourceError, match=rf"library _\w+ has {name} = .*, but its Python code has .*; make "):
            module.library()
    assert module.library() is not None


def test_another_number_of_instruction_sets_is_an_error_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    search.library.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "INSTRUCTION_SETS", {**compiled.INSTRUCTION_SETS, "avx1024": "AVX-1024"})
        with pytest.raises(ResourceError, match="INSTRUCTION_SETS = 3, but its Python code has 4"):
            search.library()
    assert search.library() is not None


@pytest.mark.parametrize(
    ("room", "also"), [("core/search", "core/compiled.py"), ("retrieval", "retrieval/quantization.py")]
)
def test_every_constant_of_both_languages_is_compared(room: str, also: str) -> None:
    """A constant of the same name in the Python code that uses a library is exported by the C code, and compared."""
    in_c = "".join(read(path) for path in sorted((PACKAGE / room / "native").glob("*.[ch]")))
    users = [path for path in (PACKAGE / room).rglob("*.py") if "native" in read(path)]
    in_python = "\n".join(read(path) for path in (*users, PACKAGE / also))
    defined = set(re.findall(r"^#define ([A-Z][A-Z_]+) [(\d-]", in_c, re.MULTILINE))
    exported = set(re.findall(r"^EXPORT_CONSTANT\((\w+)\)", in_c, re.MULTILINE))
    assert len(defined) > 5
    assert defined & set(re.findall(r"^([A-Z][A-Z_]+) = ", in_python, re.MULTILINE)) <= exported
    assert exported <= {"INSTRUCTION_SETS", *(name for _, name in SHARED)}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
