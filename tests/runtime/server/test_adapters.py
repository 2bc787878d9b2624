"""LoRAs and embeddings over HTTP: by names from the server's folders, whatever API asks."""

import base64
import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from loras import random_lora, write_safetensors
from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import CONCEPTS, Bundle
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_diffusion.server import create_app
from serving import LIMITS, SMALL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two LoRAs, one of which does not fit, and two embeddings, one of which is no word."""
    opened = Bundle.open(DEFAULT_BUNDLE)
    width = int(next(spec.shape[1] for spec in opened.manifest.text_encoder.options if spec.name == CONCEPTS))
    for name in ("loras", "embeddings"):
        (tmp_path / name).mkdir()
    write_safetensors(tmp_path / "loras/style.safetensors", random_lora(opened))
    write_safetensors(tmp_path / "loras/foreign.safetensors", {"lora_te2_x.alpha": np.ones(1, np.float32)})
    for name in ("CatStyle", "lake"):
        write_safetensors(tmp_path / f"embeddings/{name}.safetensors", {"emb_params": np.ones((2, width), np.float32)})
    return tmp_path


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    folders = {"lora_folder": folder / "loras", "embedding_folder": folder / "embeddings"}
    pipeline = Pipeline.load(provider="cpu", arithmetic="exact", **folders)
    with TestClient(create_app(pipeline, limits=LIMITS)) as client:
        yield client


def ask(client: TestClient, path: str, **asked: Any) -> Any:  # noqa: ANN401 - JSON
    answer = client.post(path, json={**SMALL, **asked})
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


def finished(client: TestClient, **asked: Any) -> Any:  # noqa: ANN401 - JSON
    job = ask(client, "/api/jobs", **asked)
    with client.stream("GET", f"/api/jobs/{job['id']}/events") as stream:
        *_, last = [line for line in stream.iter_lines() if line.startswith("data: ")]
    return json.loads(last.removeprefix("data: "))


def picture(client: TestClient, prompt: str) -> Image.Image:
    answer = ask(client, "/sdapi/v1/txt2img", prompt=prompt)
    picture = Image.open(BytesIO(base64.b64decode(answer["images"][0])))
    assert json.loads(answer["info"])["infotexts"] == [picture.text["parameters"]]  # type: ignore[attr-defined]
    return picture


def test_each_api_lists_them(client: TestClient, folder: Path) -> None:
    listed = {"loras": ["foreign", "style"], "embeddings": ["catstyle"]}
    assert client.get("/api/adapters").json() == listed
    assert [lora["name"] for lora in client.get("/sdapi/v1/loras").json()] == listed["loras"]
    assert str(folder) not in client.get("/sdapi/v1/loras").text
    told = client.get("/sdapi/v1/embeddings").json()
    assert (list(told["loaded"]), list(told["skipped"])) == (["catstyle"], ["lake"])
    assert told["loaded"]["catstyle"]["vectors"] == 2


@pytest.mark.parametrize("path", ["/sdapi/v1/refresh-loras", "/sdapi/v1/refresh-embeddings", "/api/adapters/refresh"])
def test_new_files_are_found_on_demand(client: TestClient, folder: Path, path: str) -> None:
    for kind, old, new in (("loras", "style", "newer"), ("embeddings", "CatStyle", "DogStyle")):
        content = (folder / kind / f"{old}.safetensors").read_bytes()
        (folder / kind / f"{new}.safetensors").write_bytes(content[:-1] + b"\x3e")  # another number
    assert "newer" not in client.get("/api/adapters").json()["loras"]
    assert client.post(path).status_code == 200
    told = client.get("/api/adapters").json()
    assert "newer" in told["loras"]
    assert told["embeddings"] == ["catstyle", "dogstyle"]


def test_a_prompt_names_a_lora_and_the_next_one_is_drawn_without(client: TestClient) -> None:
    plain, styled, again = (picture(client, prompt) for prompt in ("a lake", "a lake <lora:style:0.5>", "a lake"))
    assert plain.tobytes() == again.tobytes() != styled.tobytes()
    assert 'Lora hashes: "style: ' in styled.text["parameters"]  # type: ignore[attr-defined]
    assert picture(client, "a lake catstyle").tobytes() != plain.tobytes()


def test_an_order_names_loras(client: TestClient) -> None:
    plain = finished(client, prompt="a lake")
    styled = finished(client, prompt="a lake", loras=[{"name": "style", "scale": 0.5, "text_encoder_scale": 0}])
    files = [client.get(f"/pictures/{job['pictures'][0]['url'].split('/')[-1]}").content for job in (plain, styled)]
    assert Image.open(BytesIO(files[0])).tobytes() != Image.open(BytesIO(files[1])).tobytes()
    settings = styled["pictures"][0]["settings"]
    assert settings["loras"] == [{"name": "style", "scale": 0.5, "text_encoder_scale": 0.0}]
    assert set(settings["lora_sha256"]) == {"style"}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"prompt": "a <lora:stile:1>"}, "LoRA 'stile' is not known; there are 2, such as style"),
        ({"prompt": "a <lora:../../etc/passwd:1>"}, "LoRA '../../etc/passwd' is not known; there are 2, such as "),
        ({"prompt": "a", "loras": [{"name": "/etc/passwd"}]}, "LoRA '/etc/passwd' is not known; there are 2"),
        ({"prompt": "a <lora:style:x>"}, "'<lora:style:x>' in the prompt is not understood"),
        ({"prompt": "a <lora:foreign:1>"}, "LoRA foreign: it was made for Stable Diffusion XL"),
        ({"prompt": "a", "loras": [{"name": "style", "scale": 1000}]},
         "the scale of LoRA 'style' must be a number from -100 to 100, not 1000"),
        ({"prompt": "a" + 17 * "<lora:style:0.1>"}, "17 LoRAs are too many; at most 16 are taken"),
    ],
)  # fmt: skip
def test_refuses_what_it_does_not_have(client: TestClient, asked: dict[str, Any], why: str) -> None:
    paths = ["/api/jobs"] if "loras" in asked else ["/api/jobs", "/sdapi/v1/txt2img"]
    for path in paths:
        answer = client.post(path, json={**SMALL, **asked})
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(why)


def test_a_file_that_cannot_be_read_is_refused_without_its_path(client: TestClient, folder: Path) -> None:
    (folder / "loras/style.safetensors").write_bytes(b"{}")
    answer = client.post("/api/jobs", json={**SMALL, "prompt": "<lora:style:1> a"})
    assert (answer.status_code, answer.json()["detail"]) == (422, "LoRA 'style' cannot be read; the log says why")


def test_a_bundle_of_old_is_told_of_without_its_path(
    bundle_of_format_2: Path, tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = {"lora_folder": tmp_path / "later/loras", "embedding_folder": tmp_path / "later/embeddings"}
    for each in folders.values():
        each.mkdir(parents=True)
    pipeline = Pipeline.load(bundle_of_format_2, provider="cpu", arithmetic="exact", **folders)
    with TestClient(create_app(pipeline, limits=LIMITS)) as client:
        for kind in ("loras", "embeddings"):
            shutil.copytree(folder / kind, tmp_path / "later" / kind, dirs_exist_ok=True)
        answer = client.post("/api/adapters/refresh")
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("this bundle's text encoder takes no embeddings")
        answer = client.post("/api/jobs", json={**SMALL, "prompt": "a <lora:style:1>"})
        assert (answer.status_code, answer.json()["detail"]) == (500, "the server failed; its log says why")
    assert f"{bundle_of_format_2} is of format version 2" in caplog.text


def test_openai_prompts_may_name_them_too(client: TestClient) -> None:
    answer = client.post("/v1/images/generations", json={"prompt": "a <lora:stile:1>", "size": "64x64"})
    assert (answer.status_code, answer.json()["error"]["message"].split(";")[0]) == (400, "LoRA 'stile' is not known")
