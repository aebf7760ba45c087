"""Where data sets are looked for, and where this package keeps what it made itself."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$EMBEX_CACHE, else $XDG_CACHE_HOME/embedding-expansion, else ~/.cache/embedding-expansion. Not created here."""
    if chosen := os.environ.get("EMBEX_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "embedding-expansion"


def search_folders(root: Path | None) -> list[Path]:
    """The folders in which a named data set is looked for.

    Args:
        root: if given, the only one; otherwise $EMBEX_DATA if set, `./data`, and the cache folder, in this order.
    """
    if root is not None:
        return [root]
    given = os.environ.get("EMBEX_DATA")
    return [*([Path(given).expanduser()] if given else []), Path("data"), cache_folder()]
