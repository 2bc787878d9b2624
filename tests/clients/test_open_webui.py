"""Open WebUI, with the image engine "OpenAI", for drawing and for editing.

Requests as backend/open_webui/routers/images.py of open-webui/open-webui makes them (commit 02530d5).
"""

import base64
from collections.abc import Iterator

import pytest
from PIL import Image
from starlette.testclient import TestClient

from webui import TOKEN, decoded, encoded, webui


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    with webui() as server:
        server.auth, server.headers["Authorization"] = None, f"Bearer {TOKEN}"
        yield server


def test_it_draws(server: TestClient) -> None:
    asked = {"model": "dall-e-2", "prompt": "a lake", "n": 1, "size": "64x64", "response_format": "b64_json"}
    extra = {"steps": 2}  # by its setting of additional parameters
    data = server.post("/v1/images/generations", json={**asked, **extra}).json()["data"]
    assert data[0].get("url") is None  # which it would look up first
    assert decoded(data[0]["b64_json"]).size == (64, 64)


def test_it_edits(server: TestClient) -> None:
    picture = base64.b64decode(encoded(Image.new("RGB", (64, 64), "red")))
    answer = server.post(
        "/v1/images/edits?api-version=1",
        data={"model": "gpt-image-1", "prompt": "a lake", "n": "1", "size": "64x64", "background": "auto"},
        files={"image": ("3f2a.png", picture, "image/png")},
    )
    assert decoded(answer.json()["data"][0]["b64_json"]).size == (64, 64)
