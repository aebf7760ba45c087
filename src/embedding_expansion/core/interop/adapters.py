"""The one place where a loss of another library becomes one of ours."""

from __future__ import annotations

from typing import Any

from embedding_expansion.core.inputs import validates
from embedding_expansion.core.interop import metric_learning

ADAPTERS = (metric_learning.adapted,)  # each gives None for what is not its library's


@validates
def adapted(loss: object, scope: str, options: dict[str, Any]) -> Any:
    """A loss of another library as a PairLoss to expand, with the options of the expansion; anything else as it is.

    Raises:
        InvalidInput, InvalidType: if that loss, or an option with it, cannot be used.
    """
    for adapter in ADAPTERS:
        found = adapter(loss, scope, options)
        if found is not None:
            return found
    return loss
