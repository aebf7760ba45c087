"""The filters of a request, parts of the address: label, path and metadata."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, Query
from pydantic import Field

from embedding_expansion.retrieval.index.where import Where

_LABEL = "only images with this label"
_LABEL_PART = "only images whose label contains this text; ASCII letters match in upper and lower case"
_PATH = "only the image with this path"
_PATH_PART = "only images whose path contains this text; ASCII letters match in upper and lower case"
_META = "only images with this metadata, as KEY=VALUE; several must all hold, and several of one key are alternatives"


def filter_of(
    label: Annotated[str | None, Query(max_length=1000, description=_LABEL)] = None,
    label_contains: Annotated[str | None, Query(max_length=1000, description=_LABEL_PART)] = None,
    path: Annotated[str | None, Query(max_length=5000, description=_PATH)] = None,
    path_contains: Annotated[str | None, Query(max_length=1000, description=_PATH_PART)] = None,
    meta: Annotated[list[Annotated[str, Field(pattern="=")]] | None, Query(max_length=20, description=_META)] = None,
) -> Where | None:
    """The condition that the parameters of a request describe; None without any."""
    given = {"label": label, "label_contains": label_contains, "path": path, "path_contains": path_contains}
    where: dict[str, Any] = {name: text for name, text in given.items() if text is not None}
    if meta:
        where["metadata"] = _facts(meta)
    return where or None


Filter = Annotated[Where | None, Depends(filter_of)]


def _facts(texts: Sequence[str]) -> dict[str, list[str | int | float | bool]]:
    facts: dict[str, list[str | int | float | bool]] = {}
    for text in texts:
        key, _, value = text.partition("=")
        facts.setdefault(key, []).extend(_readings(value))
    return facts


def _readings(text: str) -> list[str | int | float | bool]:
    """What a text in an address may stand for: itself, and a number or a boolean if it looks like one."""
    found: list[str | int | float | bool] = [text]
    if text in ("true", "false"):
        found.append(text == "true")
    with contextlib.suppress(ValueError):
        number = float(text)
        if abs(number) < 1e300:  # neither infinite nor NaN
            found.append(int(number) if number.is_integer() and abs(number) < 2**53 else number)
    return found
