"""Our own API: jobs from their creation to their pictures, and what is refused."""

import asyncio
import base64
import json
import time
from concurrent.futures import Future
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline, server
from pocket_diffusion.drawing.caches import CACHES
from pocket_diffusion.drawing.samplers import SAMPLERS
from pocket_diffusion.drawing.schedulers import SCHEDULERS
from pocket_diffusion.server import create_app
from pocket_diffusion.server.jobs import Job
from serving import LIMITS, SMALL

PAGE = Path(server.__file__).parent / "page"


def png(colour: str = "red", size: tuple[int, int] = (64, 64)) -> str:
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def events(client: TestClient, job_id: str) -> list[tuple[str, dict[str, Any]]]:
    text = client.get(f"/api/jobs/{job_id}/events").text
    found = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):  # a sign of life, where a step takes long
            continue
        name, data = (line.partition(": ")[2] for line in block.split("\n"))
        found.append((name, json.loads(data)))
    return found


def create(client: TestClient, **order: object) -> dict[str, Any]:
    answer = client.post("/api/jobs", json={"prompt": "a lake", **SMALL, **order})
    assert answer.status_code == 202, answer.text
    return answer.json()


def picture(client: TestClient, url: str) -> Image.Image:
    answer = client.get(url)
    assert answer.headers["content-type"] == "image/png"
    return Image.open(BytesIO(answer.content))


def test_a_job_from_its_creation_to_its_picture(client: TestClient, pipeline: Pipeline) -> None:
    job = create(client, steps=4)
    assert job["state"] in ("queued", "running")
    seen = events(client, job["id"])
    assert [view["step"] for _, view in seen] == sorted(view["step"] for _, view in seen)
    name, last = seen[-1]
    assert (name, last["state"], last["step"], last["steps"], last["error"]) == ("done", "done", 4, 4, None)
    assert client.get(f"/api/jobs/{job['id']}").json() == last
    drawn = picture(client, last["pictures"][0]["url"])
    expected = pipeline.generate("a lake", **{**SMALL, "steps": 4}).images[0]
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))
    assert json.loads(drawn.text["pocket-diffusion"]) == last["pictures"][0]["settings"]
    assert drawn.text["parameters"].startswith("a lake\nSteps: 4")


def test_the_end_of_a_drawing_is_told_once_also_where_it_comes_while_a_preview_is_made(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = client.app.state.queue

    async def preview(job: Job) -> None:
        while not job.state.is_final:
            await asyncio.sleep(0.01)

    job = create(client)
    monkeypatch.setattr(queue, "preview", preview)
    seen = [name for name, _ in events(client, job["id"])]
    assert seen == ["done"]


def test_previews_are_shown_on_the_way(
    client: TestClient, standstill: Future[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = client.app.state.queue
    preview = queue.preview

    async def preview_and_go_on(job: Job) -> bytes | None:
        shown: bytes | None = await preview(job)
        if shown is not None and not standstill.done():
            standstill.set_result(None)
        return shown

    monkeypatch.setattr(queue, "preview", preview_and_go_on)
    seen = events(client, create(client, steps=2, width=128, height=128)["id"])
    previews = [view["preview"] for name, view in seen if name == "running" and view["preview"]]
    assert previews
    scheme, _, data = previews[-1].partition(",")
    assert scheme == "data:image/png;base64"
    assert Image.open(BytesIO(base64.b64decode(data))).size == (16, 16)
    assert seen[-1][1]["preview"] is None


def test_several_pictures_have_successive_seeds(client: TestClient) -> None:
    _, last = events(client, create(client, count=3)["id"])[-1]
    assert [each["seed"] for each in last["pictures"]] == [7, 8, 9]
    assert len({each["url"] for each in last["pictures"]}) == 3


def test_image_to_image_and_inpainting(client: TestClient, pipeline: Pipeline) -> None:
    red = Image.new("RGB", (64, 64), "red")
    _, last = events(client, create(client, image=png("red"), strength=1.0)["id"])[-1]
    assert last["pictures"][0]["settings"]["task"] == "image-to-image"
    _, last = events(client, create(client, image=png("red"), mask=png("white"), strength=1.0)["id"])[-1]
    assert last["pictures"][0]["settings"]["task"] == "inpainting"
    expected = pipeline.generate("a lake", **SMALL, image=red, mask=Image.new("L", (64, 64), 255), strength=1.0)
    drawn = picture(client, last["pictures"][0]["url"])
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected.images[0]))


def test_a_large_picture_waits_at_the_size_that_is_drawn(client: TestClient, pipeline: Pipeline) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 170, 3), "u1"))
    file = BytesIO()
    noise.save(file, "PNG")
    order = {"image": base64.b64encode(file.getvalue()).decode(), "strength": 1.0}
    _, last = events(client, create(client, **order)["id"])[-1]
    expected = pipeline.generate("a lake", **SMALL, image=noise, strength=1.0).images[0]
    np.testing.assert_array_equal(np.asarray(picture(client, last["pictures"][0]["url"])), np.asarray(expected))


