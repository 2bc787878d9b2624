"""AUTOMATIC1111's API, request by request; tests/clients has a client of it."""

import base64
import json
import threading
import time
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.drawing.samplers import SAMPLERS
from pocket_diffusion.drawing.schedulers import SCHEDULERS
from serving import SMALL

ASKED = {"prompt": "a lake", **SMALL}


def text(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def picture(data: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(data)))


def test_txt2img_draws_what_the_pipeline_draws(client: TestClient, pipeline: Pipeline) -> None:
    asked = {**ASKED, "cfg_scale": 3, "negative_prompt": "sea", "sampler_name": "DDPM"}
    answer = client.post("/sdapi/v1/txt2img", json=asked).json()
    settings = {**SMALL, "sampler": "ddpm", "guidance_scale": 3, "negative_prompt": "sea"}
    expected = pipeline.generate("a lake", **settings).images[0]
    np.testing.assert_array_equal(np.asarray(picture(answer["images"][0])), np.asarray(expected))
    info = json.loads(answer["info"])
    assert (info["seed"], info["sampler_name"], info["sd_model_name"]) == (7, "DDPM", pipeline.name)
    assert info["infotexts"] == [picture(answer["images"][0]).text["parameters"]]
    assert answer["parameters"]["cfg_scale"] == 3


def test_batches_and_seeds(client: TestClient) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={**ASKED, "batch_size": 1, "n_iter": 2, "seed": -1}).json()
    first, second = json.loads(answer["info"])["all_seeds"]
    assert second == first + 1
    assert len(answer["images"]) == 2


def test_a_sampler_that_is_not_here_gives_way_and_the_answer_says_so(client: TestClient) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={**ASKED, "sampler_name": "Restart", "hr_scale": 2})
    info = json.loads(answer.json()["info"])
    usual = SAMPLERS[client.get("/api/model").json()["sampler"]]
    assert info["sampler_name"] == usual.label
    assert info["without_effect"] == ["hr_scale", "sampler_name"]


@pytest.mark.parametrize(
    ("asked", "sampler", "scheduler"),
    [
        ({"sampler_name": "DPM++ 2M Karras"}, "DPM++ 2M", "Karras"),
        ({"sampler_name": "DPM++ 2M", "scheduler": "Exponential"}, "DPM++ 2M", "Exponential"),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "Exponential"}, "DPM++ 2M", "Karras"),  # as A1111 does
        ({"sampler_index": "Euler a", "scheduler": "Automatic"}, "Euler a", "Normal"),
        ({"sampler_name": "k_lms", "scheduler": "automatic"}, "LMS", "Karras"),
    ],
)
def test_samplers_and_schedulers_go_by_their_labels(
    client: TestClient, asked: dict[str, str], sampler: str, scheduler: str
) -> None:
    info = json.loads(client.post("/sdapi/v1/txt2img", json={**ASKED, "steps": 2, **asked}).json()["info"])
    assert (info["sampler_name"], info["scheduler"]) == (sampler, scheduler)
    assert f"Sampler: {sampler}, Schedule type: {scheduler}" in info["infotexts"][0]


def test_eta_reaches_the_samplers_that_have_one_and_is_named_where_it_has_no_effect(client: TestClient) -> None:
    drawn = {}
    for eta in (0.0, 1.0):
        asked = {**ASKED, "steps": 2, "sampler_name": "Euler a", "eta": eta}
        drawn[eta] = client.post("/sdapi/v1/txt2img", json=asked).json()["images"]
    assert drawn[0.0] != drawn[1.0]
    asked = {**ASKED, "sampler_name": "DPM++ 2M", "eta": 1.0, "s_noise": 1.0}
    info = json.loads(client.post("/sdapi/v1/txt2img", json=asked).json()["info"])
    assert info["without_effect"] == ["eta", "s_noise"]


