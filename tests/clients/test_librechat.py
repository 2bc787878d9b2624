"""LibreChat's image tools for agents, "OpenAI Image Tools", with IMAGE_GEN_OAI_BASEURL.

Requests as api/app/clients/tools/structured/OpenAIImageTools.js of danny-avila/LibreChat makes them (read on
2026-11-28); the model that talks chooses `background` and `size`.
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


DRAWING = {
    "model": "gpt-image-1", "prompt": "a lake", "n": 1, "background": "auto", "output_format": "webp",
    "output_compression": 100, "quality": "auto", "size": "auto",
}  # fmt: skip


def test_it_draws_in_the_format_that_it_is_set_to(server: TestClient) -> None:
    (drawn,) = server.post("/v1/images/generations", json=DRAWING).json()["data"]
    assert decoded(drawn["b64_json"]).format == "WEBP"


def test_it_edits(server: TestClient) -> None:
    picture = base64.b64decode(encoded(Image.new("RGB", (64, 64), "red")))
    answer = server.post(
        "/v1/images/edits",
        data={"model": "gpt-image-1", "prompt": "a lake", "quality": "auto", "size": "auto"},
        files={"image[]": ("lake.png", picture, "image/png")},
    )
    assert decoded(answer.json()["data"][0]["b64_json"]).size == (64, 64)


def test_its_model_learns_what_cannot_be_drawn(server: TestClient) -> None:
    answer = server.post("/v1/images/generations", json={**DRAWING, "background": "transparent"})
    assert answer.status_code == 400
    assert "background" in answer.json()["error"]["message"]  # which it is shown
