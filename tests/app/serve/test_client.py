"""The Python client against a real server, and in a process that has no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.serve.conftest import Running, picture, serving
from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.inference.client import Client, ClientMatch

TOKEN = "a long and secret token"


def test_the_client_says_what_the_api_says(running: Running, photos: list[Path]) -> None:
    client = Client(running.url + "/")
    expected = running.search(photos[3].read_bytes(), params={"k": 3, "qe": 2}).json()
    for image in (photos[3], str(photos[3]), photos[3].read_bytes()):
        result = client.search(image, k=3, qe=2)
        assert result.known is expected["known"]
        assert result.matches == [
            ClientMatch(m["id"], m["path"], m["label"], m["similarity"]) for m in expected["matches"]
        ]
    id = result.matches[0].id
    found = running.get(f"/api/items/{id}/neighbours", params={"k": 2, "label": "class_5"}).json()["matches"]
    assert [match.id for match in client.neighbours(id, 2, label="class_5").matches] == [one["id"] for one in found]
    assert client.about()["count"] == 32


def test_what_the_server_refuses_is_an_error_with_its_sentence(running: Running, place: Path) -> None:
    client = Client(running.url)
    with pytest.raises(InvalidInput, match="returned an error: k is '500'; it should be less than or equal to 100"):
        client.search(picture(0), k=500)
    with pytest.raises(InvalidInput, match="this is not an image in an accepted format"):
        client.search(b"no image")
    with pytest.raises(InvalidInput, match="there is no item 999"):
        client.neighbours(999)
    with pytest.raises(InvalidInput, match="url is 'ftp://x'"):
        Client("ftp://x")
    with pytest.raises(
        StoreError, match=r"http://127\.0\.0\.1:9 cannot be reached \(.*\); check that embex serve is running"
    ):
        Client("http://127.0.0.1:9").about()
    with serving(place, token=TOKEN) as server:
        with pytest.raises(InvalidInput, match="the token is missing or wrong"):
            Client(server.url).about()
        assert Client(server.url, TOKEN).about()["count"] == 32


def test_the_client_needs_the_standard_library_only(running: Running) -> None:
    program = (
        "import sys; from embedding_expansion.inference.client import Client; "
        f"print(Client({running.url!r}).about()['count']); "
        "print(*{name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, loaded = ran.stdout.splitlines()
    assert count == "32"
    assert not set(loaded.split()) & {"torch", "numpy", "PIL", "jaxtyping", "httpx", "fastapi"}