def test_what_of_sampler_and_scheduler_did_not_draw_is_named(client: TestClient) -> None:
    asked = {**ASKED, "steps": 2, "sampler_name": "DPM++ 2M Karras", "scheduler": "Exponential"}
    assert json.loads(client.post("/sdapi/v1/txt2img", json=asked).json()["info"])["without_effect"] == ["scheduler"]
    asked = {**ASKED, "steps": 2, "sampler_name": "DPMSolverMultistepScheduler", "scheduler": "Karras"}
    info = json.loads(client.post("/sdapi/v1/txt2img", json=asked).json()["info"])
    assert (info["scheduler"], info["without_effect"]) == ("Karras", [])


def test_clip_skip_is_an_option_of_one_drawing(client: TestClient, pipeline: Pipeline) -> None:
    asked = {**ASKED, "override_settings": {"CLIP_stop_at_last_layers": 2}}
    answer = client.post("/sdapi/v1/txt2img", json=asked).json()
    assert json.loads(answer["info"])["clip_skip"] == 2
    expected = pipeline.generate("a lake", **SMALL, clip_skip=2).images[0]
    np.testing.assert_array_equal(np.asarray(picture(answer["images"][0])), np.asarray(expected))


@pytest.mark.filterwarnings("default::pocket_diffusion.drawing.prompt.PromptWarning")
def test_a_lora_in_the_prompt_is_told_of(client: TestClient) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={**ASKED, "prompt": "a lake <lora:moss:1>"}).json()
    (warning,) = json.loads(answer["info"])["warnings"]
    assert "LoRA 'moss' is not loaded" in warning


def test_img2img_with_masks_either_way(client: TestClient, pipeline: Pipeline) -> None:
    red, left = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 0)
    left.paste(255, (0, 0, 32, 64))
    drawn = {}
    for invert, mask in ((0, left), (1, left.point(lambda level: 255 - level))):
        asked = {
            **ASKED, "init_images": ["data:image/png;base64," + text(red)], "denoising_strength": 1.0,
            "mask": text(mask), "inpainting_mask_invert": invert,
        }  # fmt: skip
        answer = client.post("/sdapi/v1/img2img", json=asked).json()
        assert answer["parameters"]["init_images"] == []  # not sent back
        drawn[invert] = np.asarray(picture(answer["images"][0]))
    expected = pipeline.generate("a lake", **SMALL, image=red, mask=left, strength=1.0).images[0]
    np.testing.assert_array_equal(drawn[0], np.asarray(expected))
    np.testing.assert_array_equal(drawn[1], drawn[0])


