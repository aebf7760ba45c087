"""The API against its own OpenAPI schema: requests that it allows and others, drawn by schemathesis."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from app.serve.conftest import picture
from app.serve.test_limits import TOKEN
from embedding_expansion.app.serve.application import application
from embedding_expansion.app.serve.service import Service
from embedding_expansion.app.serve.settings import Settings

# The server's thread that looks at the index goes on meanwhile, and its checks of types, which tests switch on, draw
# with `random`. Hypothesis takes that for the work of its strategies.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
OPERATIONS = {
    "POST /api/search",
    "POST /api/embed",
    "POST /api/query",
    "POST /api/export",
    "GET /api/text",
    "GET /api/items",
    "GET /api/items/{id}/original",
    "GET /api/labels",
    "GET /api/facts",
    "GET /api/duplicates",
    "GET /api/items/{id}",
    "GET /api/items/{id}/neighbours",
    "GET /api/items/{id}/thumbnail",
    "GET /api/samples",
    "GET /api/map",
    "GET /api/clusters",
    "GET /api/clusters/{c}",
    "GET /api/about",
    "POST /api/items",
    "POST /api/relabel",
    "POST /api/remove",
    "POST /api/undo",
    "GET /api/changes",
    "GET /healthz",
    "GET /metrics",
}


#: No schema can say what an image is, or which items there are, so that what it allows need not be one.
BODIES: dict[str, dict[str, Any]] = {
    "/api/search": {"body": picture(0), "media_type": "image/png"},
    "/api/embed": {"body": picture(0), "media_type": "image/png"},
    "/api/items": {"body": picture(0), "media_type": "image/png"},
    "/api/query": {"body": {"ids": [1, 2]}},
    "/api/export": {"body": {"ids": [1, 2]}},
    "/api/remove": {"body": {"ids": [99]}},
    "/api/relabel": {"body": {"ids": [1], "label": "a"}},
}


@pytest.fixture(scope="module")
def api(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("described") / "index"
    shutil.copytree(place, folder)
    options = Settings(str(folder), device="cpu", max_bytes=5000, token=TOKEN, edit=True)
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

    if path == "/api/text" and mode is GenerationMode.POSITIVE:
        return  # the model has no text tower, which refuses every text; test_page_tools.py searches by texts
    given_body = BODIES.get(path, {}) if method == "POST" and mode is GenerationMode.POSITIVE else {}

    @settings(max_examples=settings().max_examples * 3 // 2, suppress_health_check=list(HealthCheck))
    @given(case=described.as_strategy(generation_mode=mode, **given_body))
    def check(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"})

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
