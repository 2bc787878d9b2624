"""Answers: what clients leave unread is limited, and errors are short whatever was sent."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Message

from pocket_diffusion import InvalidRequestError
from pocket_diffusion.server import Limits
from pocket_diffusion.server.answers import LargeAnswer, decode_json, received, refusal


class Client:
    """One that reads an answer bit by bit, once it begins to."""

    def __init__(self, *, reads: bool = True) -> None:
        self.reads = asyncio.Event()
        if reads:
            self.reads.set()
        self.status = 0
        self.content = b""

    async def send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.content += message.get("body", b"")
        await self.reads.wait()


def test_what_clients_leave_unread_is_limited() -> None:
    app = SimpleNamespace(state=SimpleNamespace(unread=0, limits=Limits(answers_bytes=250_000)))
    content = bytes(range(200)) * 1000

    async def ask(client: Client) -> None:
        await LargeAnswer(content)({"type": "http", "app": app}, asyncio.Event().wait, client.send)

    async def crowd() -> None:
        slow, hurried, late = Client(reads=False), Client(), Client()
        reading = asyncio.create_task(ask(slow))
        await asyncio.sleep(0)  # it begins
        assert (slow.status, app.state.unread) == (200, len(content))
        await ask(hurried)
        assert (hurried.status, slow.content) == (429, b"")
        slow.reads.set()
        await reading
        await ask(late)
        assert (slow.content, late.status, late.content) == (content, 200, content)

    asyncio.run(crowd())
    assert app.state.unread == 0


def test_a_long_message_keeps_its_two_ends() -> None:
    message = json.loads(refusal(400, "sampler " + "x" * 10_000_000 + " is not known").body)["error"]["message"]
    assert message.startswith("sampler xxx")
    assert message.endswith("xxx is not known")
    assert len(message) < 700


def test_a_field_with_a_huge_name_is_refused_without_repeating_it() -> None:
    with pytest.raises(InvalidRequestError, match=r"^the body has a name of over 65,536 characters$"):
        decode_json(b'{"%s" :1}' % (b"x" * 2_000_000), dict[str, int])
    picture = b"A" * 2_000_000
    assert decode_json(b'{"image":"%s","b":"c"}' % picture, dict[str, str])["image"] == picture.decode()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/jobs", {"prompt": "a", "N" * 100_000: 1}),
        ("/api/jobs", {"prompt": "a", "sampler": "N" * 100_000}),
        ("/api/jobs", {"prompt": "a", "loras": [{"name": "N" * 100_000}]}),
        ("/v1/images/generations", {"prompt": "a", "response_format": "N" * 100_000}),
        ("/v1/images/generations", {"prompt": "a", "output_format": "N" * 100_000}),
        ("/sdapi/v1/options", {"N" * 100_000: 1}),
        ("/sdapi/v1/txt2img", {"prompt": "a", "override_settings": {"N" * 100_000: 1}}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_was_sent_is_not_sent_back(client: TestClient, path: str, body: dict[str, object]) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code in (400, 422)
    assert len(answer.content) < 2000


@pytest.mark.parametrize("path", ["/api/jobs", "/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/options"])
def test_a_body_of_very_many_values_is_refused_before_it_is_decoded(client: TestClient, path: str) -> None:
    body = b'{"prompt": "a", "override_settings": {"a": [' + b"[]," * 35_000 + b"1]}}"
    answer = client.post(path, content=body)
    assert answer.status_code in (400, 422)
    assert "over 65,536 commas and brackets; send fewer values" in answer.json()["detail"]


def test_a_body_of_very_many_values_is_refused_before_it_is_there() -> None:
    came = 0

    async def receive() -> Message:
        nonlocal came
        came += 1
        return {"type": "http.request", "body": b"[]," * 10_000, "more_body": True}

    with pytest.raises(InvalidRequestError, match="commas and brackets"):
        asyncio.run(received(Request({"type": "http"}, receive)))
    assert came == 4


@pytest.mark.parametrize("path", ["/api/jobs", "/v1/images/generations", "/sdapi/v1/txt2img", "/sdapi/v1/options"])
def test_a_body_of_very_deep_values_is_refused(client: TestClient, path: str) -> None:
    body = b'{"prompt": "a", "override_settings": {"a": ' + b"[" * 60_000 + b"]" * 60_000 + b"}}"
    assert client.post(path, content=body).status_code in (400, 422)