@pytest.mark.usefixtures("standstill")
def test_cancelling_stops_between_steps(client: TestClient) -> None:
    job = create(client, steps=2)
    assert client.delete(f"/api/jobs/{job['id']}").status_code == 202
    name, last = events(client, job["id"])[-1]
    assert (name, last["state"], last["pictures"]) == ("cancelled", "cancelled", [])
    assert last["step"] < 2
    assert last["error"] == "the drawing was cancelled"
    assert client.delete(f"/api/jobs/{job['id']}").status_code == 200  # forgotten, since it is over


def test_a_job_that_is_over_is_forgotten_with_its_pictures(client: TestClient) -> None:
    kept, job = create(client), create(client, count=2)
    (_, others), (_, last) = events(client, kept["id"])[-1], events(client, job["id"])[-1]
    answer = client.delete(f"/api/jobs/{job['id']}")
    assert answer.status_code == 200
    assert answer.json() == {**last, "pictures": []}
    for path in (f"/api/jobs/{job['id']}", *(each["url"] for each in last["pictures"])):
        assert client.get(path).status_code == 404
    assert client.delete(f"/api/jobs/{job['id']}").status_code == 404
    assert picture(client, others["pictures"][0]["url"]).size == (64, 64)  # which is another job's


@pytest.mark.filterwarnings("default::pocket_diffusion.drawing.prompt.PromptWarning")
@pytest.mark.parametrize(
    ("prompt", "why"), [("a lake <lora:moss:0.8>", "LoRA 'moss' is not loaded"), ("a (lake", "bracket")]
)
def test_what_is_not_drawn_as_it_is_written_is_told(client: TestClient, prompt: str, why: str) -> None:
    _, last = events(client, create(client, prompt=prompt)["id"])[-1]
    assert len(last["warnings"]) == 1
    assert why in last["warnings"][0]
    assert len(last["pictures"]) == 1


def test_samplers_and_schedulers_are_those_of_the_tables(client: TestClient) -> None:
    choices = client.get("/api/samplers").json()
    assert [row["name"] for row in choices["samplers"]] == list(SAMPLERS)
    assert [row["name"] for row in choices["schedulers"]] == list(SCHEDULERS)
    assert [(row["name"], row["summary"]) for row in choices["caches"]] == [
        (kind.name, kind.summary) for kind in CACHES.values()
    ]
    by_name = {row["name"]: row for row in choices["samplers"]}
    assert by_name["dpmpp_2m"]["label"] == "DPM++ 2M"
    assert "karras" in by_name["dpmpp_2m"]["schedulers"]
    assert "karras" not in by_name["lcm"]["schedulers"]


def test_the_model_says_what_it_draws_and_what_is_taken(client: TestClient, pipeline: Pipeline) -> None:
    model = client.get("/api/model").json()
    assert (model["name"], model["width"]) == (pipeline.name, 128)
    vocabulary = pipeline.bundle.vocabulary()
    assert (model["vocabulary"], model["examples"]) == (list(vocabulary.words), list(vocabulary.examples))
    defaults = pipeline.bundle.manifest.defaults
    assert (model["sampler"], model["scheduler"]) == (defaults.sampler, defaults.scheduler)
    assert (model["samplers"], model["schedulers"]) == (list(SAMPLERS), list(SCHEDULERS))
    assert (set(model["caches"]) <= set(CACHES), model["cache"]) == (True, None)
    assert (model["max_pixels"], model["max_steps"], model["max_count"]) == (LIMITS.pixels, LIMITS.steps, LIMITS.count)


def test_generate_takes_text_and_answers_with_a_url(client: TestClient) -> None:
    answer = client.post("/generate", json={"text": "a lake at night"})
    assert list(answer.json()) == ["image_url"]
    drawn = picture(client, answer.json()["image_url"])
    assert drawn.size == (128, 128)
    assert drawn.text["parameters"].startswith("a lake at night\n")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "x" * 501}, "at most 500"),
        ({"negative_prompt": "x" * 501}, "the negative prompt has 501 characters"),
        ({"prompt": 3}, "Expected `str`, got `int` - at `$.prompt`"),
        ({"prompt": "a\0b"}, "NUL"),
        ({"steps": "4"}, "Expected `int | null`, got `str` - at `$.steps`"),
        ({"steps": 0}, "steps must be"),
        ({"steps": 101}, "steps must be at most 100 here, not 101"),
        ({"steps": 2**70}, "steps must be"),
        ({"count": 4}, "count must be at most 3"),
        ({"width": 512, "height": 256}, "512x256 is too large; at most 65,536 pixels"),
        ({"width": 65}, "multiple of 8"),
        ({"guidance_scale": 1e9}, "guidance_scale must be"),
        ({"sampler": "../../etc"}, "sampler '../../etc' is not known"),
        ({"scheduler": "karas"}, "did you mean karras"),
        ({"guidance_interval": [0.8, 0.2]}, "is reversed"),
        ({"prompt": "(a:1e9)"}, "weight"),
        ({"seed": -1}, "seed must be"),
        ({"strength": 2, "image": png()}, "strength must be"),
        ({"image": "no base64!"}, "$.image"),
        ({"image": base64.b64encode(b"no picture").decode()}, "the image is not a picture that can be read"),
        ({"mask": png()}, "a mask needs the image"),
        ({"image_path": "/etc/passwd"}, "unknown field `image_path`"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_order_that_cannot_be_drawn_is_refused_in_one_line(
    client: TestClient, change: dict[str, object], why: str
) -> None:
    answer = client.post("/api/jobs", json={"prompt": "a lake", **SMALL, **change})
    assert answer.status_code == 422
    assert why in answer.json()["error"]["message"]
    assert "\n" not in answer.json()["error"]["message"]


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(client: TestClient) -> None:
    file = BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    answer = client.post("/api/jobs", json={"prompt": "a", "image": base64.b64encode(file.getvalue()).decode()})
    assert answer.status_code == 422
    assert "at most 50,000,000" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1, 2]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"prompt": NaN}'])
