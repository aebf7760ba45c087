"""The report of real runs: one file that needs nothing else, says what the run's files say, and can be read by all."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from embedding_expansion.app.cli import main

VOID = {"meta", "img", "br", "wbr", "link", "input"}
SMALL = (
    "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 2 --threads 1 --device cpu "
    "--data.image_size 16 --data.workers 0 --model.dim 6"
)


class Page(HTMLParser):
    """Every element with its attributes, all text, and whether the elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def odd_names(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without expansion, on classes that are named like markup; its loss compares with proxies."""
    data = tmp_path_factory.mktemp("odd") / "a&b"
    shutil.copytree(photographs, data)
    for number in range(8):
        (data / f"class_{number}").rename(data / f"<script>alert({number}) & 'x' \"y\"")
    run = data.parent / "run"
    given = ["--data", str(data), *SMALL.split(), "--loss", "proxy_anchor", "--expansion", "none", "--out", str(run)]
    assert main(["train", *given]) == 0
    return run


def test_training_writes_the_report_and_says_where(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", "--data", str(photographs), *SMALL.split(), "--out", str(run)]) == 0
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out
    assert not list(run.glob("*.partial*"))


def test_the_command_writes_the_same_bytes_as_training_did(trained: Path, tmp_path: Path) -> None:
    by_training = (trained / "report.html").read_bytes()
    assert main(["report", str(trained), "--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_bytes() == by_training
    assert main(["report", str(trained)]) == 0
    assert (trained / "report.html").read_bytes() == by_training


def test_the_page_is_whole_and_asks_nobody_for_anything(trained: Path, odd_names: Path) -> None:
    for run in (trained, odd_names):
        page = page_of(run)
        assert page.open == []
        asked = [
            value
            for _, attributes in page.elements
            for name, value in attributes.items()
            if name in ("src", "href", "action", "data", "srcset", "poster")
        ]
        assert all(value.startswith(("data:image/", "#")) for value in asked)
        targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
        assert {value[1:] for value in asked if value.startswith("#")} <= targets
        text = (run / "report.html").read_text(encoding="utf-8")
        assert "http://" not in text
        assert "https://" not in text
        assert not re.search(r"url\(|@import", text)
        assert len(text) < 5_000_000


def test_every_image_is_a_picture_with_a_text_and_every_table_has_headings(trained: Path) -> None:
    page = page_of(trained)
    images = page.of("img")
    assert len(images) > 40
    for image in images:
        assert image["alt"]
        kind, content = image["src"].split(";base64,")
        start = {"data:image/png": b"\x89PNG", "data:image/jpeg": b"\xff\xd8"}[kind]
        assert base64.b64decode(content, validate=True).startswith(start)
    assert all(heading.get("scope") in ("col", "row") for heading in page.of("th"))
    assert all(figure.get("aria-label") or figure.get("aria-labelledby") or figure.get("aria-hidden")
               for figure in page.of("svg"))  # fmt: skip
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    (root,) = page.of("html")
    assert root["lang"] == "en"


def test_right_and_wrong_answers_are_told_apart_in_words_signs_and_frames(trained: Path) -> None:
    page = page_of(trained)
    answers = [image for image in page.of("img") if re.search(r"thumbnail (right|wrong)", image["class"])]
    assert answers
    for image in answers:
        kind = image["class"].split()[1]
        assert image["alt"].startswith((f"{kind}: ", "found: "))
    query = ""
    for image in page.of("img"):
        kind, _, name = image["alt"].partition(": ")
        query = name if kind == "query" else query
        if kind in ("right", "wrong"):
            assert (kind == "right") == (name == query)
        if kind == "found":
            assert name != query
    signs = page.text.count("✓") + page.text.count("✗")
    assert signs == sum(image["alt"].startswith(("right: ", "wrong: ")) for image in answers) + 2  # and the key


def test_the_numbers_are_those_of_the_run(trained: Path) -> None:
    text = page_of(trained).text
    metrics = json.loads((trained / "metrics.json").read_text())
    for group in (metrics, metrics["before"]["raw_pixels"], metrics["before"]["untrained"]):
        for name in ("recall_at_1", "recall_at_4", "map_at_r", "nmi", "f1", "ami"):
            assert f"{group[name]:.3f}" in text
    config = re.sub(r"\s+", " ", (trained / "config.yaml").read_text())
    assert config.strip() in text
    environment = json.loads((trained / "environment.json").read_text())
    assert " ".join(environment["command"]) in text
    assert environment["versions"]["torch"] in text
    assert f"seed{environment['seed']}" in text  # a term and what it is
    sentence = metrics["verdict"]["sentence"]
    assert f"T{sentence[1:]}." in text


def test_a_class_named_like_markup_is_shown_as_text(odd_names: Path) -> None:
    page = page_of(odd_names)
    assert len(page.of("script")) == 1
    assert "<script>alert(7) & 'x' \"y\"" in page.text
    assert any("<script>alert(7)" in image["alt"] for image in page.of("img"))


def test_without_expansion_the_hardest_negatives_are_images(odd_names: Path, trained: Path) -> None:
    plain, expanded = page_of(odd_names), page_of(trained)
    assert "This run has no expansion." in plain.text
    assert "original" in plain.text
    assert not re.search(r"\d+ have two synthetic points", plain.text)
    assert re.search(r"\d+ have two synthetic points", expanded.text)


@pytest.mark.parametrize("options", [
    "--expansion 0", "--expansion inf", "--expansion.scope anchor", "--expansion.form balanced_negative",
    "--expansion.form samples", "--expansion.normalize_synthetic false",
    "--loss snr_contrastive --expansion none", "--protocol paper", "--protocol last --measure_before false",
    "--model.freeze_backbone true", "--memory 16", "--steps 1",
])  # fmt: skip
def test_every_kind_of_run_has_a_report_that_can_be_repeated(options: str, photographs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", "--data", str(photographs), *SMALL.split(), *options.split(), "--out", str(run)]) == 0
    first = (run / "report.html").read_bytes()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_bytes() == first
    text = page_of(run).text
    assert ("optimistic" in text) == ("paper" in options)
    assert ("untrained net" in text) == ("measure_before" not in options)
    assert "Hard negatives" in text
    assert ("Share of the pull that balance keeps" in text) == ("balanced" in options)
    assert ("synthetic points join the batch" in text) == ("samples" in options)
