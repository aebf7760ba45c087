"""Against a real server on this machine."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from embedding_expansion.data.download import download, fetch, fetch_source, unpack
from embedding_expansion.data.sources import SOURCES, Archive, Source
from embedding_expansion.errors import DataError, UnknownName

CONTENT = bytes(range(256)) * 4000


class Server(ThreadingHTTPServer):
    """Serves `content`; may break off after some bytes, or ignore Range. Keeps the Range of every request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.breaks_after: int | None = None
        self.knows_range = True
        self.ranges: list[str | None] = []

    def archive(self, name: str = "file.bin") -> Archive:
        url = f"http://127.0.0.1:{self.server_port}/{name}"
        return Archive(url, "sha256", hashlib.sha256(self.content).hexdigest(), "this test")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        match = re.fullmatch(r"bytes=(\d+)-", asked or "")
        first = int(match[1]) if match and self.server.knows_range else 0
        content = self.server.content
        if self.path == "/missing":
            self.send_error(404)
            return
        if first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first:][: self.server.breaks_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def interrupt(server: Server, folder: Path) -> Path:
    """A first try that breaks off; what came of it."""
    server.breaks_after = 300_000
    with pytest.raises(DataError, match=r"not be downloaded .*run the same again to resume from .*file\.bin\.part"):
        fetch(server.archive(), folder, progress=False)
    server.breaks_after = None
    return folder / "file.bin.part"


def test_an_interrupted_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    part = interrupt(server, tmp_path)
    assert part.read_bytes() == CONTENT[:300_000]
    path = fetch(server.archive(), tmp_path, progress=False)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_server_that_ignores_range_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    interrupt(server, tmp_path)
    server.knows_range = False
    assert fetch(server.archive(), tmp_path, progress=False).read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_taken_as_it_is(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert fetch(server.archive(), tmp_path, progress=False).read_bytes() == CONTENT


def test_a_file_that_is_there_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    fetch(server.archive(), tmp_path, progress=False)
    fetch(server.archive(), tmp_path, progress=False)
    assert len(server.ranges) == 1


def test_a_file_with_a_wrong_checksum_is_not_left_in_place(server: Server, tmp_path: Path) -> None:
    archive = server.archive()
    server.content = CONTENT[::-1]
    with pytest.raises(DataError, match=r"has the sha256 checksum \w+, but this test states \w+"):
        fetch(archive, tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_dead_server_are_said(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/missing could not be downloaded .*404"):
        fetch(server.archive("missing"), tmp_path, progress=False)
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch(Archive("http://127.0.0.1:1/x", "md5", "", ""), tmp_path, progress=False)


def test_only_what_came_is_said_to_be_kept(server: Server, tmp_path: Path) -> None:
    for archive in (server.archive("missing"), Archive("http://127.0.0.1:1/x", "md5", "", "")):
        with pytest.raises(DataError, match="; try again later") as refusal:
            fetch(archive, tmp_path, progress=False)
        assert ".part" not in str(refusal.value)
    server.breaks_after = 0
    with pytest.raises(DataError, match="; try again later"):
        fetch(server.archive(), tmp_path, progress=False)


def test_progress_is_shown_on_stderr(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(server.archive(), tmp_path)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "file.bin" in captured.err


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*members: tuple[str, bytes | None], link: str = "") -> bytes:
    """A tar.gz; a member without content is a symbolic link to `link`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, link
            else:
                member.size = len(content)
            archive.addfile(member, None if content is None else io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_a_set_is_fetched_unpacked_and_its_archive_removed(server: Server, tmp_path: Path, kind: str) -> None:
    server.content = zipped({"set/a.txt": b"a"}) if kind == "zip" else tarred(("set/a.txt", b"a"))
    source = Source("what", "page", "licence", (server.archive(f"set.{kind}"),), folder="inside")
    root = tmp_path / "root"
    assert fetch_source("set", source, root, progress=False) == root
    assert [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()] == [
        "inside/set/a.txt"
    ]


@pytest.mark.parametrize(
    "archive",
    [
        tarred(("good.txt", b"x"), ("../out.txt", b"x")),
        tarred(("good", None), ("good/out.txt", b"x"), link=".."),
        tarred(("good", None), link="/etc"),
        zipped({"good.txt": b"x", "../out.txt": b"x"}),
        zipped({"good.txt": b"x", "/out.txt": b"x"}),
        zipped({"good.txt": b"x", "a\\..\\..\\out.txt": b"x"}),
    ],
    ids=[f"archive{number}" for number in range(6)],
)
def test_an_archive_that_leads_out_of_the_folder_leaves_nothing(tmp_path: Path, archive: bytes) -> None:
    (tmp_path / "evil").write_bytes(archive)
    with pytest.raises(DataError, match="evil was not unpacked"):
        unpack(tmp_path / "evil", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["evil", "folder"]


def test_an_absolute_path_in_a_tar_lands_below_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    (tmp_path / "set.tgz").write_bytes(tarred((str(out), b"x")))
    unpack(tmp_path / "set.tgz", tmp_path / "folder")
    assert not out.exists()
    assert (tmp_path / "folder" / out.relative_to("/")).read_bytes() == b"x"


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil", "w") as archive:
        member = zipfile.ZipInfo("link")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DataError, match="its member 'link' is a link"):
        unpack(tmp_path / "evil", tmp_path / "folder")


def test_a_broken_archive_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "folder" / "set").mkdir(parents=True)
    (tmp_path / "folder" / "set" / "old.txt").touch()
    (tmp_path / "cut.tgz").write_bytes(tarred(("set/new.txt", CONTENT))[:-50])
    with pytest.raises(DataError, match=r"cut\.tgz was not unpacked"):
        unpack(tmp_path / "cut.tgz", tmp_path / "folder")
    assert [path.name for path in (tmp_path / "folder").rglob("*")] == ["set", "old.txt"]
    bent = bytearray(zipped({"set/new.txt": CONTENT}))
    bent[41:80] = b"\xff" * 39  # the first bytes of the deflated content
    (tmp_path / "bent.zip").write_bytes(bent)
    with pytest.raises(DataError, match=r"bent\.zip was not unpacked"):
        unpack(tmp_path / "bent.zip", tmp_path / "folder")


def test_unpacking_again_replaces_what_was_there(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        (tmp_path / "set.zip").write_bytes(zipped({"set/a.txt": content, f"set/{content.decode()}.txt": b""}))
        unpack(tmp_path / "set.zip", tmp_path / "folder")
    assert (tmp_path / "folder" / "set" / "a.txt").read_bytes() == b"new"
    assert not (tmp_path / "folder" / "set" / "old.txt").exists()


def test_sets_that_cannot_be_fetched_say_how_to_get_them(tmp_path: Path) -> None:
    for name in ("cars", "inshop", "glyphs"):
        with pytest.raises(DataError, match=rf"^there is nothing to download for {name}\. .* Its page: https://"):
            download(name, tmp_path)
    for source in SOURCES.values():  # sentences, as they are put between others
        assert not source.instructions or (source.instructions[0].isupper() and source.instructions.endswith("."))
    with pytest.raises(UnknownName, match="did you mean 'omniglot'"):
        download("omniglott", tmp_path)


def test_every_archive_has_a_checksum_of_the_right_length_and_the_page_that_states_it() -> None:
    for source in SOURCES.values():
        assert source.archives or source.instructions
        for archive in source.archives:
            assert len(archive.checksum) == 2 * hashlib.new(archive.algorithm).digest_size
            assert archive.cited.startswith("https://")
