"""Krita's plug-in krita_controlnet, which draws by AUTOMATIC1111's API, with its ControlNet units switched off.

Requests as Tsukihara0w0/krita_controlnet makes them (commit 9ebb3df).
"""

from collections.abc import Iterator

import pytest
from PIL import Image
from starlette.testclient import TestClient

from webui import QUICK, decoded, encoded, webui


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    with webui(token=None) as server:
        yield server


PAYLOAD = {
    "prompt": "a lake",
    "negative_prompt": "worst quality",
    "seed": -1,
    "sampler_name": "Euler a",
    "cfg_scale": 7.0,
    "save_images": False,
    "override_settings": {"CLIP_stop_at_last_layers": 2},
    "alwayson_scripts": {"ControlNet": {"args": [{"enabled": False}, {"enabled": False}, {"enabled": False}]}},
    **QUICK,
}
RED = Image.new("RGB", (64, 64), "red")


def test_its_docker_opens(server: TestClient) -> None:
    """It reads these before it shows itself, and does not stand a missing one."""
    models = {model["model_name"]: model["title"] for model in server.get("/sdapi/v1/sd-models").json()}
    options = server.get("/sdapi/v1/options").json()
    assert options["sd_model_checkpoint"] in models.values()
    assert options["sd_vae"] == "Automatic"
    for path, key in (("sd-vae", "model_name"), ("samplers", "name"), ("upscalers", "name"),
                      ("latent-upscale-modes", "name")):  # fmt: skip
        assert all(row[key] for row in server.get(f"/sdapi/v1/{path}").json())
    assert server.get("/controlnet/settings").json()["control_net_max_models_num"] == 0
    assert server.get("/controlnet/model_list").json()["model_list"] == []


def test_it_draws_and_reads_the_seed(server: TestClient) -> None:
    (drawn,) = server.post("/sdapi/v1/txt2img", json=PAYLOAD).json()["images"]
    told = server.post("/sdapi/v1/png-info", json={"image": "data:image/png;base64," + drawn}).json()["info"]
    assert "Seed: " in told


def test_it_repaints_under_a_mask(server: TestClient) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    asked = {
        **PAYLOAD, "init_images": [encoded(RED)], "resize_mode": 0, "denoising_strength": 0.75, "mask": encoded(mask),
        "mask_blur": 4, "inpainting_mask_invert": 0, "inpainting_fill": 1, "inpaint_full_res": 0,
        "inpaint_full_res_padding": 32,
    }  # fmt: skip
    answer = server.post("/sdapi/v1/img2img", json=asked)
    assert answer.is_success, answer.text
    assert decoded(answer.json()["images"][0]).size == (64, 64)


def test_it_draws_in_two_passes(server: TestClient) -> None:
    asked = {
        **PAYLOAD, "enable_hr": True, "denoising_strength": 0.7, "hr_scale": 2.0, "hr_second_pass_steps": 0,
        "hr_upscaler": "Latent", "hr_sampler_name": "Euler a",
    }  # fmt: skip
    answer = server.post("/sdapi/v1/txt2img", json=asked)
    assert answer.is_success, answer.text
    assert decoded(answer.json()["images"][0]).size == (128, 128)
