"""A client of `embex serve`. It needs only the standard library."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedding_expansion.checks import as_whole, validates
from embedding_expansion.errors import InvalidInput, StoreError


@dataclass(frozen=True)
class ClientMatch:
    """An image of the collection that matches a query.

    Attributes:
        id: its id, for `Client.neighbours`.
        path: the path of the original image on the machine that built the index.
        label: its class, or None.
        similarity: the cosine similarity to the query; larger is closer.
    """

    id: int
    path: str
    label: str | None
    similarity: float


@dataclass(frozen=True)
class ClientAnswer:
    """The result of a search.

    Attributes:
        matches: the matches, the closest first.
        known: whether the best match reaches the calibrated threshold; None if there is none for this collection.
        reason: why there is no threshold, or why it is that of the model; empty if it was calibrated on the collection.
    """

    matches: list[ClientMatch]
    known: bool | None
    reason: str = ""


class Client:
    """A client of a server that `embex serve` has started.

        client = Client("http://127.0.0.1:8000")
        for match in client.search("bird.jpg", k=5).matches:
            print(match.similarity, match.label, match.path)

    Args:
        url: the URL of the server.
        token: the token of the server; None for a server without a token.
        timeout: seconds to wait for a response.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 60.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidInput(f"url is {url!r}; pass a URL that starts with http:// or https://")
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
    ) -> ClientAnswer:
        """Finds the images that are most similar to an image.

        Args:
            image: the path of an image file, or its bytes.
            k: the number of matches, 1 to 100.
            qe: the number of neighbours used for query expansion, 0 to 20; 0 turns it off.
            alpha: query expansion weighs each neighbour by its cosine similarity to this power.
            label: search only images with this label; None searches all.

            Raises:
                InvalidInput: the server rejects the request, for the reason in the message.
                StoreError: the server cannot be reached, is too busy, or fails.
        """
        k, qe = as_whole(k, "k", least=1), as_whole(qe, "qe", least=0)
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        return _result(self._ask("/api/search", content, k=k, qe=qe, alpha=alpha, label=label))

    @validates
    def neighbours(
        self, id: int, k: int = 10, *, qe: int = 0, alpha: float = 3.0, label: str | None = None
    ) -> ClientAnswer:
        """Finds the images that are most similar to one of the collection. Options and errors are those of `search`."""
        id, k, qe = as_whole(id, "id", least=1), as_whole(k, "k", least=1), as_whole(qe, "qe", least=0)
        return _result(self._ask(f"/api/items/{id}/neighbours", None, k=k, qe=qe, alpha=alpha, label=label))

    def about(self) -> dict[str, Any]:
        """Describes the collection, the model and the limits of the server."""
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
                detail = _detail(error)
                refused = 400 <= error.code < 500
                raise (InvalidInput if refused else StoreError)(f"{self._url} returned an error: {detail}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise StoreError(
                f"{self._url} cannot be reached ({reason}); check that embex serve is running there"
            ) from error


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.code} {error.reason}"


def _result(answer: dict[str, Any]) -> ClientAnswer:
    matches = [ClientMatch(one["id"], one["path"], one["label"], one["similarity"]) for one in answer["matches"]]
    return ClientAnswer(matches, answer["known"], answer["threshold_reason"])


_RENAMED = {"Found": "ClientMatch", "Result": "ClientAnswer"}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        new = _RENAMED[name]
        warnings.warn(f"{name} is now called {new}; the old name goes with the next release", DeprecationWarning, 2)
        return globals()[new]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
