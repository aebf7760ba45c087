"""The API against its own OpenAPI schema: requests that it allows and others, drawn by schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from app.serve.conftest import picture
from embedding_expansion.app.serve.application import application
from embedding_expansion.app.serve.service import Service
from embedding_expansion.app.serve.settings import Settings

# The server's thread that looks at the index goes on meanwhile, and its checks of types, which tests switch on, draw
# with `random`. Hypothesis takes that for the work of its strategies.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
OPERATIONS = {
    "POST /api/search",
    "GET /api/items/{id}",
    "GET /api/items/{id}/neighbours",
    "GET /api/items/{id}/thumbnail",
    "GET /api/samples",
    "GET /api/map",
    "GET /api/clusters",
    "GET /api/clusters/{c}",
    "GET /api/about",
    "GET /healthz",
    "GET /metrics",
}


@pytest.fixture(scope="module")
def api(place: Path) -> Iterator[Any]:
    options = Settings(str(place), device="cpu", max_bytes=5000)
    with Service.open(options) as service:
        app = application(service, options, is_loopback=False)
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_answers_are_as_the_schema_says(api: Any, operation: str, mode: GenerationMode) -> None:
    method, path = operation.split()
    described = api[path][method]
    if mode is GenerationMode.NEGATIVE and not list(described.iter_parameters()):
        return  # there is nothing that could be wrong

    # No schema can say what an image is, so that what it allows need not be one.
    given_body = (
        {"body": picture(0), "media_type": "image/png"} if method == "POST" and mode is GenerationMode.POSITIVE else {}
    )

    @settings(max_examples=settings().max_examples * 3 // 2, suppress_health_check=list(HealthCheck))
    @given(case=described.as_strategy(generation_mode=mode, **given_body))
    def check(case: Any) -> None:
        case.call_and_validate()

    check()


def test_the_schema_has_every_route_and_all_problems_are_of_one_type(api: Any) -> None:
    found = {
        f"{method.upper()} {path}": operation
        for path, methods in api.raw_schema["paths"].items()
        for method, operation in methods.items()
    }
    assert set(found) == OPERATIONS
    for operation in found.values():
        for status, response in operation["responses"].items():
            if status.startswith(("4", "5")):
                (content,) = response["content"].values()
                assert content["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
