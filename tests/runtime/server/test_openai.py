"""OpenAI's images API, request by request; tests/clients has the official client."""

import base64
import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_diffusion.server import Limits, Models, create_app
from serving import LIMITS, SMALL

OURS = {"steps": 1, "seed": 7}


def png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_a_picture_from_a_prompt_is_what_the_pipeline_draws(client: TestClient, pipeline: Pipeline) -> None:
    answer = client.post(
        "/v1/images/generations", json={"model": "gpt-image-2", "prompt": "a lake", "size": "64x64", **OURS}
    ).json()
    assert (answer["size"], answer["output_format"]) == ("64x64", "png")
    drawn = Image.open(BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(pipeline.generate("a lake", **SMALL).images[0]))


def test_several_by_url(client: TestClient) -> None:
    asked = {"prompt": "a lake", "n": 2, "size": "64x64", "response_format": "url", **OURS}
    data = client.post("/v1/images/generations", json=asked).json()["data"]
    assert len(data) == 2
    for each in data:
        assert client.get(each["url"]).headers["content-type"] == "image/png"


def test_what_is_transparent_in_the_mask_is_repainted(client: TestClient, pipeline: Pipeline) -> None:
    picture = Image.new("RGB", (64, 64), "red")
    mask = Image.new("RGBA", (64, 64), "black")
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    answer = client.post(
        "/v1/images/edits",
        files={"image": ("a.png", png(picture)), "mask": ("b.png", png(mask))},
        data={"prompt": "a lake", "size": "64x64", "steps": "1", "seed": "7"},
    ).json()
    white_left = Image.new("L", (64, 64), 0)
    white_left.paste(255, (0, 0, 32, 64))
    expected = pipeline.generate("a lake", **SMALL, image=picture, mask=white_left, strength=1.0).images[0]
    drawn = Image.open(BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


def test_without_a_mask_the_whole_is_redrawn(client: TestClient) -> None:
    answer = client.post(
        "/v1/images/edits",
        files=[("image[]", ("a.png", png(Image.new("RGB", (64, 64)))))],
        data={"prompt": "a lake", "steps": "2"},
    )
    drawn = Image.open(BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    assert "Denoising strength: 0.8" in drawn.text["parameters"]


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_pictures_come_in_other_formats_with_how_they_were_made(client: TestClient, kind: str) -> None:
    asked = {"prompt": "a lake", "size": "64x64", "output_format": kind, **OURS}
    sizes = {}
    for quality in (100, 20):
        answer = client.post("/v1/images/generations", json={**asked, "output_compression": quality}).json()
        assert (answer["output_format"], answer["background"]) == (kind, "opaque")
        content = base64.b64decode(answer["data"][0]["b64_json"])
        picture, sizes[quality] = Image.open(BytesIO(content)), len(content)
        assert picture.format == kind.upper()
        comment = picture.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        assert "a lake" in comment[8:].decode("utf-16-be")
    assert sizes[20] < sizes[100]


def test_a_size_that_is_too_large_is_scaled_down_and_a_model_that_is_not_here_replaced(
    client: TestClient, pipeline: Pipeline
) -> None:
    asked = {"model": "gpt-image-1", "prompt": "a lake", "size": "1536x1024", **OURS}
    answer = client.post("/v1/images/generations", json=asked).json()
    width, height = map(int, answer["size"].split("x"))
    assert width * height <= LIMITS.pixels < (width + 8) * (height + 8)
    assert abs(width / height - 1.5) < 0.1
    assert f"size 1536x1024 is too large here; {answer['size']} was drawn" in answer["warnings"]
    assert f"there is no model 'gpt-image-1' here; {pipeline.name} drew" in answer["warnings"]


def test_a_model_is_chosen_by_its_name(tmp_path: Path, pipeline: Pipeline) -> None:
    for name in ("hills", "lakes"):
        shutil.copytree(DEFAULT_BUNDLE, tmp_path / name)
    models = Models.of_folder(tmp_path, lambda path: Pipeline.load(path, provider="cpu"))
    with TestClient(create_app(models, limits=LIMITS)) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["hills", "lakes"]
        assert client.get("/v1/models/lakes").json()["id"] == "lakes"
        asked = {"model": "lakes", "prompt": "a lake", "size": "64x64", **OURS}
        assert client.post("/v1/images/generations", json=asked).json()["warnings"] == []
        assert client.app.state.models.opened.keys() == {"hills", "lakes"}


def test_a_variation_is_drawn_of_a_picture_alone(client: TestClient, pipeline: Pipeline) -> None:
    picture = Image.new("RGB", (64, 64), "red")
    answer = client.post(
        "/v1/images/variations",
        files={"image": ("a.png", png(picture))},
        data={"n": "1", "size": "64x64", "steps": "2", "seed": "7"},
    ).json()
    expected = pipeline.generate("", width=64, height=64, steps=2, seed=7, image=picture, strength=0.6).images[0]
    drawn = Image.open(BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


@pytest.mark.parametrize(("steps", "partial"), [(1, 1), (2, 2), (3, 3), (1, 3)])
def test_as_many_partial_images_come_as_a_drawing_has_steps_for(client: TestClient, steps: int, partial: int) -> None:
    asked = {"prompt": "a lake", **SMALL, "size": "64x64", "stream": True, "partial_images": partial, "steps": steps}
    lines = client.post("/v1/images/generations", json=asked).text.splitlines()
    kinds = [line.rpartition(".")[2] for line in lines if line.startswith("event: ")]
    assert kinds == ["partial_image"] * min(steps, partial) + ["completed"]


@pytest.mark.usefixtures("standstill")
def test_a_stream_tells_why_there_is_no_picture(pipeline: Pipeline) -> None:
    with TestClient(create_app(pipeline, limits=Limits(seconds=0.001))) as client:
        answer = client.post("/v1/images/generations", json={"prompt": "a lake", "stream": True})
    name, data = answer.text.strip().removeprefix("event: ").split("\ndata: ")
    assert name == "error"
    assert "the drawing took longer than 0.001 s" in json.loads(data)["error"]["message"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"size": "big"}, "size must be auto or such as 512x512"),
        ({"size": "1x1"}, "width must be"),
        ({"n": 99}, "count must be at most 3"),
        ({"n": "two"}, "$.n"),
        ({"prompt": None}, "$.prompt"),
        ({"background": "transparent"}, "leave it out, or send auto or opaque"),
        ({"output_format": "svg"}, "leave it out, or send png or jpeg or webp"),
        ({"output_compression": 50}, "a PNG has no output_compression"),
        ({"output_format": "webp", "output_compression": 101}, "$.output_compression"),
        ({"output_format": "webp", "response_format": "url"}, "pictures at URLs are PNG"),
        ({"stream": True, "response_format": "url"}, "a stream has no URLs"),
        ({"stream": True, "partial_images": 4}, "$.partial_images"),
        ({"partial_images": 1}, "partial_images come in a stream"),
        ({"response_format": "file"}, "$.response_format"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(client: TestClient, change: dict[str, object], why: str) -> None:
    answer = client.post("/v1/images/generations", json={"prompt": "a lake", **change})
    assert answer.status_code == 400
    assert why in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("files", "data", "why"),
    [
        ({}, {"prompt": "a"}, "`image` is missing"),
        ({"image": ("a.png", b"no picture")}, {"prompt": "a"}, "the image is not a picture"),
        ({"image": ("../../a.png", b"")}, {"prompt": "a"}, "the image is not a picture"),
        ({"image": ("a.png", png(Image.new("RGB", (64, 64))))}, {"prompt": "a", "steps": "many"}, "$.steps"),
        (
            {name: (name, png(Image.new("RGB", (64, 64)))) for name in ("image", "mask")},
            {"prompt": "a"},
            "the mask has no fully transparent part",
        ),
        (
            [("image[]", ("a.png", b"")), ("image[]", ("b.png", b""))],
            {"prompt": "a"},
            "`image` has 2 files; send one",
        ),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_an_edit_that_cannot_be_done_is_refused(
    client: TestClient, files: dict[str, object], data: dict[str, str], why: str
) -> None:
    answer = client.post("/v1/images/edits", files=files, data=data)
    assert answer.status_code == 400
    assert why in answer.json()["error"]["message"]


def test_a_form_that_is_none_is_refused(client: TestClient) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/images/edits", content=b"--y\r\n", headers=headers).status_code in (400, 415)


def test_a_form_in_another_charset_is_refused(client: TestClient) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x; charset=punycode"}
    assert client.post("/v1/images/edits", content=b"--x--\r\n", headers=headers).status_code == 415


def test_the_model_is_named(client: TestClient, pipeline: Pipeline) -> None:
    assert client.get(f"/v1/models/{pipeline.name}").json()["id"] == pipeline.name
    assert client.get("/v1/models/other/one").status_code == 404
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [pipeline.name]


def test_all_options_of_an_order_may_come_with_a_request(client: TestClient, pipeline: Pipeline) -> None:
    extras = {
        "sampler": "Euler a",
        "eta": 0.5,
        "guidance_rescale": 0.5,
        "guidance_interval": [0.0, 0.6],
        "clip_skip": 2,
    }
    asked = {"prompt": "a lake", "size": "64x64", "steps": 3, "seed": 7, **extras}
    answer = client.post("/v1/images/generations", json=asked).json()
    expected = pipeline.generate("a lake", width=64, height=64, steps=3, seed=7, **extras).images[0]
    drawn = Image.open(BytesIO(base64.b64decode(answer["data"][0]["b64_json"])))
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))
    assert client.post("/v1/images/generations", json={**asked, "clip_skip": 99}).status_code == 400
