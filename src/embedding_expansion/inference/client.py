"""A client of `embex serve` on the standard library: it needs neither the model nor any other package."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_expansion.checks import as_whole, validates
from embedding_expansion.errors import InvalidInput, StoreError


@dataclass(frozen=True)
class Found:
    """An image of the collection that a search found.

    Attributes:
        id: its number, to search from it.
        path: where the original lies, on the machine that made the index.
        label: its class, or None.
        similarity: the cosine to the query; larger is closer.
    """

    id: int
    path: str
    label: str | None
    similarity: float


@dataclass(frozen=True)
class Result:
    """What was found.

    Attributes:
        matches: the closest first.
        known: whether the collection holds the query's class, by the calibrated threshold; None without one.
    """

    matches: list[Found]
    known: bool | None


class Client:
    """Asks a server that `embex serve` has started.

        client = Client("http://127.0.0.1:8000")
        for found in client.search("bird.jpg", k=5).matches:
            print(found.similarity, found.label, found.path)

    Args:
        url: of the server.
        token: what it was started with, if it was.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 60.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidInput(f"url is {url!r}; pass one that starts with http:// or https://")
        self._url, self._token, self._timeout = url.rstrip("/"), token, timeout

    @validates
    def search(
        self,
        image: str | os.PathLike[str] | bytes,
        k: int = 10,
        *,
        qe: int = 0,
        alpha: float = 3.0,
        label: str | None = None,
    ) -> Result:
        """Finds the images that are closest to an image.

        Args:
            image: a file, or the bytes of one.
            k: how many, 1 to 100.
            qe: query expansion by so many of the neighbours, 0 to 20.
            alpha: the exponent of a neighbour's cosine in query expansion.
            label: only images of this label.

        Raises:
            InvalidInput: the server refuses this; its sentence says why.
            StoreError: it cannot be reached, is too busy, or fails.
        """
        k, qe = as_whole(k, "k", least=1), as_whole(qe, "qe", least=0)
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        return _result(self._ask("/api/search", content, k=k, qe=qe, alpha=alpha, label=label))

    @validates
    def neighbours(self, id: int, k: int = 10, *, qe: int = 0, alpha: float = 3.0, label: str | None = None) -> Result:
        """Finds the images that are closest to one of the collection; the same options and errors as `search`."""
        id, k, qe = as_whole(id, "id", least=1), as_whole(k, "k", least=1), as_whole(qe, "qe", least=0)
        return _result(self._ask(f"/api/items/{id}/neighbours", None, k=k, qe=qe, alpha=alpha, label=label))

    def about(self) -> dict[str, Any]:
        """What is served."""
        return self._ask("/api/about", None)

    def _ask(self, path: str, content: bytes | None, **options: object) -> dict[str, Any]:
        query = urllib.parse.urlencode({name: value for name, value in options.items() if value is not None})
        request = urllib.request.Request(f"{self._url}{path}?{query}", data=content)
        request.add_header("Content-Type", "application/octet-stream")
        if self._token is not None:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            with error:
                said = _sentence(error)
            refused = 400 <= error.code < 500
            raise (InvalidInput if refused else StoreError)(f"{self._url} says: {said}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise StoreError(f"{self._url} cannot be asked ({reason}); is embex serve running there?") from error


def _sentence(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.code} {error.reason}"


def _result(answer: dict[str, Any]) -> Result:
    found = [Found(one["id"], one["path"], one["label"], one["similarity"]) for one in answer["matches"]]
    return Result(found, answer["known"])
