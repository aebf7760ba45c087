"""embex serve as a command: where it listens, what it refuses to do, and how it ends."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.serve.conftest import picture, wait_for
from embedding_expansion.app.cli import main
from embedding_expansion.app.serve import address
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.index import Item, open_index
from retrieval.index.rights import unprivileged


@contextmanager
def started(
    place: Path, *options: str, prefix: tuple[str, ...] = (), **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and its URL once it answers."""
    given = [
        *prefix,
        sys.executable,
        "-m",
        "embedding_expansion",
        "serve",
        str(place),
        "--port",
        "0",
        "--device",
        "cpu",
        *options,
    ]
    with subprocess.Popen(
        given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"[\d,]+ images at (http://\S+:\d+) \(press Ctrl\+C to stop\)\n", line)
            assert found, (line, process.stderr.read() if process.stderr and process.poll() is not None else "")
            yield process, found[1]
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_an_orderly_way(place: Path, number: signal.Signals, status: int) -> None:
    with started(place) as (process, url):
        assert httpx.post(f"{url}/api/search", content=picture(0), timeout=60).status_code == 200
        children = children_of(process.pid)
        assert any("decoder" in command for command in children.values())
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in said) == (status, False)
        assert not [child for child in children if Path(f"/proc/{child}").exists()]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/healthz")


def children_of(parent: int) -> dict[int, str]:
    """The processes that a process has started, with their commands."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if (folder / "stat").read_text().rpartition(")")[2].split()[1] == str(parent):
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_server_that_is_killed_leaves_no_process_behind(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "index")
    with open_index(tmp_path / "index") as index:
        vectors = np.random.default_rng(0).standard_normal((4000, index.dimensions))
        index.add([Item(f"{number}.jpg") for number in range(4000)], vectors)
    with started(tmp_path / "index") as (process, _):
        wait_for(lambda: any("projection" in command for command in children_of(process.pid).values()))
        wait_for(lambda: all(has_begun(*child) for child in children_of(process.pid).items()))
        children = children_of(process.pid)
        assert sum("decoder" in command for command in children.values()) >= 2
        for child in children:
            os.kill(child, signal.SIGSTOP)  # none can end by itself, or notice that nobody is there any more
        process.kill()
        try:
            wait_for(lambda: not any(map(is_running, children)))
        finally:
            for child in filter(is_running, children):
                os.kill(child, signal.SIGKILL)


def has_begun(process: int, command: str) -> bool:
    """Whether a process that the server has started is at its work: a decoder is confined, t-SNE is loaded."""
    folder = Path("/proc") / str(process)
    if "decoder" in command:
        return re.search(r"^Max file size +0 ", (folder / "limits").read_text(), re.MULTILINE) is not None
    return "sklearn" in (folder / "maps").read_text()


def test_an_index_that_may_only_be_read_is_served(place: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(place, tmp_path / "birds")
    files = [copy, *copy.rglob("*")]
    for file in files:
        file.chmod(0o555 if file.is_dir() else 0o444)
    before = {file: file.stat().st_mtime_ns for file in files}
    with started(copy, prefix=unprivileged()) as (process, url):
        matches = httpx.post(f"{url}/api/search", content=picture(0), timeout=60).json()["matches"]
        assert len(matches) == 10
        assert httpx.get(f"{url}/api/items/{matches[0]['id']}/neighbours", timeout=60).status_code == 200
        wait_for(lambda: httpx.get(f"{url}/api/map", timeout=60).json()["state"] == "ready")
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert "embex serve: the index is read-only (you have no permission to write it); changes by others" in said
    assert {file: file.stat().st_mtime_ns for file in (copy, *copy.rglob("*"))} == before


def test_it_listens_beyond_this_machine_only_with_a_token(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMBEX_TOKEN", raising=False)
    assert main(["serve", str(place), "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "other machines can reach --host 0.0.0.0; set EMBEX_TOKEN" in capsys.readouterr().err
    assert main(["serve", str(place), "--host", "0.0.0.0", "--port", "0", "--token", "short"]) == 2
    assert "the token has 5 characters" in capsys.readouterr().err
    token = "a long and secret token"
    with started(place, "--host", "0.0.0.0", EMBEX_TOKEN=token) as (_, url):
        url = url.replace("0.0.0.0", "127.0.0.1")
        named = {"Host": "images.example.org"}  # there the token guards, not the name
        assert httpx.get(f"{url}/api/about", headers=named, timeout=60).status_code == 401
        given = {**named, "Authorization": f"Bearer {token}"}
        assert httpx.get(f"{url}/api/about", headers=given, timeout=60).json()["count"] == 32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "no such host"], "--host 'no such host' is not a known host name or address"),
        (["--host", "203.0.113.7"], "203.0.113.7 is not an address of this machine"),
        (["--port", "70000"], "--port is 70000; pass 1 to 65535"),
        (["--batch_size", "0"], "--batch_size is 0; pass 1 or more"),
        (["--timeout", "0"], "--timeout is 0; pass seconds"),
        (["--decode_timeout", "-1"], "--decode_timeout is -1; pass seconds"),
        (["--formats", "jpeg,heic"], "--formats is 'jpeg,heic'; pass one or more of jpeg,png"),
        (["--per_address", "-1"], "--per_address is -1; pass 1 or more, or 0 for no limit"),
        (["--root-path", "photos"], "--root_path is 'photos'; pass a path such as /images"),
        (["--token", ""], "the token is empty"),
        (["--prot", "8000"], "there is no option '--prot'; did you mean --port?"),
    ],
)
def test_bad_options_are_told_in_one_line(
    place: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(place), *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        assert main(["serve", str(place), "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1 is used by another program" in capsys.readouterr().err


def test_of_two_servers_that_start_at_once_the_second_is_told_that_the_port_is_taken() -> None:
    with closing(address.bind("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with closing(address.bind("127.0.0.1", port)) as second:  # allowed as long as neither listens
            address.listen(first, "127.0.0.1")
            with pytest.raises(InvalidInput, match=f"port {port} of 127.0.0.1 is used"):
                address.listen(second, "127.0.0.1")


def test_what_is_no_index_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    previous = signal.getsignal(signal.SIGTERM)
    assert main(["serve", str(tmp_path / "nothing"), "--port", "0"]) == 2
    assert "is not an index" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is previous


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_an_address_is_known_to_be_this_machine_only_or_not(host: str, loopback: bool) -> None:
    with closing(address.bind(host, 0)) as held:
        assert address.is_loopback(held) is loopback
        assert re.fullmatch(rf"http://{host}:\d+", address.url(host, held))


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(Settings("birds", token="a secret of some length"))
    with pytest.raises(InvalidInput, match="other than printable ASCII"):
        Settings("birds", token="tökén")
