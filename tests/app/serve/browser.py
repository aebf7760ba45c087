"""A page of a real headless Chromium, which notes whatever goes wrong in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from app.serve.conftest import wait_for


@contextmanager
def page_of(
    chromium: Any, url: str, *, errors: int = 0, session: dict[str, str] | None = None, **options: Any
) -> Iterator[Any]:
    """A fresh page, whose tab has stored some values already.

    At the end nothing must have been asked of another host, and nothing written to the console but `errors` messages
    on answers that were no success, which Chromium writes by itself.
    """
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
    context.set_default_timeout(60_000)
    for name, value in (session or {}).items():
        context.add_init_script(f"sessionStorage.setItem({json.dumps(name)}, {json.dumps(value)})")
    page = context.new_page()
    said: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(f"{error}"))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    try:
        page.goto(url)
        yield page
    finally:
        context.close()
    expected = [line for line in said if line.startswith("Failed to load resource")]
    others = [line for line in said if line not in expected]
    assert not others, others
    assert len(expected) <= errors, expected
    assert hosts <= {urlsplit(url).netloc, ""}, hosts


def until(page: Any, expression: str) -> None:
    """Waits for a JavaScript expression to hold; Playwright's own way needs eval, which the page forbids."""
    wait_for(lambda: bool(page.evaluate(expression)))


def names(page: Any) -> list[str]:
    """The labels of the results, in their order."""
    page.wait_for_selector("#answer:not([hidden])[aria-busy=false] #matches li")
    found: list[str] = page.locator("#matches .name").evaluate_all("all => all.map(one => one.firstChild.textContent)")
    return found


def focused(page: Any) -> str:
    """The id of the element that has the focus."""
    found: str = page.evaluate("document.activeElement.id")
    return found
