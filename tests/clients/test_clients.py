"""Clients that people have, unchanged, against a running server."""

import base64
import json
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import openai
import pytest
import webuiapi
from openai.types import (
    ImageEditCompletedEvent,
    ImageEditPartialImageEvent,
    ImageGenCompletedEvent,
    ImageGenPartialImageEvent,
)
from PIL import Image

from pocket_diffusion import Pipeline
from pocket_diffusion.drawing.samplers import SAMPLERS
from pocket_diffusion.drawing.schedulers import SCHEDULERS
from serving import RunningServer, running_server

TOKEN = "open sesame"
RED = Image.new("RGB", (64, 64), "red")

EULER_A = "Euler a"
"""What webuiapi asks for where nobody chose."""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("--token", TOKEN) as server:
        yield server


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(provider="cpu")


@pytest.fixture
def official(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0) as client:
        yield client


@pytest.fixture
def webui(server: RunningServer) -> webuiapi.WebUIApi:
    return webuiapi.WebUIApi(port=server.port, username="anyone", password=TOKEN)


def decoded(text: str | None) -> Image.Image:
    assert text
    return Image.open(BytesIO(base64.b64decode(text)))


def as_file(picture: Image.Image, name: str) -> tuple[str, bytes]:
    file = BytesIO()
    picture.save(file, "PNG")
    return name, file.getvalue()


def test_openai_draws(official: openai.OpenAI, pipeline: Pipeline) -> None:
    answer = official.images.generate(
        model="gpt-image-2", prompt="a lake", size="64x64", n=2, extra_body={"steps": 2, "seed": 7}
    )
    expected = pipeline.generate("a lake", width=64, height=64, steps=2, seed=7, count=2)
    for each, image in zip(answer.data, expected.images, strict=True):
        np.testing.assert_array_equal(np.asarray(decoded(each.b64_json)), np.asarray(image))


def test_openai_needs_no_more_than_a_prompt(official: openai.OpenAI) -> None:
    assert decoded(official.images.generate(prompt="a lake at sunset").data[0].b64_json).size == (128, 128)


def test_openai_gets_a_url(official: openai.OpenAI) -> None:
    import urllib.request

    answer = official.images.generate(prompt="a lake", size="64x64", response_format="url", extra_body={"steps": 1})
    with urllib.request.urlopen(answer.data[0].url) as picture:
        assert Image.open(BytesIO(picture.read())).size == (64, 64)


def test_openai_edits(official: openai.OpenAI, pipeline: Pipeline) -> None:
    mask, left = Image.new("RGBA", (64, 64), "black"), Image.new("L", (64, 64), 0)
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    left.paste(255, (0, 0, 32, 64))
    answer = official.images.edit(
        image=as_file(RED, "image.png"), mask=as_file(mask, "mask.png"), prompt="a lake", size="64x64",
        response_format="b64_json", extra_body={"steps": 2, "seed": 7},
    )  # fmt: skip
    expected = pipeline.generate(
        "a lake", width=64, height=64, steps=2, seed=7, image=RED, mask=left, strength=1.0
    ).images[0]
    np.testing.assert_array_equal(np.asarray(decoded(answer.data[0].b64_json)), np.asarray(expected))


def test_openai_edits_several_uploads_as_a_list(official: openai.OpenAI) -> None:
    answer = official.images.edit(image=[as_file(RED, "a.png")], prompt="a lake", extra_body={"steps": 2})
    assert decoded(answer.data[0].b64_json).size == (64, 64)


def test_openai_follows_a_stream(official: openai.OpenAI, pipeline: Pipeline) -> None:
    stream = official.images.generate(
        model="gpt-image-1", prompt="a lake", size="64x64", output_format="webp", output_compression=100,
        stream=True, partial_images=2, extra_body={"steps": 12, "seed": 7},
    )  # fmt: skip
    *partial, completed = [event.to_dict() for event in stream]
    assert [event["partial_image_index"] for event in partial] == [0, 1]
    for event in partial:
        ImageGenPartialImageEvent.model_validate(event, strict=True)
    ImageGenCompletedEvent.model_validate(completed, strict=True)
    for event in (*partial, completed):
        picture = decoded(event["b64_json"])
        assert (picture.format, picture.size) == ("WEBP", (64, 64))


def test_openai_follows_an_edit(official: openai.OpenAI) -> None:
    stream = official.images.edit(
        image=as_file(RED, "image.png"), prompt="a lake", stream=True, partial_images=1, extra_body={"steps": 12}
    )
    *partial, completed = [event.to_dict() for event in stream]
    for event in partial:
        ImageEditPartialImageEvent.model_validate(event, strict=True)
    ImageEditCompletedEvent.model_validate(completed, strict=True)
    assert decoded(completed["b64_json"]).size == (64, 64)


