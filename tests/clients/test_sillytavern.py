"""SillyTavern's image generation, with the source "Stable Diffusion Web UI (AUTOMATIC1111)".

Requests as its server and its extension make them: src/endpoints/stable-diffusion.js and
public/scripts/extensions/stable-diffusion/index.js, read on 2026-11-28.
"""

import json
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from webui import QUICK, decoded, webui

PAYLOAD = {
    "prompt": "best quality, absurdres, aesthetic, a lake",
    "negative_prompt": "lowres, bad anatomy",
    "sampler_name": "DDIM",
    "scheduler": "normal",
    "cfg_scale": 7,
    "restore_faces": False,
    "enable_hr": False,
    "hr_upscaler": "Latent",
    "hr_scale": 1,
    "hr_additional_modules": [],
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 0,
    "override_settings": {"CLIP_stop_at_last_layers": 1},
    "override_settings_restore_afterwards": True,
    "clip_skip": 1,
    "save_images": True,
    "send_images": True,
    "do_not_save_grid": False,
    "do_not_save_samples": False,
    **QUICK,
}
"""What the extension sends as it is installed."""


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    with webui() as server:
        yield server


def test_it_connects(server: TestClient) -> None:
    options = server.get("/sdapi/v1/options").json()  # its ping
    titles = [model["title"] for model in server.get("/sdapi/v1/sd-models").json()]
    assert options["sd_model_checkpoint"] in titles  # which it selects in its list
    for path in ("samplers", "schedulers", "upscalers", "latent-upscale-modes"):
        assert all(row["name"] for row in server.get(f"/sdapi/v1/{path}").json())
    assert isinstance(server.get("/sdapi/v1/sd-vae").json(), list)


def test_it_chooses_a_model_and_waits_until_it_is_loaded(server: TestClient) -> None:
    (model,) = server.get("/sdapi/v1/sd-models").json()
    assert server.post("/sdapi/v1/options", json={"sd_model_checkpoint": model["title"]}).is_success
    told = server.get("/sdapi/v1/progress").json()
    assert (told["progress"], told["state"]["job_count"]) == (0, 0)  # else it asks for twenty seconds


def test_it_draws(server: TestClient) -> None:
    answer = server.post("/sdapi/v1/txt2img", json=PAYLOAD).json()
    assert decoded(answer["images"][0]).size == (64, 64)
    assert json.loads(answer["info"])["sampler_name"] == "DDIM"


def test_it_draws_in_two_passes(server: TestClient) -> None:
    asked = {**PAYLOAD, "enable_hr": True, "hr_scale": 1.5}
    assert decoded(server.post("/sdapi/v1/txt2img", json=asked).json()["images"][0]).size == (96, 96)


def test_it_learns_why_faces_are_not_detailed(server: TestClient) -> None:
    face = {"ADetailer": {"args": [True, True, {"ad_model": "face_yolov8n.pt"}]}}
    answer = server.post("/sdapi/v1/txt2img", json={**PAYLOAD, "alwayson_scripts": face})
    assert answer.status_code == 422
    assert "ADetailer: not supported here" in answer.text  # it shows the body


def test_it_interrupts(server: TestClient) -> None:
    assert server.post("/sdapi/v1/interrupt").is_success
