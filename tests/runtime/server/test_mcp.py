"""The endpoint for assistants, by the official SDK's own client, or without the SDK."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.cli import cli
from pocket_diffusion.errors import ServerUnavailableError
from pocket_diffusion.server import create_app
from serving import ENDLESS, LIMITS, SMALL

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")

from mcp import Client, types
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CLIENT_CAPABILITIES_META_KEY, PROTOCOL_VERSION_META_KEY

Use = Callable[[Client], Awaitable[Any]]
Run = Callable[..., Any]

CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
STDIO = ("-m", "pocket_diffusion", "mcp", "--provider", "cpu", "--arithmetic", "exact")
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def run() -> Run:
    """Connect to a server and do something there; all servers draw with the same networks."""
    pipeline = Pipeline.load(provider="cpu", arithmetic="exact")

    async def connected(use: Use, mode: str, unread: int) -> Any:  # noqa: ANN401 - whatever is asked for
        app = create_app(pipeline, limits=LIMITS)
        app.state.unread = unread
        async with (
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://testserver") as http,
            Client(streamable_http_client("http://testserver/mcp", http_client=http), mode=mode) as client,
        ):
            return await use(client)

    return lambda use, mode="auto", unread=0: asyncio.run(connected(use, mode, unread))


def png(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def pixels(content: types.ContentBlock) -> np.ndarray:
    assert isinstance(content, types.ImageContent)
    assert content.mime_type == "image/png"
    return np.asarray(Image.open(BytesIO(base64.b64decode(content.data))))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_picture_from_a_prompt_is_what_the_pipeline_draws_and_each_step_is_told(
    run: Run, mode: str, pipeline: Pipeline
) -> None:
    steps = []

    async def progress(step: float, total: float | None, _: str | None) -> None:
        steps.append((step, total))

    async def draw(client: Client) -> types.CallToolResult:
        options = {"prompt": "a lake", **SMALL, "steps": 2}
        return await client.call_tool("draw", options, progress_callback=progress)

    result = run(draw, mode)
    assert not result.is_error, result.content
    expected = pipeline.generate("a lake", **{**SMALL, "steps": 2}).images[0]
    np.testing.assert_array_equal(pixels(result.content[0]), np.asarray(expected))
    facts = json.loads(result.content[1].text)["pictures"][0]
    assert (facts["seed"], facts["steps"]) == (SMALL["seed"], 2)
    assert "/pictures/" in facts["url"]
    assert steps == sorted(set(steps))  # the protocol asks for it
    assert steps[-1] == (2, 2)


def test_a_masked_part_is_redrawn(run: Run, pipeline: Pipeline) -> None:
    picture, mask = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    options = {"prompt": "a lake", **SMALL, "strength": 1.0}

    async def redraw(client: Client) -> types.CallToolResult:
        return await client.call_tool(
            "redraw", {**options, "image": f"data:image/png;base64,{png(picture)}", "mask": png(mask)}
        )

    result = run(redraw)
    assert not result.is_error, result.content
    expected = pipeline.generate(**options, image=picture, mask=mask).images[0]
    np.testing.assert_array_equal(pixels(result.content[0]), np.asarray(expected))


def test_what_was_drawn_is_redrawn_by_its_url(run: Run, pipeline: Pipeline) -> None:
    async def draw_and_redraw(client: Client) -> types.CallToolResult:
        first = await client.call_tool("draw", {"prompt": "a lake", **SMALL})
        url = json.loads(first.content[1].text)["pictures"][0]["url"]
        return await client.call_tool("redraw", {"prompt": "a town", **SMALL, "strength": 1.0, "image": url})

    result = run(draw_and_redraw)
    assert not result.is_error, result.content
    picture = pipeline.generate("a lake", **SMALL).images[0]
    expected = pipeline.generate("a town", **SMALL, image=picture, strength=1.0).images[0]
    np.testing.assert_array_equal(pixels(result.content[0]), np.asarray(expected))


def test_the_tools_say_what_they_take(run: Run, pipeline: Pipeline) -> None:
    async def ask(client: Client) -> tuple[types.ListToolsResult, types.CallToolResult]:
        return await client.list_tools(), await client.call_tool("list_models", {})

    listed, models = run(ask)
    tools = {tool.name: tool.input_schema for tool in listed.tools}
    assert set(tools) == {"draw", "redraw", "list_models"}
    assert tools["draw"]["required"] == ["prompt"]
    assert "image" not in tools["draw"]["properties"]
    assert tools["redraw"]["required"] == ["prompt", "image"]
    assert json.loads(models.content[0].text)["default"] == pipeline.name
    assert json.loads(models.content[1].text)["width"] == pipeline.bundle.manifest.defaults.width


@pytest.mark.parametrize(
    ("tool", "arguments", "why"),
    [
        ("draw", {}, "prompt"),
        ("draw", {"prompt": "a", "width": 65}, "width must be"),
        ("draw", {"prompt": "a", "steps": 101}, "steps must be at most 100"),
        ("draw", {"prompt": "a", "model": "other"}, "model 'other' is not known"),
        ("draw", {"prompt": "a", "colour": "red"}, "colour"),
        ("redraw", {"prompt": "a"}, "`image` is missing"),
        ("redraw", {"prompt": "a", "image": "no Base64"}, "must be a picture file in Base64"),
        ("redraw", {"prompt": "a", "image": base64.b64encode(b"no picture").decode()}, "is not a picture"),
        ("redraw", {"prompt": "a", "image": "http://elsewhere.example/a.png"}, "only pictures drawn here"),
        ("paint", {}, "there is no such tool; there are draw, redraw, list_models"),
    ],
    ids=str,
)
def test_an_assistant_is_told_what_was_wrong(run: Run, tool: str, arguments: dict[str, Any], why: str) -> None:
    result = run(lambda client: client.call_tool(tool, arguments))
    assert result.is_error
    assert why in result.content[0].text


def test_what_is_unexpected_is_for_the_log_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left in /home/me")

    monkeypatch.setattr("pocket_diffusion.server.mcp.tools.submit", fail)
    result = run(lambda client: client.call_tool("draw", {"prompt": "a lake"}), "legacy")
    assert result.content[0].text == "the tool failed; the server's log says why"
    assert "no space left in /home/me" in caplog.text


def test_a_picture_waits_while_others_do_not_read_theirs(run: Run) -> None:
    result = run(lambda client: client.call_tool("draw", {"prompt": "a lake", **SMALL}), unread=LIMITS.answers_bytes)
    assert result.is_error
    assert "not read yet" in result.content[0].text


@pytest.mark.usefixtures("standstill")
@pytest.mark.parametrize("version", ["2025-06-18", "2026-07-28"])
def test_a_drawing_ends_when_its_client_goes_away(version: str) -> None:
    """The protocol's two generations answer in ways of their own."""
    options = {"prompt": "a", **SMALL, "steps": 2}
    about = {
        "progressToken": 1,
        PROTOCOL_VERSION_META_KEY: version,
        CLIENT_CAPABILITIES_META_KEY: {},
    }
    params = {"name": "draw", "arguments": options, "_meta": about}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    headers = {
        **ACCEPT,
        "Content-Type": "application/json",
        "MCP-Protocol-Version": version,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "draw",
    }

    async def leave_after_a_step() -> None:
        app = create_app(Pipeline.load(provider="cpu", arithmetic="exact"), limits=LIMITS)
        jobs, gone = [], asyncio.Event()
        to_send = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if to_send:
                return to_send.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if b'"progress":1' in message.get("body", b"") and not gone.is_set():
                jobs.append(app.state.queue.running)
                gone.set()

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/mcp",
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
        }
        await app(scope, receive, send)
        async for _ in jobs[0].changes():
            pass
        assert jobs[0].state == "cancelled"

    asyncio.run(leave_after_a_step())


