"""Tables and names as the commands print them."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def plain(text: str) -> str:
    r"""A text on one line that a terminal shows and does not obey: signs that are not printable as \n or \x1b."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Columns with two spaces between them.

    Args:
        heads: of the columns.
        rows: of as many entries each; shown by `plain`.
        right: which columns are set to the right.
    """
    lines = [[plain(entry) for entry in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            entry.rjust(width) if column in right else entry.ljust(width)
            for column, (entry, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def count(number: int, noun: str) -> str:
    """How many of what, in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
