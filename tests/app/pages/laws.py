"""What holds for every page, told by a parser."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from app.test_report import Page

LINKS = ("src", "href", "action", "data", "srcset", "poster", "formaction")


def check_page(path: Path) -> Page:
    """Reads a page and holds every law against it."""
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [], "an element is not closed"
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], "an event handler"
        for name in LINKS:
            value = attributes.get(name)
            if value is None or value.startswith("data:image/"):
                continue
            assert (tag, name) == ("a", "href")
            if value.startswith("#"):
                assert value[1:] in targets
            else:
                assert "/" not in value
                assert (path.parent / value).is_file()
    assert not page.of("script")
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    (policy,) = [meta["content"] for meta in page.of("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert page.of("html")[0]["lang"] == "en"
    assert len(page.of("h1")) == 1
    for picture in page.of("img"):
        assert picture["alt"].strip()
        content = base64.b64decode(picture["src"].partition(";base64,")[2], validate=True)
        assert max(Image.open(io.BytesIO(content)).size) <= 160
    for attributes in (found for _, found in page.elements if found.get("role") == "img"):
        assert attributes["aria-label"].strip()
    return page


def rows_of(page: Page) -> int:
    """How many rows its tables have, those of headings left out."""
    return len(page.of("tr")) - len(page.of("thead"))
