"""What a user hands in, as a NumPy array of the machine's own byte order. Needs no torch."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from embedding_expansion.checks import validates
from embedding_expansion.errors import InvalidInput


@validates
def as_array(values: Any, name: str) -> np.ndarray:
    """Reads an array, a tensor on any device, or nested lists. Nothing is copied if it need not be.

    Raises:
        InvalidType: a tensor that holds no plain table of values: sparse, nested, quantized, on the meta device, or of
            floats of 8 bits.
        InvalidInput: lists that make no array, or an array with masked entries.
    """
    if np.ma.is_masked(values):
        raise InvalidInput(f"{name} has {int(values.mask.sum())} masked entries; leave them out, or fill them in")
    values = _untied(values, name)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise InvalidInput(f"{name} cannot be read ({error}); pass a flat list or an array") from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _untied(values: Any, name: str) -> Any:
    """A tensor without its history, where NumPy can read it; anything else as it is."""
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)  # another thread may be loading torch just now
    if torch is None or tensor is None or not isinstance(values, tensor):
        return values
    from embedding_expansion.core.inputs import check_floating, check_readable

    (check_floating if values.is_floating_point() else check_readable)(values, name)
    plain = values.detach().cpu().resolve_conj().resolve_neg()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