def test_openai_leaves_a_stream_whose_drawing_then_ends(official: openai.OpenAI) -> None:
    endless = {"size": "512x512", "n": 16, "extra_body": {"steps": 150}}
    with official.images.generate(prompt="a lake", stream=True, partial_images=3, **endless) as stream:
        assert stream.response.is_success
    official.images.generate(prompt="a lake", size="64x64", extra_body={"steps": 1})  # its turn comes afterwards
    counts = official.with_options(base_url=str(official.base_url).removesuffix("v1/")).get("/metrics", cast_to=str)
    assert 'pocket_diffusion_drawing_seconds_count{state="cancelled"} 1.0' in counts


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # by OpenAI, which clients outlive
def test_openai_varies(official: openai.OpenAI) -> None:
    answer = official.images.create_variation(
        image=as_file(RED, "image.png"), n=2, size="256x256", extra_body={"steps": 1, "strength": 1.0}
    )
    assert [decoded(each.b64_json).size for each in answer.data] == [(256, 256)] * 2


def test_openai_understands_refusals(official: openai.OpenAI, server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError, match="width must be a multiple of 8"):
        official.images.generate(prompt="a lake", size="65x64")
    wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError):
        wrong.images.generate(prompt="a lake")


def test_openai_lists_the_model(official: openai.OpenAI, pipeline: Pipeline) -> None:
    assert [model.id for model in official.models.list()] == [pipeline.name]


def test_webui_draws(webui: webuiapi.WebUIApi, pipeline: Pipeline) -> None:
    result = webui.txt2img(prompt="a lake", negative_prompt="sea", seed=7, steps=2, width=64, height=64)
    expected = pipeline.generate(
        "a lake", negative_prompt="sea", seed=7, steps=2, width=64, height=64, guidance_scale=7, sampler=EULER_A
    ).images[0]
    np.testing.assert_array_equal(np.asarray(result.image), np.asarray(expected))
    assert result.info["all_seeds"] == [7]
    assert result.parameters["prompt"] == "a lake"


def test_webui_redraws_and_inpaints(webui: webuiapi.WebUIApi, pipeline: Pipeline) -> None:
    size = {"width": 64, "height": 64, "steps": 2, "seed": 7}
    redrawn = webui.img2img(images=[RED], prompt="a lake", denoising_strength=0.6, **size)
    expected = pipeline.generate("a lake", image=RED, strength=0.6, guidance_scale=7, sampler=EULER_A, **size).images[0]
    np.testing.assert_array_equal(np.asarray(redrawn.image), np.asarray(expected))
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    painted = webui.img2img(images=[RED], mask_image=mask, prompt="a lake", denoising_strength=1.0, **size)
    expected = pipeline.generate(
        "a lake", image=RED, mask=mask, mask_feather=4, strength=1.0, guidance_scale=7, sampler=EULER_A, **size
    ).images[0]
    np.testing.assert_array_equal(np.asarray(painted.image), np.asarray(expected))


def test_webui_looks_around(webui: webuiapi.WebUIApi, pipeline: Pipeline) -> None:
    assert webui.util_get_model_names() == [pipeline.name]
    assert webui.util_get_current_model() == pipeline.name
    assert webui.util_get_sampler_names() == sorted(kind.label for kind in SAMPLERS.values())
    assert webui.util_get_scheduler_names() == sorted(["automatic", *SCHEDULERS])
    webui.util_set_model(pipeline.name)
    webui.util_wait_for_ready(check_interval=0.1)
    webui.interrupt()
    for empty in (webui.get_latent_upscale_modes, webui.get_loras, webui.get_sd_vae, webui.get_prompt_styles):
        assert empty() == []


def test_webui_draws_in_two_passes_and_enlarges(webui: webuiapi.WebUIApi) -> None:
    asked = {"prompt": "a lake", "steps": 2, "width": 64, "height": 64, "hr_scale": 1.5, "denoising_strength": 0.7}
    drawn = webui.txt2img(enable_hr=True, hr_upscaler=webuiapi.HiResUpscaler.Latent, **asked)
    assert drawn.image.size == (96, 96)
    enlarged = webui.extra_single_image(drawn.image, upscaler_1=webuiapi.Upscaler.Lanczos, upscaling_resize=2)
    assert enlarged.image.size == (192, 192)


def test_webui_reads_how_a_picture_was_made(webui: webuiapi.WebUIApi) -> None:
    drawn = webui.txt2img(prompt="a lake", seed=7, steps=1, width=64, height=64).image
    told = webui.png_info(drawn)
    assert told.info.startswith("a lake\nSteps: 1")
    assert json.loads(told.json["items"]["pocket-diffusion"])["seed"] == 7


def test_webui_is_told_what_is_not_supported(webui: webuiapi.WebUIApi) -> None:
    with pytest.raises(RuntimeError, match="tiling: not supported here"):
        webui.txt2img(prompt="a lake", tiling=True)
