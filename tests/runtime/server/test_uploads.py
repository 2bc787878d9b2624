"""Pictures that clients send: read elsewhere, within limits, and none waits for a stranger's."""

import asyncio
import base64
from io import BytesIO

import msgspec
import pytest
from PIL import Image, PngImagePlugin
from starlette.requests import Request
from starlette.testclient import TestClient

from pocket_diffusion.drawing.picture_process import Task, Texts
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server import Limits, uploads
from pocket_diffusion.server.uploads import Uploads


def png(picture: Image.Image, **texts: str) -> bytes:
    said = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        said.add_text(name, text, zip=True)
    file = BytesIO()
    picture.save(file, "PNG", pnginfo=said)
    return file.getvalue()


def request_of(address: str) -> Request:
    return Request({"type": "http", "client": (address, 1234)})


def test_a_picture_comes_back_no_larger_than_drawings_need() -> None:
    content = png(Image.new("RGB", (600, 300), "red"))
    picture = asyncio.run(Uploads(Limits(pixels=64 * 64)).picture(request_of("a"), content, "image"))
    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", (128, 64), (255, 0, 0))


def test_a_process_that_takes_too_long_is_ended_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    reader = Uploads(Limits(reading_seconds=0))
    with pytest.raises(
        InvalidRequestError, match="the image takes more than 0 s or 512 MiB to read; reduce it, or save"
    ):
        asyncio.run(reader.picture(request_of("a"), png(Image.new("RGB", (8, 8))), "image"))
    assert "the process that read a picture ended with" in caplog.text


def test_nobody_waits_for_a_strangers_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    over = asyncio.Event()

    async def output(_: Task, content: bytes) -> bytes:
        begun.append(content)
        if content == b"good":
            over.set()
        await over.wait()
        return msgspec.msgpack.encode(Texts({}))

    async def crowd() -> None:
        reader = Uploads(Limits(readings=2))
        bombs = [reader.texts(request_of("a"), b"bomb", "image") for _ in range(10)]
        async with asyncio.timeout(120):
            await asyncio.gather(*bombs, reader.texts(request_of("b"), b"good", "image"))

    monkeypatch.setattr(uploads, "_output", output)
    asyncio.run(crowd())
    assert begun == [b"bomb", b"good", *[b"bomb"] * 9]


def test_only_so_many_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    async def output(_: Task, __: bytes) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return msgspec.msgpack.encode(Texts({}))

    async def crowd() -> None:
        reader = Uploads(Limits(readings=2))
        await asyncio.gather(*(reader.texts(request_of(f"client {n}"), b"", "image") for n in range(10)))

    monkeypatch.setattr(uploads, "_output", output)
    asyncio.run(crowd())
    assert most == 2


def test_text_that_unpacks_to_megabytes_is_refused(client: TestClient) -> None:
    content = png(Image.new("RGB", (8, 8)), **{f"text {n}": "\0" * 1_000_000 for n in range(63)})
    assert len(content) < 100_000
    answer = client.post("/sdapi/v1/png-info", json={"image": base64.b64encode(content).decode()})
    assert answer.status_code == 422
    assert "characters of text; at most 262,144 are read" in answer.json()["detail"]
