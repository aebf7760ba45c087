"""At which places of its ranking a query finds the rows of its class: all that a retrieval measure is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

# The place of a row that is not there, or that was not asked for: beyond any K.
FAR = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Places:
    """The places of one block of queries.

    Attributes:
        queries: which queries these are.
        matches: how many gallery rows of its class each can find.
        places: from 1, ascending, at least one column; `FAR` behind the last.
    """

    queries: Int[Tensor, " block"]
    matches: Int[Tensor, " block"]
    places: Int[Tensor, "block m"]
