"""Uploads are decoded by other processes: the same squares as elsewhere, one sentence for each that is refused, and
nothing that one of them does holds up the others."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from app.serve.conftest import Running, picture, serving, wait_for
from app.serve.hostile import image, jpeg_of_scans
from embedding_expansion.app.serve import decoders
from embedding_expansion.app.serve.batching import Stopped
from embedding_expansion.app.serve.decoders import Decoders, Refused
from embedding_expansion.app.serve.settings import BROWSER_FORMATS, Settings
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.inference import decoder
from embedding_expansion.inference.decoder import Decoded, DecodeTask, Verdict, judge
from embedding_expansion.inference.embedder import Embedder, Square

#: It takes seconds to decode, of whatever size the answer is.
SLOW = jpeg_of_scans(6900, 6900, 95)
PREPROCESSING = Preprocessing.of(16, "crop_flip")
TASK = DecodeTask(PREPROCESSING, ("JPEG", "PNG", "WEBP", "GIF", "AVIF"), 50_000_000, leaves_slow=False, memory=1 << 30)


@contextmanager
def decoding(**options: object) -> Iterator[Decoders]:
    made = Decoders(PREPROCESSING, Settings("", **options))  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.stop()


def squared(made: Decoders, content: bytes) -> Square:
    return asyncio.run(made.decoded(content)).square


def exists(process: int) -> bool:
    """Also as a zombie."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


FILES = {
    "JPEG": picture(1, 300, "JPEG"),
    "PNG": picture(2),
    "WebP": picture(3, 50, "WEBP"),
    "GIF": picture(4, 30, "GIF"),
    "wide": image("PNG", 400, 30),
    "grey": image("PNG", 30, 40, "L"),
    "16 bits": image("PNG", 30, 40, "I;16"),
    "CMYK": image("JPEG", 30, 40, "CMYK"),
}


def test_a_process_makes_the_squares_that_the_command_line_makes(embedder: Embedder) -> None:
    with decoding() as made:
        for name, content in FILES.items():
            np.testing.assert_array_equal(squared(made, content), embedder.square(content), name)


def test_formats_that_browsers_do_not_make_are_taken_if_that_is_wished(running: Running, place: Path) -> None:
    others = {"BMP": picture(0, kind="BMP"), "TIFF": picture(0, kind="TIFF"), "PPM": picture(0, kind="PPM")}
    for content in others.values():
        answer = running.search(content)
        said = "this is not an image in an accepted format; send JPEG, PNG, WEBP, GIF or AVIF"
        assert (answer.status_code, answer.json()["detail"]) == (415, said)
    with serving(place, formats=("bmp", "tiff")) as server:
        assert [server.search(content).status_code for content in others.values()] == [200, 200, 415]
        assert server.get("/api/about").json()["formats"] == ["bmp", "tiff"]
    assert running.get("/api/about").json()["formats"] == list(BROWSER_FORMATS)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_is_taken() -> None:
    content = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(content, "AVIF", quality=90)
    verdict, reply = judge(content.getvalue(), TASK)
    assert verdict is Verdict.SQUARE
    square = Decoded.of_bytes(reply, TASK.preprocessing.size).square
    np.testing.assert_allclose(square.reshape(-1, 3).mean(axis=0), (200, 30, 30), atol=4)


@pytest.mark.parametrize(
    ("content", "verdict", "said"),
    [
        (image("PNG", 8000, 8000, "1"), Verdict.TOO_LARGE, "64,000,000 pixels, but the limit is 50,000,000"),
        (image("PNG", 20_000, 20_000, "1"), Verdict.TOO_LARGE, "takes too much memory"),  # Pillow opens it not
        (image("PNG", 5000, 2), Verdict.UNUSABLE, "5000 pixels wide and 2 high"),
        (jpeg_of_scans(20, 20, 101), Verdict.UNUSABLE, "more than 100 scans"),
        (picture(0)[:300], Verdict.UNUSABLE, "cannot be decoded"),
        (image("TIFF", 3, 3, "F"), Verdict.UNKNOWN, "not an image in an accepted format"),
        (b"", Verdict.UNKNOWN, "not an image in an accepted format"),
    ],
    ids=["pixels", "bomb", "thin", "scans", "truncated", "format", "empty"],
)
def test_what_is_refused_is_refused_before_a_pixel_is_decoded(
    content: bytes, verdict: Verdict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if verdict is not Verdict.UNUSABLE or "cannot be decoded" not in said:
        monkeypatch.setattr(Image.Image, "convert", None)
        monkeypatch.setattr(np, "asarray", None)
    found, sentence = judge(content, TASK)
    assert (found, said in sentence.decode()) == (verdict, True)


def test_large_images_and_those_of_many_scans_are_left_to_the_slow_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "LARGE", 10_000)
    quick = DecodeTask(**{**vars(TASK), "leaves_slow": True})
    for content in (image("PNG", 101, 100), jpeg_of_scans(30, 30, 30)):
        assert judge(content, quick) == (Verdict.SLOW, b"")
        assert judge(content, TASK)[0] is Verdict.SQUARE
    assert judge(image("PNG", 100, 100), quick)[0] is Verdict.SQUARE


