"""What Krita AI Diffusion asks first, from ai_diffusion/backend/comfy_client.py: it needs more than there is here."""

import pytest
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.server import create_app

REQUIRED = (
    "InpaintPreprocessor", "DepthAnythingV2Preprocessor", "IPAdapterModelLoader", "IPAdapter", "ETN_LoadImageCache",
    "ETN_SaveImageCache", "ETN_Translate", "INPAINT_LoadFooocusInpaint", "INPAINT_ShrinkMask",
    "INPAINT_StabilizeMask", "INPAINT_ColorMatch",
)  # fmt: skip
"""Nodes without which it does not connect (resources.py, `required_custom_nodes`)."""


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(create_app(Pipeline.load(provider="cpu")))


def test_it_finds_a_server_and_then_which_nodes_are_missing(client: TestClient) -> None:
    device = client.get("/system_stats").json()["devices"][0]
    assert (device["name"], device["type"]) == ("cpu", "cpu")
    assert device["vram_total"] >= 0
    with client.websocket_connect("/ws?clientId=9c1f") as websocket:
        assert websocket.receive_json()["type"] == "status"
    assert not client.get("/object_info").json().keys() & set(REQUIRED)


def test_its_graphs_are_refused_by_the_names_of_their_nodes(client: TestClient) -> None:
    graph = {"1": {"class_type": "ETN_SaveImageCache", "inputs": {"images": ["2", 0], "format": "PNG"}}}
    answer = client.post("/prompt", json={"prompt": graph, "client_id": "9c1f", "prompt_id": "5b0e"})
    assert answer.status_code == 400
    assert "ETN_SaveImageCache" in answer.json()["error"]["message"]
