"""Text that a spreadsheet would run is marked, and any text comes back as it was."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from embedding_expansion.data.table import escape_formula, unescape_formula

TEXTS = st.text(alphabet="'=+-@\t\r\nab1 ", max_size=6) | st.text(max_size=8)


@given(text=TEXTS)
@example(text="'=")
@example(text="''")
def test_what_is_marked_is_no_formula_and_comes_back(text: str) -> None:
    field = escape_formula(text)
    assert field[:1] not in {"=", "+", "-", "@", "\t", "\r", "\n"}
    assert unescape_formula(field) == text
    assert field in (text, f"'{text}")


@given(one=TEXTS, other=TEXTS)
def test_two_texts_are_two_fields(one: str, other: str) -> None:
    assert (escape_formula(one) == escape_formula(other)) == (one == other)


def test_text_that_no_spreadsheet_runs_stays_as_it_is() -> None:
    for text in ("", "wren", "'s Gravenhage", "'", "a=b", "/photos/-1.jpg", " =1", "12"):
        assert escape_formula(text) == text
        assert unescape_formula(text) == text
