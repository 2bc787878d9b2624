"""Open WebUI, with the image engine "Automatic1111".

Requests as backend/open_webui/routers/images.py makes them, read on 2026-11-28.
"""

import json
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from webui import QUICK, decoded, webui


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    with webui() as server:
        yield server


def test_it_verifies_the_address(server: TestClient) -> None:
    assert server.get("/sdapi/v1/options").is_success
    assert server.get("/sdapi/v1/options", auth=("anyone", "wrong")).status_code == 401


def test_it_chooses_a_model(server: TestClient) -> None:
    (model,) = server.get("/sdapi/v1/sd-models").json()
    assert model["model_name"]  # which it shows
    options = server.get("/sdapi/v1/options").json()
    assert server.post("/sdapi/v1/options", json=options | {"sd_model_checkpoint": model["title"]}).is_success


def test_it_draws(server: TestClient) -> None:
    asked = {"prompt": "a lake", "batch_size": 2, "negative_prompt": "sea", **QUICK}
    answer = server.post("/sdapi/v1/txt2img", json=asked).json()
    assert [decoded(image).size for image in answer["images"]] == [(64, 64)] * 2
    assert json.loads(answer["info"])["prompt"] == "a lake"


def test_it_shows_why_nothing_is_drawn(server: TestClient) -> None:
    answer = server.post("/sdapi/v1/txt2img", json={"prompt": "a lake", "width": 65, "height": 64})
    assert "width must be a multiple of 8" in answer.json()["error"]["message"]