def test_an_assistant_starts_the_command_and_uses_files_of_the_machine(tmp_path: Path, pipeline: Pipeline) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "my photo.png")
    command = StdioServerParameters(
        command=sys.executable, args=[*STDIO, "--output", str(tmp_path / "drawn")], env={**os.environ}
    )
    steps, options = [], {"prompt": "a lake", **SMALL, "steps": 2}

    async def progress(step: float, total: float | None, _: str | None) -> None:
        steps.append((step, total))

    async def use() -> list[types.CallToolResult]:
        async with Client(stdio_client(command)) as client:
            first = await client.call_tool("draw", options, progress_callback=progress)
            asked = {**options, "strength": 1.0, "image": (tmp_path / "my photo.png").as_uri()}
            mine = await client.call_tool("redraw", asked)
            return [first, mine, await client.call_tool("redraw", {**asked, "image": tmp_path.as_uri()})]

    first, mine, refused = asyncio.run(use())
    expected = pipeline.generate(**options).images[0]
    np.testing.assert_array_equal(pixels(first.content[0]), np.asarray(expected))
    assert steps[-1] == (2, 2)
    urls = [json.loads(result.content[1].text)["pictures"][0]["url"] for result in (first, mine)]
    assert sorted(urls) == sorted(path.as_uri() for path in (tmp_path / "drawn").iterdir())
    expected = pipeline.generate(**options, image=Image.new("RGB", (64, 64), "red"), strength=1.0).images[0]
    np.testing.assert_array_equal(pixels(mine.content[0]), np.asarray(expected))
    assert "the image at that URL cannot be read (Is a directory)" in refused.content[0].text


