"""Several models of one server: chosen by name, opened when they are asked for, closed where memory is short."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import MANIFEST_NAME
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.model import budget
from pocket_diffusion.model.memory import Demand
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_diffusion.server import Models, create_app
from serving import LIMITS, SMALL, RunningServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three bundles, of which the second draws one step by default, one that is damaged, and what is no bundle."""
    for name in ("first", "quick", "torn"):
        shutil.copytree(DEFAULT_BUNDLE, tmp_path / "models" / name, copy_function=_link)
    manifest = tmp_path / "models/quick" / MANIFEST_NAME
    content = json.loads(manifest.read_bytes())
    content["defaults"]["steps"] = 1
    _write(manifest, json.dumps(content))
    _write(tmp_path / "models/torn" / MANIFEST_NAME, "{")
    (tmp_path / "models/notes").mkdir()
    return tmp_path / "models"


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def _write(path: Path, text: str) -> None:
    path.unlink()  # it is the embedded bundle's own too
    path.write_text(text)


def load(path: Path) -> Pipeline:
    return Pipeline.load(path, provider="cpu", arithmetic="exact")


def test_orders_choose_a_model_by_its_name(folder: Path) -> None:
    with TestClient(create_app(Models.of_folder(folder, load), limits=LIMITS)) as client:
        assert client.get("/api/models").json() == {"default": "first", "names": ["first", "quick", "torn"]}
        assert client.get("/api/model").json()["name"] == "first"
        assert client.get("/api/models/quick").json()["steps"] == 1
        order = {**SMALL, "prompt": "a lake", "steps": None}
        assert client.post("/api/jobs", json={**order, "model": "quick"}).json()["steps"] == 1
        assert client.post("/api/jobs", json=order).json()["steps"] > 1


def test_a_model_that_is_not_there_or_damaged_is_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with TestClient(create_app(Models.of_folder(folder, load), limits=LIMITS)) as client:
        for name, why in (
            ("quik", "model 'quik' is not known; there are 3, such as quick"),
            ("../models/quick", "is not known"),
            ("torn", "model 'torn' cannot be opened; the server's log says why"),
        ):
            answer = client.post("/api/jobs", json={**SMALL, "prompt": "a lake", "model": name})
            assert answer.status_code == 422
            assert why in answer.json()["detail"]
            assert str(folder) not in answer.text
        assert client.get("/api/models/quik").status_code == 404
    assert str(folder) in caplog.text


def test_models_that_come_later_are_found(folder: Path) -> None:
    models = Models.of_folder(folder, load)
    (folder / "torn").rename(folder / "whole")
    shutil.copy(folder / "first" / MANIFEST_NAME, folder / "whole" / MANIFEST_NAME)
    with TestClient(create_app(models, limits=LIMITS)) as client:
        client.post("/api/adapters/refresh")
        assert client.get("/api/models").json()["names"] == ["first", "quick", "whole"]
        assert client.get("/api/models/whole").json()["name"] == "whole"


def test_a_folder_without_bundles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="there is no bundle in"):
        Models.of_folder(tmp_path, load)
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        Models.of_folder(tmp_path / "missing", load)


def test_the_named_bundle_is_the_default(folder: Path) -> None:
    models = Models.of_folder(folder, load, folder / "quick")
    assert models.names == ["quick", "first", "torn"]
    assert models.open() is models.open("quick")


@pytest.mark.parametrize("has_room", [True, False])
def test_others_are_closed_where_memory_is_short(folder: Path, monkeypatch: pytest.MonkeyPatch, has_room: bool) -> None:
    models = Models.of_folder(folder, load)
    first, quick = models.open("first"), models.open("quick")
    monkeypatch.setattr(budget, "free_memory", lambda: 2**40)
    first.generate("a lake", **SMALL)
    assert (first.is_loaded, quick.is_loaded) == (True, False)
    monkeypatch.setattr(budget, "free_memory", lambda: 2**40 if has_room else 2**20)
    models.make_room(quick, _demand(quick))
    assert first.is_loaded == has_room
    models.close()


def test_the_least_recently_asked_for_is_closed_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "torn" / MANIFEST_NAME).unlink()
    shutil.copy(folder / "first" / MANIFEST_NAME, folder / "torn" / MANIFEST_NAME)
    models = Models.of_folder(folder, load)
    monkeypatch.setattr(budget, "free_memory", lambda: 2**40)
    pipelines = {name: models.open(name) for name in ("torn", "first", "quick")}
    pipelines["torn"].generate("a lake", **SMALL)
    pipelines["first"].generate("a lake", **SMALL)
    # Closing one is enough.
    monkeypatch.setattr(budget, "free_memory", lambda: 2**20 if pipelines["torn"].is_loaded else 2**40)
    models.make_room(pipelines["quick"], _demand(pipelines["quick"]))
    assert [name for name, one in pipelines.items() if one.is_loaded] == ["first"]
    models.close()


def test_serve_offers_a_folder(folder: Path, start_server: Callable[..., RunningServer]) -> None:
    server = start_server("--models", folder)
    with urlopen(f"{server.url}/api/models") as answer:
        assert json.load(answer)["default"] == "first"


def _demand(pipeline: Pipeline) -> Demand:
    return Demand.usual(pipeline.bundle.manifest)
