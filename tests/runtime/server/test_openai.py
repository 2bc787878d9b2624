"""OpenAI's images API, request by request; tests/clients has the official client."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from serving import SMALL

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


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"size": "big"}, "size must be auto or such as 512x512"),
        ({"size": "1x1"}, "width must be"),
        ({"n": 99}, "count must be at most 3"),
        ({"n": "two"}, "$.n"),
        ({"prompt": None}, "$.prompt"),
        ({"stream": True}, "stream True is not supported"),
        ({"background": "transparent"}, "background 'transparent' is not supported"),
        ({"output_format": "svg"}, "leave it out, or send 'png'"),
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