def test_a_body_that_is_no_order_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/api/jobs", content=body)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "path",
    [
        "/api/jobs/none", "/api/jobs/none/events", "/pictures/none", "/pictures/..%2f..%2fetc%2fpasswd", "/nothing",
        "/page/../app.py", "/page/..%2fapp.py", "/page/none.js", "/api/jobs/%00",
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


def test_a_wrong_method_is_refused_as_json(client: TestClient) -> None:
    answer = client.put("/api/jobs", json={})
    assert answer.status_code == 405
    assert answer.json()["error"]["message"] == "Method Not Allowed"


@pytest.mark.usefixtures("standstill")
def test_a_full_queue_says_when_to_come_again(client: TestClient) -> None:
    for _ in range(1 + LIMITS.queue // 2):  # one is drawn, and half of the places are left to others
        create(client)
    answer = client.post("/api/jobs", json={"prompt": "a lake", **SMALL})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "10"
    assert "no more of yours can" in answer.json()["error"]["message"]


def test_the_page_and_its_parts_are_served_and_fetch_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "http" not in page.text
    for part in (*(path.name for path in PAGE.glob("*.js")), "style.css", "manifest.webmanifest"):
        answer = client.get(f"/page/{part}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-cache"  # kept, and asked for each time
        assert "//" not in answer.text.replace("// ", "").replace("/**", "")


def test_health_and_figures(client: TestClient) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    client.post("/generate", json={"text": "a lake"})
    figures = client.get("/metrics").text
    assert "pocket_diffusion_pictures_total 1.0" in figures
    assert 'pocket_diffusion_http_requests_total{endpoint="generate",method="POST",status="200"} 1.0' in figures
    assert "pocket_diffusion_step_seconds_bucket" in figures
    assert "process_resident_memory_bytes" in figures


def test_the_description_has_every_operation(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {
        "/api/model", "/api/models", "/api/models/{name}", "/api/samplers", "/api/adapters", "/api/adapters/refresh",
        "/api/jobs", "/api/jobs/{id}", "/api/jobs/{id}/events", "/pictures/{name}", "/generate",
        "/api/gallery", "/gallery/{name}",
    }  # fmt: skip
    order = document["components"]["schemas"]["JobOrder"]
    assert order["required"] == ["prompt"]
    assert order["additionalProperties"] is False


def test_the_application_can_be_mounted_in_another(pipeline: Pipeline) -> None:
    whole = Starlette(routes=[Mount("/draw", create_app(Pipeline.load(provider="cpu"), token="secret"))])
    with TestClient(whole, headers={"Authorization": "Bearer secret"}) as client:
        assert "Pocket Diffusion" in client.get("/draw/").text
        assert client.get("/draw/page/style.css").status_code == 200
        answer = client.post("/draw/generate", json={"text": "a lake"})
        url = answer.json()["image_url"]
        assert "/draw/pictures/" in url
        assert picture(client, url).size == (128, 128)
        assert client.get("/draw/api/model", headers={"Authorization": ""}).status_code == 401
        assert client.get(url, headers={"Authorization": ""}).status_code == 200


def test_an_error_in_the_server_is_told_without_its_insides(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TestClient(create_app(pipeline), raise_server_exceptions=False) as client:
        monkeypatch.setattr(client.app.state.queue, "submit", lambda _: 1 / 0)
        answer = client.post("/api/jobs", json={"prompt": "a lake"})
    assert answer.status_code == 500
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"] == {
        "message": "the server failed; its log says why", "type": "server_error", "param": None, "code": None,
    }  # fmt: skip


def test_a_job_goes_on_where_nobody_asks(client: TestClient) -> None:
    job = create(client)
    deadline = time.monotonic() + 120
    while client.get(f"/api/jobs/{job['id']}").json()["state"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.02)