def test_images_are_not_sent_where_they_are_not_wanted(client: TestClient) -> None:
    assert client.post("/sdapi/v1/txt2img", json={**ASKED, "send_images": False}).json()["images"] == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"enable_hr": True}, "enable_hr: not supported here"),
        ({"tiling": True, "restore_faces": True}, "restore_faces, tiling: not supported"),
        ({"styles": ["anime"]}, "styles"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"image": "x"}]}}}, "ControlNet"),
        ({"override_settings": {"sd_model_checkpoint": "other"}}, "can only be"),
        ({"override_settings": "all"}, "$.override_settings"),
        ({"alwayson_scripts": {"x" * 20_000: 1}}, "alwayson_scripts"),
        ({"init_images": ["x"]}, "txt2img none"),
        ({"steps": "many"}, "$.steps"),
        ({"batch_size": 0}, "$.batch_size"),
        ({"batch_size": 10**6, "n_iter": 10**6}, "count must be"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"seed": -2}, "seed must be"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(client: TestClient, change: dict[str, object], why: str) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={**ASKED, **change})
    assert answer.status_code == 422
    assert why in answer.json()["detail"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, "img2img takes one"),
        ({"init_images": ["x", "y"]}, "img2img takes one"),
        ({"init_images": ["%%%"]}, "must be a picture file in Base64"),
        ({"init_images": ["http://localhost/a.png"]}, "must be a picture file in Base64"),
        ({"init_images": [text(Image.new("L", (64, 64)))], "mask": "data:,"}, "the mask is not a picture"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_pictures_that_are_none_are_refused(client: TestClient, change: dict[str, object], why: str) -> None:
    answer = client.post("/sdapi/v1/img2img", json={**ASKED, "denoising_strength": 1, **change})
    assert answer.status_code == 422
    assert why in answer.json()["detail"]


def test_text_that_is_none_is_refused(client: TestClient) -> None:
    assert client.post("/sdapi/v1/txt2img", content=b'{"prompt": "\xff"}').status_code == 400
    assert client.post("/sdapi/v1/txt2img", content=b'{"styles": "\xff"}').status_code == 400
    assert client.post("/sdapi/v1/txt2img", json={"x" * 101: 1}).status_code == 422
    assert client.post("/sdapi/v1/txt2img", json={"sampler_name": "x" * 101}).status_code == 422


def test_scripts_that_are_switched_off_are_no_obstacle(client: TestClient) -> None:
    scripts = {"ADetailer": {"args": [False]}, "ControlNet": {"args": []}}
    asked = {**ASKED, "alwayson_scripts": scripts, "styles": None, "save_images": True, "inpainting_mask_invert": False}
    assert client.post("/sdapi/v1/txt2img", json=asked).status_code == 200


def test_progress_and_interrupt(client: TestClient) -> None:
    assert client.get("/sdapi/v1/progress").json()["progress"] == 0
    answers = []
    asked = {**ASKED, "width": 256, "height": 256, "steps": 100}
    drawing = threading.Thread(target=lambda: answers.append(client.post("/sdapi/v1/txt2img", json=asked)))
    drawing.start()
    deadline = time.monotonic() + 30
    while not (told := client.get("/sdapi/v1/progress").json())["current_image"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert 0 < told["progress"] < 1
    assert told["state"]["job_count"] == 1
    assert picture(told["current_image"]).size == (32, 32)
    assert client.post("/sdapi/v1/interrupt").status_code == 200
    drawing.join(timeout=30)
    assert answers[0].status_code == 200
    assert answers[0].json()["images"] == []


def test_a_png_tells_how_it_was_made(client: TestClient) -> None:
    drawn = client.post("/sdapi/v1/txt2img", json=ASKED).json()["images"][0]
    told = client.post("/sdapi/v1/png-info", json={"image": "data:image/png;base64," + drawn}).json()
    assert told["info"].startswith("a lake\nSteps: 1, Sampler: ")
    assert json.loads(told["items"]["pocket-diffusion"])["seed"] == 7
    plain = client.post("/sdapi/v1/png-info", json={"image": text(Image.new("RGB", (8, 8)))}).json()
    assert plain["info"] == ""
    assert client.post("/sdapi/v1/png-info", json={"image": "AAAA"}).status_code == 422


def test_options_can_be_set_to_what_they_are(client: TestClient, pipeline: Pipeline) -> None:
    current = client.get("/sdapi/v1/options").json()
    assert current["sd_model_checkpoint"] == pipeline.name
    assert client.post("/sdapi/v1/options", json=current).status_code == 200
    answer = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "other"})
    assert answer.status_code == 422
    assert f"can only be {pipeline.name!r}" in answer.json()["detail"]
    assert "is none of" in client.post("/sdapi/v1/options", json={"x": 1}).json()["detail"]


def test_what_there_is_is_named(client: TestClient, pipeline: Pipeline) -> None:
    assert [row["name"] for row in client.get("/sdapi/v1/samplers").json()] == [
        kind.label for kind in SAMPLERS.values()
    ]
    schedulers = client.get("/sdapi/v1/schedulers").json()
    assert [row["label"] for row in schedulers] == ["Automatic", *(row.label for row in SCHEDULERS.values())]
    assert [model["model_name"] for model in client.get("/sdapi/v1/sd-models").json()] == [pipeline.name]
    assert client.get("/sdapi/v1/upscalers").json() == []
    assert client.get("/sdapi/v1/scripts").json() == {"txt2img": [], "img2img": []}
