"""Pictures that the server keeps in a folder: listed, fetched, deleted, and there after a restart."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.server import create_app
from pocket_diffusion.server.album import Album
from serving import LIMITS, SMALL


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(provider="cpu", arithmetic="exact")


@pytest.fixture
def client(pipeline: Pipeline, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(pipeline, limits=LIMITS, output=tmp_path / "kept")) as client:
        yield client


def draw(client: TestClient, **order: object) -> dict[str, object]:
    """Have a job done and return its last view."""
    job = client.post("/api/jobs", json={**SMALL, "prompt": "a lake", **order}).json()
    client.get(f"/api/jobs/{job['id']}/events")
    return client.get(f"/api/jobs/{job['id']}").json()


def listed(client: TestClient) -> list[dict[str, object]]:
    answer = client.get("/api/gallery").json()
    assert answer["kept"]
    return answer["pictures"]


def test_pictures_stay_with_how_they_were_made(client: TestClient, pipeline: Pipeline, tmp_path: Path) -> None:
    view = draw(client, count=2, seed=7)
    pictures = listed(client)
    assert sorted(each["url"] for each in pictures) == sorted(each["kept"] for each in view["pictures"])
    assert sorted(each["seed"] for each in pictures) == [7, 8]
    assert all(each["settings"]["prompt"] == "a lake" for each in pictures)
    assert client.get(pictures[0]["url"]).headers["content-type"] == "image/png"
    with TestClient(create_app(pipeline, limits=LIMITS, output=tmp_path / "kept")) as another:
        assert listed(another) == pictures


def test_sketches_and_first_passes_do_not_stay(client: TestClient) -> None:
    view = draw(client, keep=False)
    assert (view["pictures"][0]["kept"], view["warnings"]) == (None, [])
    twice = {**SMALL, "prompt": "a lake", "enable_hr": True, "hr_scale": 2, "denoising_strength": 0.5}
    assert client.post("/sdapi/v1/txt2img", json=twice).status_code == 200
    (left,) = listed(client)
    assert left["settings"]["width"] == 128


def test_one_is_deleted(client: TestClient, tmp_path: Path) -> None:
    draw(client, count=2)
    first, second = listed(client)
    assert client.delete(first["url"]).status_code == 200
    assert listed(client) == [second]
    assert client.get(first["url"]).status_code == client.delete(first["url"]).status_code == 404
    assert len([*(tmp_path / "kept").iterdir()]) == 1


def test_the_same_seed_in_one_second_overwrites_nothing(client: TestClient) -> None:
    for _ in range(3):
        draw(client, seed=7)
    assert len(listed(client)) == 3


def test_other_files_are_left_alone(client: TestClient, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    (folder / "notes.txt").write_text("mine")
    Image.new("RGB", (8, 8)).save(folder / "20260101-000000-1.png")  # without settings
    (folder / "20260101-000000-2.png").write_bytes(b"no picture")
    (folder / "20269999-000000-3.png").write_bytes(b"no day")
    assert listed(client) == []
    for name in ("notes.txt", "..%2Fnotes.txt", "%2Fetc%2Fpasswd"):
        assert client.get(f"/gallery/{name}").status_code == client.delete(f"/gallery/{name}").status_code == 404
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_gone_is_made_again_and_one_that_cannot_be_breaks_no_drawing(
    client: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "kept"
    shutil.rmtree(folder)
    assert len(draw(client)["pictures"]) == len(listed(client)) == 1
    shutil.rmtree(folder)
    folder.write_text("a file in its place")
    view = draw(client)
    assert (view["state"], view["pictures"][0]["kept"]) == ("done", None)
    assert view["warnings"] == ["the server cannot keep the picture in its folder; its log says why"]
    assert "a picture is not kept" in caplog.text
    health = client.get("/healthz")  # a server that draws is alive
    assert (health.status_code, health.json()["status"]) == (200, "pictures do not stay")


def test_only_the_newest_are_listed(tmp_path: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(client, count=3)
    monkeypatch.setattr("pocket_diffusion.server.album._MOST", 2)
    assert len(Album(tmp_path / "kept").pictures()) == 2


def test_without_a_folder_nothing_is_kept(pipeline: Pipeline) -> None:
    with TestClient(create_app(pipeline, limits=LIMITS)) as client:
        assert draw(client)["pictures"][0]["kept"] is None
        assert client.get("/api/gallery").json() == {"kept": False, "pictures": []}
        assert client.get("/gallery/20260101-000000-1.png").status_code == 404
