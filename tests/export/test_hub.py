"""Models by their id on a hub: a server of our own answers as a hub does."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch

from pocket_diffusion.errors import CheckpointNotFoundError, UnsupportedModelError
from pocket_export.checkpoint import read_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BESIDE = ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.non_ema.safetensors")
NOBODY = "http://127.0.0.1:9"
MODEL = "someone/tiny-v1.5"


class Hub(ThreadingHTTPServer):
    """Serves one folder as `MODEL`, refuses `someone/private`, knows nothing else."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.folder = folder
        self.downloaded: list[str] = []

    def names(self) -> list[str]:
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())


class _Answers(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, with_content: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        content, headers, status = b"", {}, 404
        if "someone/private" in path:
            headers, status = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, 403
        elif path in (f"api/models/{MODEL}", *(f"api/models/{MODEL}/revision/{r}" for r in ("main", "v1.0", COMMIT))):
            siblings = [{"rfilename": name} for name in self.server.names()]
            content = json.dumps({"id": MODEL, "sha": COMMIT, "siblings": siblings}).encode()
            status = 200
        elif path == f"api/models/{MODEL}/tree/{COMMIT}":
            files = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in self.server.names()]
            content, status = json.dumps(files).encode(), 200
        elif path.startswith(f"{MODEL}/resolve/"):
            name = path.removeprefix(f"{MODEL}/resolve/").partition("/")[2]
            content, status = (self.server.folder / name).read_bytes(), 200
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            if with_content:
                self.server.downloaded.append(name)
        else:
            headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_content:
            self.wfile.write(content)


def set_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Do what HF_ENDPOINT does when it is set before the import."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", url)


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(folder) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        set_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        huggingface_hub.utils.disable_progress_bars()
        yield server
        server.shutdown()
    huggingface_hub.utils.enable_progress_bars()
    huggingface_hub.close_session()


@pytest.mark.parametrize("source", [MODEL, f"{MODEL}@v1.0"])
def test_reads_a_model_by_its_id(hub: Hub, folder: Path, source: str) -> None:
    checkpoint, local = read_checkpoint(source), read_checkpoint(str(folder))
    assert checkpoint.source.name == source
    assert checkpoint.unet_config == local.unet_config
    assert checkpoint.unet.keys() == local.unet.keys()
    assert all(torch.equal(checkpoint.unet[name], local.unet[name]) for name in local.unet)
    assert checkpoint.source.tokenizer == local.source.tokenizer


def test_fetches_only_what_it_needs(hub: Hub, folder: Path) -> None:
    for name in BESIDE:
        (folder / "unet" / name).write_bytes(b"large")
    (folder / "v1-5-pruned.ckpt").write_bytes(b"large")
    read_checkpoint(MODEL)
    weights = sorted(name for name in hub.downloaded if not name.endswith((".json", ".txt", ".md")))
    assert weights == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_reads_a_fetched_model_when_the_hub_has_gone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    read_checkpoint(MODEL)
    set_endpoint(monkeypatch, NOBODY)
    assert read_checkpoint(MODEL).source.name == MODEL


@pytest.mark.parametrize(
    ("source", "reason"), [("someone/nothing", "404"), ("someone/private", "403"), (f"{MODEL}@v2", "404")]
)
def test_says_what_the_hub_answered(hub: Hub, source: str, reason: str) -> None:
    with pytest.raises(CheckpointNotFoundError) as caught:
        read_checkpoint(source)
    assert f"{source} is no local path and cannot be fetched from the hub" in str(caught.value)
    assert reason in str(caught.value)
    assert "check its name and your connection" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_says_that_the_hub_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    set_endpoint(monkeypatch, NOBODY)
    with pytest.raises(CheckpointNotFoundError, match=r"cannot be fetched from the hub .*Connection refused") as caught:
        read_checkpoint(MODEL)
    assert "\n" not in str(caught.value)


def test_refuses_another_kind_of_repository(hub: Hub, folder: Path) -> None:
    (folder / "model_index.json").unlink()
    with pytest.raises(UnsupportedModelError, match=r"is no diffusers folder \(it has no model_index\.json\)"):
        read_checkpoint(MODEL)
    assert not hub.downloaded


def test_refuses_a_repository_without_weights_before_fetching(hub: Hub, folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointNotFoundError, match=f"{MODEL}: vae has no weights"):
        read_checkpoint(MODEL)
    assert not hub.downloaded
