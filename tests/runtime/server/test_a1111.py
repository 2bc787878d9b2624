"""AUTOMATIC1111's API, request by request; tests/clients has a client of it."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.drawing.samplers import SAMPLERS
from pocket_diffusion.drawing.schedulers import SCHEDULERS
from pocket_diffusion.server import create_app
from serving import LIMITS, SMALL

ASKED = {"prompt": "a lake", **SMALL}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """One server for all, so that its networks are loaded once; whoever changes its options changes them back."""
    with TestClient(create_app(Pipeline.load(provider="cpu", arithmetic="exact"), limits=LIMITS)) as client:
        yield client


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


def test_variations_are_turned_from_one_seed(client: TestClient, pipeline: Pipeline) -> None:
    answer = client.post(
        "/sdapi/v1/txt2img", json={**ASKED, "batch_size": 2, "subseed": 9, "subseed_strength": 0.2}
    ).json()
    info = json.loads(answer["info"])
    assert (info["all_seeds"], info["all_subseeds"], info["subseed_strength"]) == ([7, 7], [9, 10], 0.2)
    assert "Variation seed: 10, Variation seed strength: 0.2" in info["infotexts"][1]
    expected = pipeline.generate("a lake", **SMALL, variation_seed=10, variation_strength=0.2).images[0]
    np.testing.assert_array_equal(np.asarray(picture(answer["images"][1])), np.asarray(expected))


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
    expected = pipeline.generate("a lake", **SMALL, image=red, mask=left, mask_feather=4, strength=1.0).images[0]
    np.testing.assert_array_equal(drawn[0], np.asarray(expected))
    np.testing.assert_array_equal(drawn[1], drawn[0])


def test_images_are_not_sent_where_they_are_not_wanted(client: TestClient) -> None:
    assert client.post("/sdapi/v1/txt2img", json={**ASKED, "send_images": False}).json()["images"] == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"enable_hr": True, "hr_scale": 8}, "the second pass: 512x512 is too large; at most 65,536 pixels"),
        ({"enable_hr": True, "denoising_strength": 2}, "the second pass: strength must be a number from 0 to 1"),
        ({"enable_hr": True, "hr_second_pass_steps": 101}, "the second pass: steps must be at most 100"),
        ({"enable_hr": True, "hr_resize_x": 10**400}, "$.hr_resize_x"),
        ({"enable_hr": True, "width": 10**400, "hr_scale": 1.5}, "width must be a whole number"),
        ({"enable_hr": True, "hr_resize_x": 96, "hr_resize_y": 64}, "must have the proportions"),
        ({"enable_hr": True, "hr_checkpoint_name": "other"}, "hr_checkpoint_name"),
        ({"script_name": "x/y plot"}, "script_name"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True, {"ad_model": "face_yolov8n.pt"}]}}}, "ADetailer"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"enabled": True}]}}}, "ControlNet"),
        ({"override_settings": {"sd_vae": "vae-ft-mse"}}, "option sd_vae can only be 'Automatic' here"),
        ({"override_settings": {"eta_noise_seed_delta": 31337}}, "option eta_noise_seed_delta can only be 0 here"),
        ({"override_settings": {"use_old_scheduling": True}}, "option use_old_scheduling cannot be had here"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 1.5}}, "is a whole number"),
        ({"seed": 1.5}, "$.seed"),
        ({"tiling": True, "restore_faces": True}, "restore_faces, tiling: not supported"),
        ({"styles": ["anime"]}, "styles"),
        ({"alwayson_scripts": {"ControlNet": {"args": [{"image": "x"}]}}}, "ControlNet"),
        ({"override_settings": {"sd_model_checkpoint": "other"}}, "sd_model_checkpoint can be "),
        ({"override_settings": "all"}, "$.override_settings"),
        ({"alwayson_scripts": {"x" * 20_000: 1}}, "alwayson_scripts"),
        ({"init_images": ["x"]}, "txt2img none"),
        ({"steps": "many"}, "$.steps"),
        ({"batch_size": 0}, "$.batch_size"),
        ({"batch_size": 10**6, "n_iter": 10**6}, "count must be"),
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


@pytest.mark.parametrize(
    "neutral",
    [
        {"alwayson_scripts": {"ADetailer": {"args": [False]}, "ControlNet": {"args": []}}},
        {"alwayson_scripts": {"ADetailer": {"args": [False, True, {"ad_model": "face_yolov8n.pt"}]}}},
        {"alwayson_scripts": {"ADetailer": {"args": [{"ad_model": "None"}]}, "Dynamic Thresholding": {"args": []}}},
        {"alwayson_scripts": {"ADetailer": {"args": [True, False, {"ad_model": "None"}, {"ad_model": "None"}]}}},
        {"alwayson_scripts": {"ControlNet": {"args": [{"enabled": False, "model": "x", "image": None}]}}},
        {"alwayson_scripts": {"Sampler": {"args": [20, "LMS", "Karras"]}, "Seed": {"args": [9, False, -1, 0, 0, 0]}}},
        {"alwayson_scripts": {"API payload": {"args": []}, "Refiner": {"args": [False, "", 0.8]}}},
        {"script_name": "None", "script_args": [], "styles": None, "save_images": True, "tiling": False},
        {"restore_faces": False, "refiner_checkpoint": "None", "refiner_switch_at": 0.8, "subseed": -1},
        {"subseed_strength": 0, "seed": 7.0, "steps": 1.0, "cfg_scale": 7, "batch_size": 1.0},
        {"enable_hr": False, "hr_scale": 2, "hr_upscaler": "Latent", "inpainting_mask_invert": False},
        {"override_settings": {"sd_vae": "Automatic", "eta_noise_seed_delta": 0, "inpainting_mask_weight": 1.0}},
        {"override_settings": {"samples_save": True, "img2img_color_correction": False, "sd_model_checkpoint": ""}},
    ],
    ids=str,
)
def test_what_is_switched_off_is_no_obstacle(client: TestClient, neutral: dict[str, object]) -> None:
    answer = client.post("/sdapi/v1/txt2img", json={**ASKED, **neutral})
    assert answer.status_code == 200, answer.text
    assert answer.json()["images"] == client.post("/sdapi/v1/txt2img", json=ASKED).json()["images"]


def test_an_empty_prompt_is_drawn(client: TestClient, pipeline: Pipeline) -> None:
    (drawn,) = client.post("/sdapi/v1/txt2img", json={**ASKED, "prompt": ""}).json()["images"]
    expected = pipeline.generate("", width=64, height=64, steps=1, seed=7).images[0]
    np.testing.assert_array_equal(np.asarray(picture(drawn)), np.asarray(expected))


def test_a_strength_of_nothing_leaves_one_step(client: TestClient, pipeline: Pipeline) -> None:
    asked = {**ASKED, "steps": 4, "init_images": [text(Image.new("RGB", (64, 64), "red"))], "denoising_strength": 0}
    (drawn,) = client.post("/sdapi/v1/img2img", json=asked).json()["images"]
    expected = pipeline.generate(
        "a lake", width=64, height=64, steps=4, seed=7, image=Image.new("RGB", (64, 64), "red"), strength=0.25
    )
    np.testing.assert_array_equal(np.asarray(picture(drawn)), np.asarray(expected.images[0]))


def test_a_second_pass_redraws_the_enlarged_picture(client: TestClient, pipeline: Pipeline) -> None:
    asked = {**ASKED, "enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5, "steps": 2, "batch_size": 2}
    answer = client.post(
        "/sdapi/v1/txt2img", json={**asked, "hr_upscaler": "Latent", "hr_sampler_name": "Euler"}
    ).json()
    first = pipeline.generate("a lake", width=64, height=64, steps=2, seed=7, count=2)
    for drawn, image, seed in zip(answer["images"], first.images, first.seeds, strict=True):
        expected = pipeline.generate(
            "a lake", width=128, height=128, steps=4, seed=seed, image=image, strength=0.5, sampler="euler"
        ).images[0]
        np.testing.assert_array_equal(np.asarray(picture(drawn)), np.asarray(expected))
    info = json.loads(answer["info"])
    assert (info["width"], info["height"]) == (128, 128)
    assert info["infotexts"][1].endswith(
        "Denoising strength: 0.5, Hires upscale: 2, Hires steps: 2, Hires upscaler: Lanczos, "
        "Hires sampler: Euler, Hires schedule type: Normal"
    )
    assert info["without_effect"] == ["hr_upscaler"]


def test_a_picture_of_two_passes_says_so(client: TestClient, pipeline: Pipeline) -> None:
    asked = {**ASKED, "enable_hr": True, "denoising_strength": 0.5, "batch_size": 2, "hr_prompt": "a lake, snow"}
    answer = client.post("/sdapi/v1/txt2img", json=asked).json()
    told = client.post("/sdapi/v1/png-info", json={"image": answer["images"][1]}).json()
    assert told["info"] == json.loads(answer["info"])["infotexts"][1]
    prompt, facts = told["info"].split("\n")
    assert (prompt, facts.startswith("Steps: 1,"), "Seed: 8, Size: 64x64" in facts) == ("a lake", True, True)
    assert facts.endswith('Hires upscaler: Lanczos, Hires prompt: "a lake, snow"')
    own = json.loads(told["items"]["pocket-diffusion"])
    assert (own["width"], own["prompt"], own["seed"]) == (128, "a lake, snow", 8)
    first = pipeline.generate("a lake", **SMALL, count=2)
    assert own["first_pass"] == first.settings(1)


def test_a_second_pass_can_have_another_sampler_and_an_exact_size(client: TestClient) -> None:
    asked = {
        **ASKED, "width": 88, "height": 88, "enable_hr": True, "hr_resize_x": 120, "steps": 3,
        "denoising_strength": 0.7, "sampler_name": "Euler a", "eta": 0.5, "hr_sampler_name": "DPM++ 2M",
    }  # fmt: skip
    info = json.loads((answer := client.post("/sdapi/v1/txt2img", json=asked).json())["info"])
    drawn = picture(answer["images"][0])
    assert drawn.size == (120, 120) == (info["width"], info["height"])
    settings = json.loads(drawn.text["pocket-diffusion"])
    assert (settings["sampler"], settings["steps"]) == ("dpmpp_2m", 5)  # of which a strength of 0.7 leaves three
    asked["hr_sampler_name"], asked["sampler_name"] = "Euler a", "Euler a"
    drawn = picture(client.post("/sdapi/v1/txt2img", json=asked).json()["images"][0])
    assert json.loads(drawn.text["pocket-diffusion"])["eta"] == 0.5  # as in the first pass, whose sampler it has


def test_a_second_pass_is_for_prompts_alone(client: TestClient) -> None:
    asked = {**ASKED, "steps": 2, "init_images": [text(Image.new("RGB", (64, 64), "red"))], "enable_hr": True}
    answer = client.post("/sdapi/v1/img2img", json=asked).json()
    assert picture(answer["images"][0]).size == (64, 64)
    assert "enable_hr" in json.loads(answer["info"])["without_effect"]


def test_a_second_pass_that_is_interrupted_leaves_the_first(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = client.app.state.queue.submit

    def interrupted(*asked: object, **more: object) -> object:
        job = submitted(*asked, **more)
        if job.drawing.image is not None:
            client.app.state.queue.cancel(job)
        return job

    monkeypatch.setattr(client.app.state.queue, "submit", interrupted)
    answer = client.post("/sdapi/v1/txt2img", json={**ASKED, "enable_hr": True}).json()
    assert answer["images"] == client.post("/sdapi/v1/txt2img", json=ASKED).json()["images"]
    assert json.loads(answer["info"])["width"] == 64


def test_a_picture_is_enlarged(client: TestClient) -> None:
    red = Image.new("RGB", (40, 30), "red")
    for change, size in (
        ({"upscaling_resize": 2}, (80, 60)),
        ({"upscaler_1": "Nearest", "upscaling_resize": 1.5}, (60, 45)),
        ({"resize_mode": 1, "upscaling_resize_w": 100, "upscaling_resize_h": 100, "upscaler_1": "Lanczos"}, (100, 100)),
        ({"resize_mode": 1, "upscaling_resize_w": 100}, (100, 75)),
    ):
        answer = client.post("/sdapi/v1/extra-single-image", json={"image": text(red), **change}).json()
        assert picture(answer["image"]).size == size
        assert picture(answer["image"]).getpixel((5, 5)) == (255, 0, 0)
    for change, why in (
        ({"upscaler_1": "R-ESRGAN 4x+"}, "is not here; choose from None, Lanczos, Nearest"),
        ({"upscaling_resize": 8}, "320x240 is too large"),
        ({"gfpgan_visibility": 1}, "gfpgan_visibility: not supported"),
    ):
        answer = client.post("/sdapi/v1/extra-single-image", json={"image": text(red), **change})
        assert answer.status_code == 422
        assert why in answer.json()["detail"]


def test_networks_are_unloaded_and_loaded_again(client: TestClient) -> None:
    models = client.app.state.models
    drawn = client.post("/sdapi/v1/txt2img", json=ASKED).json()["images"]
    assert models.default.is_loaded
    assert client.post("/sdapi/v1/unload-checkpoint").status_code == 200
    assert not models.default.is_loaded
    assert client.post("/sdapi/v1/reload-checkpoint").status_code == 200
    assert client.post("/sdapi/v1/txt2img", json=ASKED).json()["images"] == drawn


def test_nothing_goes_on_when_all_is_drawn(client: TestClient) -> None:
    client.post("/sdapi/v1/txt2img", json=ASKED)
    told = client.get("/sdapi/v1/progress").json()
    assert (told["progress"], told["state"]["job_count"]) == (0, 0)


@pytest.mark.parametrize(
    "path",
    [
        "/sdapi/v1/cmd-flags", "/sdapi/v1/memory", "/sdapi/v1/upscalers", "/sdapi/v1/latent-upscale-modes",
        "/sdapi/v1/sd-vae", "/sdapi/v1/hypernetworks", "/sdapi/v1/scripts", "/sdapi/v1/script-info", "/queue/status",
        "/controlnet/version", "/controlnet/model_list", "/internal/ping", "/app_id",
    ],
)  # fmt: skip
def test_what_clients_probe_is_answered(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert isinstance(answer.json(), dict | list)


@pytest.mark.parametrize("what", ["checkpoints", "vae", "loras", "embeddings"])
def test_what_there_is_can_be_looked_for_again(client: TestClient, what: str) -> None:
    assert client.post(f"/sdapi/v1/refresh-{what}").status_code == 200


@pytest.mark.usefixtures("standstill")
def test_progress_and_interrupt(client: TestClient) -> None:
    assert client.get("/sdapi/v1/progress").json()["progress"] == 0
    answers = []
    asked = {**ASKED, "width": 256, "height": 256, "steps": 4}
    drawing = threading.Thread(target=lambda: answers.append(client.post("/sdapi/v1/txt2img", json=asked)))
    drawing.start()
    deadline = time.monotonic() + 120
    while not (told := client.get("/sdapi/v1/progress").json())["current_image"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert told["progress"] == 0.25
    assert told["state"]["job_count"] == 1
    assert picture(told["current_image"]).size == (32, 32)
    assert client.get("/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None
    assert client.post("/sdapi/v1/interrupt").status_code == 200
    drawing.join(timeout=120)
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
    assert f"can be {pipeline.name!r} here" in answer.json()["detail"]
    assert "option x cannot be had" in client.post("/sdapi/v1/options", json={"x": 1}).json()["detail"]


def test_an_option_holds_for_later_drawings(client: TestClient) -> None:
    asked = {**ASKED, "override_settings": {"CLIP_stop_at_last_layers": 2}}
    expected = client.post("/sdapi/v1/txt2img", json=asked).json()["images"]
    assert client.post("/sdapi/v1/txt2img", json=ASKED).json()["images"] != expected
    client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2})
    assert client.get("/sdapi/v1/options").json()["CLIP_stop_at_last_layers"] == 2
    assert client.post("/sdapi/v1/txt2img", json=ASKED).json()["images"] == expected
    client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 1})


def test_what_there_is_is_named(client: TestClient, pipeline: Pipeline) -> None:
    assert [row["name"] for row in client.get("/sdapi/v1/samplers").json()] == [
        kind.label for kind in SAMPLERS.values()
    ]
    schedulers = client.get("/sdapi/v1/schedulers").json()
    assert [row["label"] for row in schedulers] == ["Automatic", *(row.label for row in SCHEDULERS.values())]
    assert [model["model_name"] for model in client.get("/sdapi/v1/sd-models").json()] == [pipeline.name]
    assert client.get("/sdapi/v1/scripts").json() == {"txt2img": [], "img2img": []}
