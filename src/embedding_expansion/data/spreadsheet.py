"""Text in CSV files that a spreadsheet would take for a formula: marked when written, and unmarked when read back.

A spreadsheet runs a field that begins with =, +, -, @, a tab or a line end as a formula, whoever chose the label or the
file's name. An apostrophe before it makes it text (OWASP, CSV Injection). Text that has such apostrophes itself gets
one more, so that `unmarked` gives back exactly what `marked` was given.
"""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_MARKED = re.compile(r"'+[=+\-@\t\r\n]")


def marked(text: str) -> str:
    """A text as it stands in a CSV file.

    Example:
        >>> marked("=1+1"), marked("'=1+1"), marked("wren")
        ("'=1+1", "''=1+1", 'wren')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unmarked(field: str) -> str:
    """The text of a field; one that nobody has marked is that text.

    Example:
        >>> unmarked("'=1+1"), unmarked("=1+1"), unmarked("'s Gravenhage")
        ('=1+1', '=1+1', "'s Gravenhage")
    """
    return field[1:] if _MARKED.match(field) else field
