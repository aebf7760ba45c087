"""What a call brings in, checked as a whole before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from embedding_expansion.checks import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.index.items import Item, Row, rows_of
from embedding_expansion.retrieval.index.store import OWN_NOTES
from embedding_expansion.retrieval.index.vectors import unit_vectors


@validates
def incoming(items: Iterable[Item], vectors: Any, dimensions: int) -> tuple[list[Row], Float[np.ndarray, "n d"]]:
    """The rows to be stored and their unit vectors; of equal paths the last one counts."""
    rows, units = rows_of(items), unit_vectors(vectors, dimensions)
    if len(rows) != len(units):
        raise InvalidInput(f"items has {len(rows)} entries but vectors has {len(units)} rows; pass one row per item")
    places = sorted({row.path: place for place, row in enumerate(rows)}.values())
    return [rows[place] for place in places], units[places]


def incoming_note(name: object, value: Any) -> str:
    """A note's value as JSON.

    Raises:
        InvalidInput: a value that is no JSON, or a name that the index uses itself.
    """
    if name in OWN_NOTES or not isinstance(name, str) or not name.isprintable():
        raise InvalidInput(f"name is {name!r}; pass a printable text, and none of {', '.join(sorted(OWN_NOTES))}")
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the value of {name!r} is no JSON ({error}); pass what JSON can hold") from None
