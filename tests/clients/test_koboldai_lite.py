"""KoboldAI Lite, with images by "KCPP / Forge / A1111": a page of another origin, without a password.

Requests as index.html of LostRuins/lite.koboldai.net makes them (commit 27eb1dc).
"""

from collections.abc import Iterator

import pytest
from PIL import Image
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.server import create_app
from webui import QUICK, decoded, encoded, webui


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    with webui(token=None) as server:
        yield server


def payload(model: str) -> dict[str, object]:
    """Return what the page sends for a picture, with its own settings as they are at first."""
    return {
        "prompt": "a lake",
        "seed": 55364528,
        "sampler_name": "Euler",
        "batch_size": 1,
        "n_iter": 1,
        "cfg_scale": 5,
        "negative_prompt": "ugly, deformed, poorly, censor, blurry, lowres, malformed, watermark, duplicated",
        "do_not_save_samples": True,
        "do_not_save_grid": True,
        "enable_hr": False,
        "eta": 0,
        "s_churn": 0,
        "s_tmax": 0,
        "s_tmin": 0,
        "s_noise": 1,
        "override_settings": {
            "sd_model_checkpoint": model,
            "eta_noise_seed_delta": 0,
            "CLIP_stop_at_last_layers": 1,
            "ddim_discretize": "uniform",
            "img2img_fix_steps": False,
            "sd_hypernetwork": "None",
            "inpainting_mask_weight": 1,
            "initial_noise_multiplier": 1,
            "comma_padding_backtrack": 20,
        },
        **QUICK,
    }


def test_it_connects_and_draws(server: TestClient) -> None:
    models = server.get("/sdapi/v1/sd-models").json()
    options = server.get("/sdapi/v1/options").json()
    assert options["samples_format"] is not None  # else it says that this is no such server
    assert options["sd_model_checkpoint"] in [model["title"] for model in models]
    answer = server.post("/sdapi/v1/txt2img", json=payload(models[0]["title"]))
    assert answer.is_success, answer.text
    assert decoded(answer.json()["images"][0]).size == (64, 64)


def test_it_redraws_a_picture(server: TestClient) -> None:
    (model,) = server.get("/sdapi/v1/sd-models").json()
    source = encoded(Image.new("RGB", (64, 64), "red"))
    asked = {**payload(model["title"]), "init_images": [source], "denoising_strength": 0.6, "clip_skip": 1}
    answer = server.post("/sdapi/v1/img2img", json=asked)
    assert answer.is_success, answer.text
    assert decoded(answer.json()["images"][0]).size == (64, 64)


def test_its_page_may_ask_from_its_own_site() -> None:
    site = {"Origin": "https://lite.koboldai.net", "Sec-Fetch-Site": "cross-site"}
    app = create_app(Pipeline.load(provider="cpu"), origins=[site["Origin"]])
    with TestClient(app) as server:
        asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        assert server.options("/sdapi/v1/txt2img", headers={**site, **asking}).is_success
        answer = server.post("/sdapi/v1/txt2img", json=payload("landscapes"), headers=site)
    assert answer.is_success, answer.text
    assert answer.headers["access-control-allow-origin"] == site["Origin"]
