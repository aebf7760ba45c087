"""The reader of tables: what is written is read, and what could be meant in two ways is refused with its line."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embedding_expansion.data.table import Table
from embedding_expansion.errors import DataError
from embedding_expansion.inference.labels import read_labels

REQUIRED = ("path", "label")


def read(folder: Path, content: str | bytes, required: tuple[str, ...] = REQUIRED) -> Table:
    path = folder / "table.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Table.read(path, required)


def outcome(folder: Path, content: str | bytes) -> Table | DataError:
    try:
        return read(folder, content)
    except DataError as error:
        return error


def refusal(folder: Path, content: str | bytes) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, content)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


# No NUL and no lone surrogates, which no text in UTF-8 holds.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
LINE = TEXT.map(lambda text: "".join(text.split("\n")).replace("\r", ""))


@settings(max_examples=8 * settings().max_examples)
@given(
    st.lists(st.tuples(LINE, LINE, TEXT), min_size=1, max_size=5),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.booleans(),
)
def test_what_a_writer_writes_is_read(
    tmp_path: Path, rows: list[tuple[str, str, str]], delimiter: str, end: str, quoting: int, mark: bool
) -> None:
    # Before Python 3.13 the writer quotes only what ends its own lines, so that its file may mean something else.
    if any((set("\r\n") - set(end)) & set(text) for *_, text in rows):
        quoting = csv.QUOTE_ALL
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("path", "label", "what, else; there\tis"), *rows])
    table = read(tmp_path, stream.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    assert table.columns == ("path", "label", "what, else; there\tis")
    assert [tuple(row.fields.values()) for row in table.rows] == [tuple(text.strip() for text in row) for row in rows]


@settings(max_examples=16 * settings().max_examples)
@given(st.binary(max_size=60), st.sampled_from([b"", b"path,label\n", b'"path";label;split\r\n', b"path\tlabel\n"]))
@example(b'"' + b'""' * 70_000, b"path,label\n")
@example(b"\r", b"path,label\n")
def test_bytes_of_any_kind_are_a_table_or_one_sentence(tmp_path: Path, content: bytes, header: bytes) -> None:
    found = outcome(tmp_path, header + content)
    if isinstance(found, DataError):
        assert "table.csv" in str(found)
    else:
        assert found.rows
        assert all(tuple(row.fields) == found.columns for row in found.rows)


@settings(max_examples=8 * settings().max_examples)
@given(st.lists(st.sampled_from(['"', '""', ",", "\n", "a", "\r\n", "é"]), max_size=14))
def test_a_wrong_quote_is_in_the_line_that_is_named(tmp_path: Path, pieces: list[str]) -> None:
    """The oracle reads character by character."""
    content = "path,label\n" + "".join(pieces)
    expected = line_of_wrong_quote(content.replace("\r\n", "\n"))
    found = outcome(tmp_path, content)
    if isinstance(found, Table):
        assert expected is None
    elif "has a quote that is not closed" in str(found):
        assert str(found).startswith(f"line {expected} of ")
    elif expected is not None:  # something else is wrong before it
        assert 2 <= int(str(found).split()[1]) <= expected


def line_of_wrong_quote(text: str) -> int | None:
    line, opened, at_start, position = 1, None, True, 0
    while position < len(text):
        character, after = text[position], text[position + 1 : position + 2]
        if opened is not None and character == '"':
            if after == '"':
                position += 1
            elif after in ("", ",", "\n"):
                opened = None
            else:
                return opened
        elif opened is None and character == '"' and at_start:
            opened = line
        at_start = opened is None and character in ",\n"
        line += character == "\n"
        position += 1
    return opened


REFUSED = [
    ("", "has no column 'path'"),
    ("\n \n", "has no column 'path'"),
    ("path,label\n", "has no rows below its first line"),
    ("path,label\n\n  \n", "has no rows below its first line"),
    ("path;Label\na;b\n", "has no column 'label'; .*, separated by semicolons: path, Label$"),
    ("path|label\na|b\n", r"has no column 'path'; .* commas, semicolons or tabs, .*: path\|label$"),
    ("path,label,label\na,b,c\n", "has two columns called 'label'"),
    ("path,label\na.jpg,Acura, RL\n", "line 2 of .* has 3 fields, but the first line names 2 .* hold a comma"),
    ("path;label\na.jpg;Acura; RL\n", "line 2 of .* has 3 fields, .* hold a semicolon"),
    ("path,label\n\na.jpg\n", "line 3 of .* has 1 field, but"),
    ("path,label,\na.jpg,Acura, RL\n", "line 2 of .* has 'RL' in a column without a name"),
    ('path,label\na,"x\nb,y\nc,z\n', "line 2 of .* has a quote that is not closed"),
    ('path,label\na,x\n\nb,"y\nc,"z"\n', "line 4 of .* has a quote that is not closed"),
    ('path,label,more\na,x,"1\n2"\nb,"y\nc,z,"0"\n', "line 4 of .* has a quote that is not closed"),
    ('path,label\na,"x" y\n', "line 2 of .* has a quote that is not closed at the end of its field"),
    ('"path,label\na,b\n', "line 1 of .* has a quote that is not closed"),
    ('path,label,more\na,"x\nb,y",1\n', "line 2 of .* has a label that continues in the next line"),
    ("path,label\na,x\nb,\0\n", "line 3 of .* has a NUL"),
    ("path,label\na,x\r\nb,\xe9\n".encode("latin-1"), r"line 3 of .* is not text in UTF-8 \(byte 0xe9\)"),
    (b"\xef\xbb\xbfpath,label\n\xe9,x\n", r"line 2 of .* is not text in UTF-8 \(byte 0xe9\)"),
    ("path,label\n".encode("utf-16"), r"line 1 of .* is not text in UTF-8 \(byte 0xff\)"),
    ("path,label\na,x\nb," + "y" * 200_000, "line 3 of .* cannot be read .*field larger than field limit"),
    ('path,label\na,"' + "y\n" * 100_000, "line 2 of .* has a quote that is not closed"),
]


@pytest.mark.parametrize(("content", "sentence"), REFUSED, ids=range(len(REFUSED)))
def test_what_could_be_meant_in_two_ways_is_refused_with_its_line(
    tmp_path: Path, content: str | bytes, sentence: str
) -> None:
    assert re.search(sentence, refusal(tmp_path, content)), refusal(tmp_path, content)


def test_lines_are_counted_over_blank_ones_and_fields_of_several_lines(tmp_path: Path) -> None:
    table = read(tmp_path, '\ufeff\n\npath,label,note\n\na,x,"1\n2\n3"\n  \nb,y,\n')
    assert [(row.line, row.fields["path"]) for row in table.rows] == [(5, "a"), (9, "b")]
    assert table.rows[0].fields["note"] == "1\n2\n3"


def test_the_numbers_that_pandas_writes_are_passed_over(tmp_path: Path) -> None:
    table = read(tmp_path, ",path,label\n0,a.jpg,x\n1,b.jpg,y\n")
    assert table.columns == ("path", "label")
    assert [row.fields for row in table.rows] == [{"path": "a.jpg", "label": "x"}, {"path": "b.jpg", "label": "y"}]


def test_a_file_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone.csv"):
        with pytest.raises(DataError, match="cannot be read"):
            Table.read(path, REQUIRED)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("a.jpg,nan\n", "line 2 of .* has the label 'nan', which means no label; leave the field empty"),
        ("a.jpg,x\n./b/../a.jpg,x\n", "lists the image .*/a.jpg twice, in lines 2 and 3"),
        ("a.jpg,Acura, RL\n", "line 2 of .* has 3 fields"),
    ],
)
def test_labels_of_an_index_are_read_as_strictly(tmp_path: Path, rows: str, sentence: str) -> None:
    (tmp_path / "table.csv").write_text(f"path,label\n{rows}", encoding="utf-8")
    with pytest.raises(DataError, match=sentence):
        read_labels(str(tmp_path / "table.csv"))


def test_labels_of_an_index_may_be_empty_and_separated_by_tabs(tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("path\tlabel\tyear\na.jpg\t\t1999\nb.jpg\tx, y\t\n", encoding="utf-8")
    rows = read_labels(str(tmp_path / "table.tsv")).rows
    assert rows == {f"{tmp_path}/a.jpg": (None, {"year": 1999}), f"{tmp_path}/b.jpg": ("x, y", {})}