def test_at_the_deadline_the_process_is_ended_and_another_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "QUICK_PROCESSES", 1)
    with decoding(decode_timeout=0.2) as made:
        wait_for(lambda: is_decoded(made, FILES["PNG"]))  # on a busy machine it may be late itself
        _, slow = made.processes
        with pytest.raises(
            Refused, match=r"the image was not decoded within 0\.2 seconds; send a smaller one"
        ) as raised:
            squared(made, SLOW)
        assert raised.value.status == 504
        wait_for(lambda: len(made.processes) == 2)
        assert slow not in made.processes
        assert not exists(slow)
        wait_for(lambda: is_decoded(made, FILES["JPEG"]))


def is_decoded(made: Decoders, content: bytes) -> bool:
    try:
        return squared(made, content) is not None
    except Refused:
        return False


def test_ordinary_images_are_answered_while_the_slow_process_is_busy(place: Path) -> None:
    with serving(place, decode_timeout=600.0) as server:
        statuses = list[int]()
        left_out = jpeg_of_scans(30, 30, 30)
        assert server.search(left_out).status_code == 200
        slow = server.service.decoders.processes[-1]
        os.kill(slow, signal.SIGSTOP)
        try:
            clients = [
                threading.Thread(target=lambda: statuses.append(server.search(left_out).status_code)) for _ in range(6)
            ]
            for client in clients:
                client.start()
            wait_for(lambda: len(statuses) == 3)  # so many find no place: others are in it, or wait for it
            assert [server.search(content).status_code for content in FILES.values()] == [200] * len(FILES)
            assert statuses == [503] * 3
        finally:
            os.kill(slow, signal.SIGCONT)
            for client in clients:
                client.join()
        assert statuses == [503] * 3 + [200] * 3


def test_a_process_that_dies_is_followed_by_another_that_gets_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "QUICK_PROCESSES", 1)
    sent, send = list[bytes](), decoder.send
    monkeypatch.setattr(decoder, "send", lambda *given: (send(*given), sent.append(given[2])))
    with decoding(decode_timeout=600.0) as made, ThreadPoolExecutor(1) as pool:
        squared(made, FILES["PNG"])
        quick = made.processes[0]
        os.kill(quick, signal.SIGSTOP)
        asked = pool.submit(squared, made, FILES["JPEG"])
        wait_for(lambda: sent == [FILES["PNG"], FILES["JPEG"]])
        os.kill(quick, signal.SIGKILL)
        expected = asked.result(60)
        assert sent == [FILES["PNG"], FILES["JPEG"], FILES["JPEG"]]
        np.testing.assert_array_equal(expected, squared(made, FILES["JPEG"]))
        idle = made.processes[0]
        assert idle != quick
        os.kill(idle, signal.SIGKILL)  # as the system does where memory is short
        wait_for(lambda: Path(f"/proc/{idle}/stat").read_text().split()[2] == "Z")
        squared(made, FILES["JPEG"])
        assert not exists(idle)


def test_an_image_of_which_two_processes_die_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "QUICK_PROCESSES", 1)
    ended, receive = list[int](), decoder.receive

    def dies(*given: Any) -> Any:
        if given[1] == 0:  # the message that a process has started
            return receive(*given)
        ended.append(made.processes[0])
        os.kill(ended[-1], signal.SIGKILL)
        raise EOFError

    with decoding(decode_timeout=600.0) as made:
        squared(made, FILES["PNG"])
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "receive", dies)
            with pytest.raises(
                Refused, match="the decoder crashed on this image; save it again, or send another"
            ) as raised:
                squared(made, FILES["JPEG"])
        assert raised.value.status == 422
        assert len(set(ended)) == 2
        squared(made, FILES["JPEG"])


def test_memory_is_bounded_and_the_process_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "PER_PIXEL", 2)
    with decoding() as made:
        wait_for(lambda: len(made.processes) == decoders.QUICK_PROCESSES + 1)
        before = made.processes
        with pytest.raises(Refused, match="the image takes too much memory to decode; send a smaller one") as raised:
            squared(made, image("PNG", 7000, 7000))
        assert raised.value.status == 413
        assert made.processes == before


def test_a_process_writes_no_file(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from embedding_expansion.inference.decoder import confine; confine(1 << 30); "
        "pathlib.Path(sys.argv[1]).write_bytes(b'x')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "file"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "File too large" in ran.stderr


def test_stopping_ends_all_processes_even_one_that_decodes() -> None:
    with decoding() as made, ThreadPoolExecutor(1) as pool:
        wait_for(lambda: len(made.processes) == decoders.QUICK_PROCESSES + 1)
        processes = made.processes
        asked = pool.submit(squared, made, SLOW)
        made.stop()
        with pytest.raises(Stopped):
            asked.result(60)
        assert not any(map(exists, processes))
