"""Every limit, over real HTTP: size, pixels, time, the queue, the token, the Host header."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from app.serve.conftest import Running, picture, serving, wait_for
from embedding_expansion.app.serve.service import Service

TOKEN = "a long and secret token"


@pytest.fixture(scope="module")
def strict(place: Path) -> Iterator[Running]:
    with serving(place, max_bytes=50_000, max_pixels=10_000, timeout=1.0, token=TOKEN) as server:
        yield server


AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


def half_sent(server: Running, headers: str, body: bytes = b"") -> tuple[int, str]:
    """Status and sentence of an answer to a request whose body does not come to its end."""
    parts = urlsplit(server.url)
    with socket.create_connection((str(parts.hostname), parts.port or 80), timeout=60) as connection:
        lines = [
            "POST /api/search HTTP/1.1",
            f"Host: {parts.netloc}",
            f"Authorization: Bearer {TOKEN}",
            headers,
            "",
            "",
        ]
        connection.sendall("\r\n".join(lines).encode() + body)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, json.loads(answer.read())["detail"]


def test_an_upload_that_says_it_is_too_large_is_refused_before_it_is_sent(strict: Running) -> None:
    status, said = half_sent(strict, "Content-Length: 90000000")
    assert (status, said) == (413, "the image has more than 50,000 bytes; send a smaller one")


def test_an_upload_that_does_not_say_its_size_is_refused_once_it_is_too_large(strict: Running) -> None:
    chunk = b"%x\r\n%b\r\n" % (30_000, bytes(30_000))
    status, said = half_sent(strict, "Transfer-Encoding: chunked", chunk * 2)
    assert (status, "50,000 bytes" in said) == (413, True)


def test_a_client_that_sends_all_of_a_large_image_reads_the_answer(strict: Running) -> None:
    answer = strict.search(bytes(200_000), headers=AUTHORISED)
    assert answer.status_code == 413


def test_a_slow_upload_ends(strict: Running) -> None:
    status, said = half_sent(strict, "Content-Length: 1000", b"x")
    assert (status, said) == (
        408,
        "the image was not received within 1 seconds; send a smaller one, or try again",
    )


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_an_image_of_too_many_pixels_is_not_decoded(strict: Running, kind: str) -> None:
    content = io.BytesIO()
    Image.new("L", (4000, 4000)).save(content, kind)  # a few kilobytes
    answer = strict.search(content.getvalue(), headers=AUTHORISED)
    said = "the image has 16,000,000 pixels, but the limit is 10,000; send a smaller one"
    assert (answer.status_code, answer.json()["detail"]) == (413, said)


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 400, "the body is empty; send the bytes of an image file"),
        (b"GET / HTTP/1.1", 415, "this is not an image in an accepted format; send JPEG, PNG, WEBP, GIF or AVIF"),
        (picture(0)[:200], 422, "cannot be decoded"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "this is not an image in an accepted format"),
    ],
)
def test_what_is_no_image_is_told_in_a_sentence(strict: Running, content: bytes, status: int, said: str) -> None:
    answer = strict.search(content, headers=AUTHORISED)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True)


def test_a_form_is_refused_so_that_nothing_is_written_to_disk(strict: Running) -> None:
    answer = httpx.post(f"{strict.url}/api/search", files={"image": picture(0)}, headers=AUTHORISED)
    assert (answer.status_code, "curl --data-binary" in answer.json()["detail"]) == (415, True)


def test_a_full_queue_says_when_to_come_back_and_a_busy_model_that_it_is_busy(place: Path) -> None:
    may_go = threading.Event()

    def slow_down(service: Service) -> None:
        embed = service.batcher._embed
        service.batcher._embed = lambda images: (may_go.wait(60), embed(images))[1]

    with serving(place, prepare=slow_down, queue=2, batch_size=1, timeout=1.0) as server:
        answers: list[httpx.Response] = []
        clients = [threading.Thread(target=lambda: answers.append(server.search(picture(1)))) for _ in range(2)]
        for client in clients:
            client.start()
        wait_for(lambda: server.service.batcher.taken == 2)
        refused = server.search(picture(1))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["detail"] == "2 images are waiting already, which is the limit; try again in a moment"
        assert server.get("/healthz").status_code == 200  # whatever the model does
        for client in clients:
            client.join()
        assert [answer.status_code for answer in answers] == [503, 503]
        assert {answer.json()["detail"] for answer in answers} == {
            "the server is too busy to answer in time; try again in a moment"
        }
        may_go.set()
        wait_for(lambda: server.search(picture(1)).status_code == 200)


def test_broken_images_among_others_fail_alone_under_load(running: Running, photos: list[Path]) -> None:
    statuses: dict[int, int] = {}
    images = [path.read_bytes() if number % 3 else b"broken" for number, path in enumerate(photos)]

    def ask(number: int) -> None:
        statuses[number] = running.search(images[number]).status_code

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(len(images))]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert statuses == {number: 200 if number % 3 else 415 for number in range(len(images))}


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
def test_without_the_token_there_is_no_answer(strict: Running, given: dict[str, str]) -> None:
    for path in ("/api/about", "/api/items/1", "/api/items/1/thumbnail", "/api/map", "/metrics"):
        answer = strict.get(path, headers=given)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert strict.search(picture(0), headers=given).status_code == 401
    for path in ("/", "/main.js", "/healthz", "/openapi.json"):
        assert strict.get(path, headers=given).status_code == 200
    assert strict.get("/api/about", headers=AUTHORISED).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "10.0.0.1", "[", ""])
def test_a_name_that_was_made_to_point_here_is_refused(running: Running, host: str) -> None:
    answer = running.get("/api/about", headers={"Host": host})
    assert answer.status_code in (400, 421)
    assert "birds" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:8000"])
def test_this_machine_may_be_called_by_its_names(running: Running, host: str) -> None:
    assert running.get("/api/about", headers={"Host": host}).status_code == 200


def test_a_page_of_another_site_may_not_ask(running: Running) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://["):
        assert running.search(picture(0), headers={"Origin": origin}).status_code == 403
    assert running.search(picture(0), headers={"Origin": running.url}).status_code == 200


def test_a_page_of_another_site_may_link_to_it_but_show_no_part_of_it(running: Running) -> None:
    for site, mode, status in (
        ("cross-site", "no-cors", 403),
        ("same-site", "no-cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
    ):
        fetched = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
        assert running.get("/api/about", headers=fetched).status_code == status, (site, mode)


def test_made_up_methods_are_counted_as_one(running: Running) -> None:
    for number in range(20):
        httpx.request(f"MADEUP{number}", running.url, timeout=60)
    counted = [line for line in running.get("/metrics").text.splitlines() if line.startswith("embex_requests_total{")]
    assert not [line for line in counted if "MADEUP" in line]
    assert [line for line in counted if 'method="other"' in line]


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_a_jpeg_of_thousands_of_scans_is_refused(strict: Running, kind: str) -> None:
    content = io.BytesIO()
    more = {"save_all": True, "append_images": [Image.new("RGB", (20, 20))]} if kind == "MPO" else {}
    Image.new("RGB", (20, 20), "red").save(content, kind, **more)
    image = content.getvalue()
    with Image.open(io.BytesIO(image)) as opened:
        assert opened.format == kind
    assert strict.search(image, headers=AUTHORISED).status_code == 200
    start = image.index(b"\xff\xda")
    answer = strict.search(image[:start] + image[start : start + 14] * 300 + image[start:], headers=AUTHORISED)
    assert answer.status_code == 422
    assert "scans" in answer.json()["detail"]


def test_health_and_metrics_answer_while_the_index_does_not(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services: list[Service] = []
    entered: list[Service] = []
    original = Service.about

    def counted(self: Service) -> object:
        entered.append(self)
        return original(self)

    monkeypatch.setattr(Service, "about", counted)
    with serving(place, prepare=services.append) as server, services[0]._index_is_free:
        waiting = [threading.Thread(target=server.get, args=("/api/about",)) for _ in range(60)]
        for one in waiting:
            one.start()
        try:
            wait_for(lambda: len(entered) >= 40)  # as many threads as there are; the other requests wait for one
            assert httpx.get(f"{server.url}/healthz", timeout=20).json() == {"status": "ok"}
            assert "embex_items" in httpx.get(f"{server.url}/metrics", timeout=20).text
        finally:
            services[0]._index_is_free.release()
            for one in waiting:
                one.join()
            services[0]._index_is_free.acquire()


def test_behind_a_proxy_with_a_token_the_name_may_be_another(strict: Running) -> None:
    named = {"Host": "images.example.org", "Origin": "https://images.example.org", **AUTHORISED}
    assert strict.search(picture(0), headers=named).status_code == 200


def test_every_answer_has_the_headers_that_protect_the_page(running: Running) -> None:
    for path in ("/", "/api/about", "/api/nothing", "/api/items/1?k=x", "/healthz"):
        headers = running.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'self'; ")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_an_unforeseen_error_tells_the_client_nothing_of_the_code(place: Path) -> None:
    def break_it(service: Service) -> None:
        service.neighbours = lambda *given: 1 / 0  # type: ignore[method-assign]

    with serving(place, prepare=break_it) as server:
        answer = server.get("/api/items/1/neighbours")
        assert (answer.status_code, answer.json()) == (
            500,
            {"detail": "an internal error occurred; the server's log says more"},
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
