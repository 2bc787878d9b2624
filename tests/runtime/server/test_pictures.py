"""Finished pictures: kept as long as there is room, in a folder that may vanish or fill up."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.errors import OutputError
from pocket_diffusion.result import Result
from pocket_diffusion.server.pictures import PictureStore


@pytest.fixture(scope="module")
def result(pipeline: Pipeline) -> Result:
    return pipeline.generate("a lake", width=64, height=64, steps=1)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which stores make theirs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def fill_disk(monkeypatch: pytest.MonkeyPatch, folder: Path, places: int) -> None:
    """Have a disk on which so many pictures find room."""
    save = Result.save

    def save_if_there_is_room(self: Result, path: Path, index: int) -> list[Path]:
        if len(list(folder.rglob("*.png"))) >= places:
            raise OutputError("No space left on device")
        return save(self, path, index)

    monkeypatch.setattr(Result, "save", save_if_there_is_room)


def test_names_in_the_store_are_no_paths(temporary: Path, result: Result) -> None:
    store = PictureStore(2)
    names = [store.add(result)[0] for _ in range(3)]
    assert store.read(names[0]) is None  # made room
    assert all(store.read(name) for name in names[1:])
    (folder,) = temporary.iterdir()
    assert len(list(folder.iterdir())) == 2
    for name in ("../" + names[1], str(folder / f"{names[1]}.png"), names[1] + ".png", "", "/etc/passwd"):
        assert store.read(name) is None
    (folder / f"{names[1]}.png").unlink()
    assert store.read(names[1]) is None
    for name in (names[2], names[2], "../" + names[2]):
        store.delete(name)
    assert list(folder.iterdir()) == []
    store.close()
    assert not folder.exists()


def test_on_a_full_disk_the_oldest_make_room(temporary: Path, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PictureStore(100)
    fill_disk(monkeypatch, temporary, places=4)
    names = [store.add(result)[0] for _ in range(5)]
    assert [store.read(name) is not None for name in names] == [False, False, True, True, True]
    fill_disk(monkeypatch, temporary, places=0)
    with pytest.raises(OutputError, match="No space left"):
        store.add(result)


def test_before_a_drawing_the_oldest_make_room(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PictureStore(100)
    names = [store.add(result)[0] for _ in range(2)]
    usage = shutil.disk_usage("/")

    def free(_: Path) -> object:
        return usage._replace(free=1000 if store.read(names[0]) else 4000)

    monkeypatch.setattr(shutil, "disk_usage", free)
    store.make_room(1000)
    assert [store.read(name) is not None for name in names] == [False, True]
    with pytest.raises(OutputError, match="is full; make room there"):
        store.make_room(1001)


def test_a_folder_that_vanished_is_made_again(temporary: Path, result: Result) -> None:
    store = PictureStore(2)
    shutil.rmtree(*temporary.iterdir())
    (name,) = store.add(result)
    assert store.read(name)
    shutil.rmtree(*temporary.iterdir())
    assert store.fault() is None
    assert store.read(name) is None
    store.close()
    assert not list(temporary.iterdir())


def test_where_no_folder_can_be_made_that_is_said(temporary: Path) -> None:
    store = PictureStore(2)
    shutil.rmtree(temporary)
    assert "no folder for pictures can be made in" in (store.fault() or "")
    with pytest.raises(OutputError, match="name another folder by TMPDIR"):
        store.make_room(1)


def test_what_a_killed_server_left_is_removed_by_the_next(temporary: Path) -> None:
    code = (
        "import os, signal; from pocket_diffusion.server.pictures import PictureStore\n"
        "store = PictureStore(1); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], env={"TMPDIR": str(temporary)}, check=False)
    (left,) = temporary.iterdir()
    (temporary / "pictures").mkdir()
    stores = [PictureStore(1), PictureStore(1)]
    assert not left.exists()
    assert len(list(temporary.iterdir())) == 3  # neither the other's nor anybody else's
    for store in stores:
        store.close()


def test_the_server_says_that_it_cannot_keep_pictures_and_draws_again_once_it_can(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    walk = Pipeline._walk
    monkeypatch.setattr(Pipeline, "_walk", lambda *given: drawn.append(1) or walk(*given))
    with monkeypatch.context() as full:
        usage = shutil.disk_usage("/")._replace(free=1000)
        full.setattr(shutil, "disk_usage", lambda _: usage)
        answer = client.post("/generate", json={"text": "a lake"})
        assert answer.status_code == 500
        assert "cannot keep pictures" in answer.json()["detail"]
        assert not drawn
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()["status"]) == (503, "pictures cannot be kept")
    assert client.get("/healthz").json()["status"] == "ok"
    answer = client.post("/v1/images/generations", json={"prompt": "a lake", "size": "64x64", "steps": 1})
    assert answer.status_code == 200