def test_the_command_ends_its_drawing_with_stdin_and_writes_messages_alone() -> None:
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    with subprocess.Popen(
        [sys.executable, *STDIO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as command:
        for message in (
            {"id": 1, "method": "initialize", "params": client},
            {"method": "notifications/initialized"},
            {
                "id": 2,
                "method": "tools/call",
                "params": {"name": "draw", "arguments": {**ENDLESS, "count": 1}, "_meta": {"progressToken": 1}},
            },
        ):
            command.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        messages = []
        while not messages or "progress" not in messages[-1].get("params", {}):
            messages.append(json.loads(command.stdout.readline()))
        command.stdin.close()
        messages += map(json.loads, command.stdout)
        assert command.wait() == 0
    assert all(message["jsonrpc"] == "2.0" for message in messages)
    assert messages[-1].get("params", {}).get("progress") != ENDLESS["steps"]  # it has not gone on to the end


def test_a_file_of_the_server_is_nothing_to_a_stranger(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    asked = {"prompt": "a", **SMALL, "image": (tmp_path / "secret.png").as_uri()}
    result = run(lambda client: client.call_tool("redraw", asked))
    assert "must be a picture file in Base64" in result.content[0].text


def test_strangers_do_not_reach_it() -> None:
    app = create_app(Pipeline.load(provider="cpu", arithmetic="exact"), limits=LIMITS, token="open sesame")
    with TestClient(app) as client:
        assert client.post("/mcp", json=CALL, headers=ACCEPT).status_code == 401
        trusted = {**ACCEPT, "Authorization": "Bearer open sesame"}
        assert client.post("/mcp", json=CALL, headers=trusted).status_code == 200
        foreign = {**trusted, "Origin": "http://elsewhere.example"}
        assert client.post("/mcp", json=CALL, headers=foreign).status_code == 403


def test_a_body_with_too_many_values_is_not_decoded(client: TestClient) -> None:
    body = {**CALL, "params": {"values": [0] * 70_000}}
    answer = client.post("/mcp", json=body, headers=ACCEPT)
    assert answer.status_code == 422
    assert "commas and brackets" in answer.json()["detail"]


def test_where_the_sdk_is_not_installed_the_answer_says_what_to_install(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "pocket_diffusion.server.mcp.tools", raising=False)
    monkeypatch.setitem(sys.modules, "mcp", None)
    answer = client.post("/mcp", json=CALL, headers=ACCEPT)
    assert answer.status_code == 404
    assert 'pip install "pocket-diffusion[mcp]"' in answer.json()["detail"]
    monkeypatch.delitem(sys.modules, "pocket_diffusion.server.mcp.stdio", raising=False)
    error = CliRunner().invoke(cli, ["mcp"]).exception
    assert isinstance(error, ServerUnavailableError)
    assert 'pip install "pocket-diffusion[mcp]"' in str(error)


def test_the_sdk_is_not_imported_before_an_assistant_comes() -> None:
    code = "import sys, pocket_diffusion.server.run, pocket_diffusion.server; assert 'mcp' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
