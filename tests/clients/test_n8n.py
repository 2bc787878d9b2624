"""n8n's node "OpenAI", resource "Image", with the base URL of its credential.

Requests as packages/@n8n/nodes-langchain/nodes/vendors/OpenAi of n8n-io/n8n makes them (commit 0713e95).
"""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from webui import TOKEN, decoded, webui


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    with webui() as server:
        server.auth, server.headers["Authorization"] = None, f"Bearer {TOKEN}"
        yield server


def test_its_credential_is_tested_by_the_list_of_models(server: TestClient) -> None:
    assert server.get("/v1/models").is_success
    assert server.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_it_draws(server: TestClient) -> None:
    asked = {"prompt": "a lake", "model": "gpt-image-1-mini", "n": 1, "size": "64x64", "quality": "medium"}
    (drawn,) = server.post("/v1/images/generations", json=asked).json()["data"]
    assert decoded(drawn["b64_json"]).size == (64, 64)


def test_it_passes_urls_on(server: TestClient) -> None:
    asked = {"prompt": "a lake", "model": "dall-e-3", "response_format": "url", "size": "64x64", "style": "vivid"}
    (drawn,) = server.post("/v1/images/generations", json=asked).json()["data"]
    assert server.get(drawn["url"], headers={"Authorization": ""}).headers["content-type"] == "image/png"
