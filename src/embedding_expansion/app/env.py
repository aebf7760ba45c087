"""The command embex env."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from embedding_expansion import __version__
from embedding_expansion.app.arguments import command, parse

if TYPE_CHECKING:
    from ctypes import CDLL


def run(arguments: list[str]) -> int:
    """Prints the installed versions; returns the exit status."""
    options = command(
        "env",
        "Prints what a bug report needs: versions, the device, and whether the C libraries are used.",
    )
    parse(options, arguments)

    import torch

    from embedding_expansion.core.search import native as search
    from embedding_expansion.retrieval import native as retrieval

    print(f"embedding-expansion: {__version__}")
    print(f"python: {platform.python_version()}, {platform.platform()}, {os.cpu_count()} processors")
    for name in _dependencies():
        print(f"{name}: {_version(name)}")
    print(f"device: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'}")
    print(f"search for hardest pairs: {_form(search.library())}")
    print(f"retrieval measures: {_form(retrieval.library())}")
    return 0


def _dependencies() -> list[str]:
    """The required dependencies, then those of the extras for users."""
    found = []
    for text in requires("embedding-expansion") or ():
        extra = re.search(r"extra == ['\"](\w+)", text)
        if extra is None or extra[1] not in ("test", "docs"):
            found.append(re.split(r"[^\w.-]", text)[0])
    return list(dict.fromkeys(found))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _form(library: CDLL | None) -> str:
    """Whether the CPU uses the C library or torch, and why."""
    from embedding_expansion.core.compiled import INSTRUCTION_SETS

    if library is not None:
        return f"C library ({list(INSTRUCTION_SETS.values())[library.instruction_set()]})"
    if os.environ.get("EMBEX_NATIVE") == "0":
        return "torch, because EMBEX_NATIVE=0 turns the C library off"
    return "torch, because the C library was not compiled: install a C compiler, then install this package again"
