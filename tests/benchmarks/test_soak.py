"""soak.py: a soak of seconds, and what counts as a fault."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

import soak
from server_load import Server
from soak import FAULTS, Lost, Visit

SCRIPT = Path(soak.__file__)
ORDER = {"prompt": "a", "width": 8, "height": 8, "steps": 1, "seed": 1}
GREY = np.full((8, 8, 3), 99, np.uint8)
REFERENCES = [(ORDER, GREY), ({**ORDER, "image": soak.base64_picture()}, GREY)]


def png(level: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8), (level,) * 3).save(file, "PNG")
    return file.getvalue()


@contextmanager
def answering(**answers: tuple[int, object]) -> Iterator[Server]:
    """Run a server with one answer to each method."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = answers[self.command]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - as http.server wants it

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Server(server.server_port, 0)
        finally:
            server.shutdown()


def drawn(level: int) -> tuple[int, object]:
    return 200, {"data": [{"b64_json": base64.b64encode(png(level)).decode()}]}


@pytest.mark.parametrize(
    ("kind", "answer", "counted"),
    [
        (soak.draw, drawn(99), "pictures"),
        (soak.draw, drawn(100), "pictures"),
        (soak.draw, drawn(160), "wrong pictures"),
        (soak.draw, (429, {}), "refused for lack of room"),
        (soak.draw, (500, {}), "errors"),
        (soak.upload, (500, {}), "errors"),
        (soak.upload_bad, (422, {}), "bad files refused"),
        (soak.upload_bad, (202, {"id": "a"}), "bad files taken"),
        (soak.upload_bad, (500, {}), "errors"),
        (soak.leave, (200, {}), "left"),
    ],
)
def test_what_a_visit_counts_as(kind: Callable[[Visit], str], answer: tuple[int, object], counted: str) -> None:
    with answering(POST=answer) as server:
        assert kind(Visit(server, REFERENCES)) == counted


@pytest.mark.parametrize("kind", [soak.upload, soak.cancel, soak.follow])
def test_a_job_that_the_server_no_longer_knows_is_lost(kind: Callable[[Visit], str]) -> None:
    with (
        answering(POST=(202, {"id": "a"}), GET=(404, {}), DELETE=(202, {})) as server,
        pytest.raises(Lost, match="a job is answered with 404"),
    ):
        kind(Visit(server, REFERENCES))


def test_a_soak_of_seconds(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    options = ("--minutes", "0.05", "--clients", "6", "--kills", "1", "--size", "64x64", "--steps", "2")
    process = subprocess.run(
        [sys.executable, SCRIPT, *options, "--output", output], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(output.read_text())["measurements"]
    assert found["faults"] == dict.fromkeys(FAULTS, 0)
    assert found["healthz_seconds"]["longest"] >= found["healthz_seconds"]["p99"] > 0
    assert len(found["samples_of_memory"]) == 2  # the server that is killed and the one after it
    assert all(len(samples) >= 2 for samples in found["samples_of_memory"])
    for shown in ("| jobs lost", "| wrong pictures", "| `/healthz`, 99th percentile", "| growth"):
        assert shown in process.stdout
