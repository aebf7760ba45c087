"""The walk that looks for images, on real trees, against what is known to lie in them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding_expansion.data import walking
from embedding_expansion.data.finding import find_images
from embedding_expansion.data.walking import LeftOut, walk
from embedding_expansion.errors import DataError


def tree(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def found(*folders: Path) -> tuple[list[list[str]], str]:
    """The images, and what was left out, in paths from the first folder."""
    walked = walk(folders)
    images = [[path.relative_to(top).as_posix() for path in of] for top, of in zip(folders, walked.images, strict=True)]
    return images, str(walked.left_out).replace(f"{folders[0]}/", "")


def test_hidden_files_and_what_systems_leave_behind_are_passed_over(tmp_path: Path) -> None:
    litter = ("a/.ipynb_checkpoints/1.jpg", ".Trash-1000/1.jpg", "__MACOSX/a/1.jpg", "a/._1.jpg", "a/Thumbs.db")
    more = ("a/desktop.ini", "a/.DS_Store", "@eaDir/1.jpg", "a/.hidden.png", "$RECYCLE.BIN/1.jpg")
    assert found(tree(tmp_path, "a/1.jpg", *litter, *more)) == ([["a/1.jpg"]], "")


def test_a_hidden_folder_that_is_named_is_looked_through(tmp_path: Path) -> None:
    assert found(tree(tmp_path / ".photos", "1.jpg")) == ([["1.jpg"]], "")


def test_endings_of_images_count_whatever_their_case_and_others_are_counted(tmp_path: Path) -> None:
    images = ("1.jpg", "2.JPEG", "3.jfif", "4.JPE", "5.png", "6.webp")
    others = ("a.heic", "b.HEIC", "c.txt", "README", "notes.of some length", "d.heic")
    images_found, left_out = found(tree(tmp_path, *images, *others))
    assert images_found == [list(images)]
    assert left_out == "ignored: .heic 3, .txt 1, other endings 1, without an ending 1"


def test_an_ending_that_this_pillow_cannot_decode_is_ignored_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "IMAGE_SUFFIXES", walking.IMAGE_SUFFIXES - {".avif"})
    monkeypatch.setattr(walking, "NOT_DECODED_HERE", frozenset({".avif"}))
    images, left_out = found(tree(tmp_path, "1.jpg", "2.avif"))
    assert images == [["1.jpg"]]
    assert left_out == "ignored: .avif (which the Pillow installed here does not decode) 1"


def test_class_folders_may_all_be_links(tmp_path: Path) -> None:
    tree(tmp_path / "far", "a/1.jpg", "b/deep/1.jpg")
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "far" / name)
    assert found(tmp_path / "set") == ([["a/1.jpg", "b/deep/1.jpg"]], "")


def test_a_link_to_a_neighbour_leaves_the_images_where_they_lie(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "a" / "more").symlink_to("../b")
    images, left_out = found(tmp_path)
    assert images == [["a/1.jpg", "b/2.jpg"]]
    assert left_out == "folders reached twice: a/more (is b)"


def test_a_link_upwards_from_behind_a_link_is_cut(tmp_path: Path) -> None:
    """The folder behind the first link knows nothing of the one that was named, and leads to all its neighbours."""
    tree(tmp_path / "far", "a/1.jpg", "b/2.jpg", "c/3.jpg")
    (tmp_path / "far" / "a" / "up").symlink_to("..")
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "far" / name)
    assert found(tmp_path / "set") == ([["a/1.jpg", "b/2.jpg"]], "links that lead back up: a/up")


def test_a_link_to_a_folder_around_another_link_brings_what_is_new(tmp_path: Path) -> None:
    tree(tmp_path / "far", "best/1.jpg", "2.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "all").symlink_to(tmp_path / "far")
    (tmp_path / "set" / "0").symlink_to(tmp_path / "far" / "best")
    assert found(tmp_path / "set") == ([["0/1.jpg", "all/2.jpg"]], "folders reached twice: all/best (is 0)")


def test_links_that_lead_nowhere_are_named_or_counted_as_images_that_cannot_be_read(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg")
    (tmp_path / "a" / "2.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "b").symlink_to(tmp_path / "unmounted")
    (tmp_path / "c").symlink_to("c")
    assert found(tmp_path) == ([["a/1.jpg", "a/2.jpg"]], "broken links: b, c")


def test_pipes_and_sockets_are_not_opened(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg")
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s.png"))
        assert found(tmp_path) == ([["a/1.jpg"]], "ignored: pipes and devices 2")


def test_folders_named_twice_or_within_each_other_are_looked_through_once(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.jpg", "b/2.jpg")
    assert found(tmp_path, tmp_path / "a", tmp_path)[0] == [["a/1.jpg", "b/2.jpg"], [], []]
    assert found(tmp_path / "a", tmp_path)[0] == [["1.jpg"], ["b/2.jpg"]]


def test_files_keep_the_order_of_the_names_and_know_their_folder(tmp_path: Path) -> None:
    tree(tmp_path, "x/b/2.jpg", "x/a/1.jpg", "x/0.jpg", "named.bin")
    files = find_images([tmp_path / "named.bin", tmp_path / "x"]).files
    shown = [(file.path.relative_to(tmp_path).as_posix(), file.folder) for file in files]
    assert shown == [("named.bin", None), ("x/0.jpg", None), ("x/a/1.jpg", "a"), ("x/b/2.jpg", "b")]


def test_where_there_is_no_image_the_error_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no image in .* \(ignored: \.heic 1; folders without images: .*/a\)"):
        find_images([tree(tmp_path, "a/1.heic")])


def test_a_line_stays_a_line(tmp_path: Path) -> None:
    (tmp_path / "e\nmpty \x1b[31m").mkdir()
    for number in range(40):
        (tmp_path / f"empty {number:02}").mkdir()
    tree(tmp_path, "a/1.jpg")
    left_out = found(tmp_path)[1]
    assert left_out.startswith("folders without images: e mpty  [31m, empty 00, ")
    assert left_out.endswith("empty 06 and 33 more")
    assert str(LeftOut()) == ""


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8), st.lists(st.integers(0, 5), min_size=1))
def test_whatever_the_links_each_image_is_found_once_and_where_it_lies(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[int, int]], images: list[int]
) -> None:
    """Six folders, three of them within others, with links at will: what is found is what lies there."""
    top = tmp_path_factory.mktemp("tree")
    folders = [top / name for name in ("a", "b", "c", "a/d", "a/d/e", "b/f")]
    for folder in folders:
        folder.mkdir()
    for number, place in enumerate(images):
        (folders[place] / f"{number}.png").touch()
    for number, (place, target) in enumerate(links):
        (folders[place] / f"link {number}").symlink_to(folders[target])
    walked = walk([top])
    assert walked.images == [sorted(top.rglob("*.png"))]  # which follows no links
    assert len(walked.left_out.loops) + len(walked.left_out.again) == len(links)
