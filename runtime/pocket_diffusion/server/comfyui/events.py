"""The websocket on which clients hear how their graphs get on."""

import asyncio
import json
import secrets
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from pocket_diffusion.server.answers import may_be_sent, unread
from pocket_diffusion.server.clients import client_of
from pocket_diffusion.server.comfyui.executions import Execution
from pocket_diffusion.server.jobs import JobQueue, State

_LONGEST_NAME = 100
_PREVIEW = struct.pack(">II", 1, 2)
"""Stands before a picture: it is a preview, and a PNG."""

Message = tuple[str, dict[str, Any]] | bytes


async def events(websocket: WebSocket) -> None:
    """Tell of a client's graphs, one after another, until it goes away; what it says itself is not listened to."""
    state = websocket.app.state
    listener = websocket.query_params.get("clientId", "")[:_LONGEST_NAME] or secrets.token_hex(16)
    with state.comfyui.executions.listening(client_of(websocket.scope), listener) as upcoming:
        await websocket.accept()
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(_tell(websocket, state.queue, upcoming, listener))
            await _left(websocket)
            telling.cancel()


async def _left(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


async def _tell(websocket: WebSocket, queue: JobQueue, upcoming: "asyncio.Queue[Execution]", listener: str) -> None:
    with suppress(WebSocketDisconnect):
        await _send(websocket, _status(queue, sid=listener))
        while True:
            async with aclosing(_story(queue, await upcoming.get())) as story:
                async for message in story:
                    await _send(websocket, message)


async def _send(websocket: WebSocket, message: Message) -> None:
    """Send a message; previews are left out while clients leave too much unread."""
    state = websocket.app.state
    if not isinstance(message, bytes):
        await websocket.send_text(json.dumps({"type": message[0], "data": message[1]}))
    elif may_be_sent(state, len(message)):
        with unread(state, len(message)):
            await websocket.send_bytes(message)


async def _story(queue: JobQueue, execution: Execution) -> AsyncGenerator[Message, None]:
    """Yield what there is to tell of one graph; steps that come faster than they are read are skipped."""
    job, about = execution.job, {"prompt_id": execution.id}
    has_begun = False
    yield _status(queue)
    async for is_over in job.changes():  # whoever goes away may ask for the history later
        if job.state is State.QUEUED:
            continue
        if not has_begun:  # also of one that is over already, since clients wait for it
            has_begun = True
            yield "execution_start", about
            yield "execution_cached", {**about, "nodes": []}
            yield "executing", {**about, "node": execution.ends[0]}
        if is_over:
            continue
        yield "progress", {**about, "node": execution.ends[0], "value": job.step, "max": job.steps}
        preview = await queue.preview(job)
        if preview is not None:
            yield _PREVIEW + preview
    for end, output in execution.outputs.items():
        yield "executed", {**about, "node": end, "output": output}
    yield execution.last_message
    yield "executing", {**about, "node": None}
    yield _status(queue)


def _status(queue: JobQueue, **more: str) -> Message:
    return "status", {"status": {"exec_info": {"queue_remaining": len(queue)}}, **more}
