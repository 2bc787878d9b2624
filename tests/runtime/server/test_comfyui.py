"""ComfyUI's API, request by request; tests/clients has what SillyTavern sends."""

import asyncio
import copy
import json
import socket
from collections.abc import Callable, Iterator
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import wsproto
from PIL import Image, ImageOps
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect
from wsproto import events

from pocket_diffusion import Pipeline
from pocket_diffusion.drawing.samplers import find_sampler
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.order import LoraUse
from pocket_diffusion.server import create_app
from pocket_diffusion.server.comfyui.events import _send, _story
from pocket_diffusion.server.comfyui.executions import Executions
from pocket_diffusion.server.comfyui.graph import Graph, read_graph
from pocket_diffusion.server.comfyui.inputs import Inputs
from pocket_diffusion.server.comfyui.routes import _changed
from pocket_diffusion.server.comfyui.values import Mask
from pocket_diffusion.server.jobs import State
from serving import LIMITS, RunningServer

SETTINGS = {"seed": 7, "steps": 2, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
SAME = {"seed": 7, "steps": 2, "guidance_scale": 5.0, "sampler": "euler", "scheduler": "normal"}
"""In our words."""


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """One server for all, since each would load its networks anew."""
    with TestClient(create_app(Pipeline.load(provider="cpu", arithmetic="exact"), limits=LIMITS)) as client:
        yield client


@pytest.fixture
def text_to_image(pipeline: Pipeline) -> dict[str, Any]:
    """The graph that everybody knows."""
    return {
        "3": node("KSampler", model=["4", 0], positive=["6", 0], negative=["7", 0], latent_image=["5", 0], **SETTINGS),
        "4": node("CheckpointLoaderSimple", ckpt_name=pipeline.name),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", clip=["4", 1], text="a lake"),
        "7": node("CLIPTextEncode", clip=["4", 1], text="a town"),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="ComfyUI"),
    }


@pytest.fixture
def image_to_image(text_to_image: dict[str, Any]) -> dict[str, Any]:
    graph = {
        **text_to_image,
        "5": node("VAEEncode", pixels=["10", 0], vae=["4", 2]),
        "10": node("LoadImage", image="red.png", upload="image"),
    }
    return changed(graph, "3", denoise=0.5)


def node(kind: str, **inputs: object) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def changed(graph: dict[str, Any], name: str, **inputs: object) -> dict[str, Any]:
    graph = copy.deepcopy(graph)
    graph[name]["inputs"].update(inputs)
    return graph


def png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def upload(client: TestClient, picture: Image.Image, name: str) -> None:
    answer = client.post("/upload/image", files={"image": (name, png(picture))}, data={"overwrite": "true"})
    assert answer.json() == {"name": name, "subfolder": "", "type": "input"}


def finished(client: TestClient, graph: dict[str, Any]) -> dict[str, Any]:
    """Draw a graph, follow it to its end, and return its history."""
    with client.websocket_connect("/ws?clientId=me") as mine:
        asked = client.post("/prompt", json={"prompt": graph, "client_id": "me"})
        assert asked.status_code == 200, asked.text
        told(mine)
    return client.get(f"/history/{asked.json()['prompt_id']}").json()[asked.json()["prompt_id"]]


def told(socket: WebSocketTestSession) -> list[Any]:
    """Return what a websocket tells until a graph is over."""
    messages: list[Any] = []
    while True:
        message = socket.receive()
        messages.append(message["bytes"] if message.get("bytes") else json.loads(message["text"]))
        if isinstance(messages[-1], dict) and messages[-1]["type"] == "executing" and not messages[-1]["data"]["node"]:
            return messages


def drawn(client: TestClient, graph: dict[str, Any]) -> np.ndarray:
    (output,) = finished(client, graph)["outputs"].values()
    (picture,) = output["images"]
    content = client.get("/view", params=picture)
    assert content.headers["content-type"] == "image/png"
    return np.asarray(Image.open(BytesIO(content.content)))


def test_text_to_image_is_what_the_pipeline_draws(
    client: TestClient, pipeline: Pipeline, text_to_image: dict[str, Any]
) -> None:
    expected = pipeline.generate("a lake", negative_prompt="a town", width=64, height=64, **SAME).images[0]
    np.testing.assert_array_equal(drawn(client, text_to_image), np.asarray(expected))


def test_image_to_image_is_what_the_pipeline_draws(
    client: TestClient, pipeline: Pipeline, image_to_image: dict[str, Any]
) -> None:
    picture = Image.new("RGB", (34, 32), "red")
    upload(client, picture, "red.png")
    scaling = {"upscale_method": "bicubic", "width": 68, "height": 64, "crop": "disabled"}
    graph = {**image_to_image, "14": node("ImageScale", image=["10", 0], **scaling)}
    graph = changed(graph, "5", pixels=["14", 0])
    huge = changed(graph, "14", width=4096, height=4096)
    assert "ImageScale to 4096x4096 is too large" in client.post("/prompt", json={"prompt": huge}).text
    picture = picture.resize((68, 64), Image.Resampling.BICUBIC)
    options = {**SAME, "steps": 4, "strength": 0.5, "width": 64, "height": 64}
    expected = pipeline.generate("a lake", negative_prompt="a town", image=picture, **options).images[0]
    np.testing.assert_array_equal(drawn(client, graph), np.asarray(expected))


@pytest.mark.parametrize("kind", ["VAEEncodeForInpaint", "SetLatentNoiseMask"])
def test_a_masked_part_is_repainted(
    client: TestClient, pipeline: Pipeline, image_to_image: dict[str, Any], kind: str
) -> None:
    picture, mask = Image.new("RGBA", (64, 64), "red"), Image.new("L", (64, 64), 0)
    graph = changed(image_to_image, "3", denoise=1.0)
    if kind == "VAEEncodeForInpaint":
        picture.paste((0, 0, 0, 0), (0, 0, 32, 64))
        graph["5"] = node(kind, pixels=["10", 0], vae=["4", 2], mask=["10", 1], grow_mask_by=16)
        mask.paste(255, (0, 0, 40, 64))
    else:
        mask.paste(255, (0, 0, 32, 64))
        upload(client, ImageOps.invert(mask).convert("RGB"), "kept.png")
        graph["11"] = node("LoadImageMask", image="kept.png", channel="red")
        graph["12"] = node("InvertMask", mask=["11", 0])
        graph["13"] = node(kind, samples=["5", 0], mask=["12", 0])
        graph = changed(graph, "3", latent_image=["13", 0])
    upload(client, picture, "red.png")
    options = {**SAME, "width": 64, "height": 64, "image": png(picture), "mask": mask, "strength": 1.0}
    expected = pipeline.generate("a lake", negative_prompt="a town", **options).images[0]
    np.testing.assert_array_equal(drawn(client, graph), np.asarray(expected))


def test_what_a_graph_says_becomes_an_order(image_to_image: dict[str, Any]) -> None:
    graph = image_to_image
    graph["20"] = node(
        "LoraLoader", model=["4", 0], clip=["4", 1], lora_name="ink.safetensors", strength_model=0.5, strength_clip=0.25
    )
    graph["21"] = node("CLIPSetLastLayer", clip=["20", 1], stop_at_clip_layer=-2)
    graph["6"] = node("CLIPTextEncode", clip=["21", 0], text="a lake, embedding:calm")
    graph["7"] = node("CLIPTextEncode", clip=["21", 0], text="")
    links = {"model": ["20", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    graph["3"] = node(
        "KSamplerAdvanced", **links, noise_seed="3", steps=20, start_at_step=5, sampler_name="dpmpp_2m_sde_gpu",
        scheduler="karras", cfg=7, add_noise="enable", return_with_leftover_noise="disable", end_at_step=10_000,
    )  # fmt: skip
    graph["22"] = node("PreviewImage", images=["8", 0])
    ends, asked = read_graph(msgspec.convert(graph, Graph))
    order = asked.order
    assert (ends, asked.picture, order.prompt, order.clip_skip) == (["9", "22"], "red.png", "a lake, calm", 2)
    assert order.loras == (LoraUse(name="ink", scale=0.5, text_encoder_scale=0.25),)
    assert (order.sampler, order.scheduler, order.seed, order.guidance_scale) == ("dpmpp_2m_sde", "karras", 3, 7.0)
    assert int(order.steps * order.strength) == 15
    for name, change, why in (
        ("7", {"clip": ["4", 1]}, "the same checkpoint and LoRAs"),
        ("7", {"clip": ["20", 1]}, "by the same layer"),
        ("3", {"end_at_step": 10}, "drawings end with the last step"),
        ("3", {"start_at_step": 20}, "start_at_step must be less"),
        ("3", {"latent_image": ["3", 0]}, "circle"),
        ("22", {"images": ["10", 0]}, "an uploaded picture is not drawn"),
    ):
        with pytest.raises(InvalidRequestError, match=why):
            read_graph(msgspec.convert(changed(graph, name, **change), Graph))


@pytest.mark.parametrize(("steps", "denoise"), [(20, 0.6), (3, 0.3), (7, 0.35), (1, 0.01), (30, 0.99)])
def test_any_denoise_takes_as_many_steps_as_are_asked_for(
    image_to_image: dict[str, Any], steps: int, denoise: float
) -> None:
    graph = changed(image_to_image, "3", steps=steps, denoise=denoise)
    order = read_graph(msgspec.convert(graph, Graph))[1].order
    assert int(order.steps * order.strength) == steps


def test_steps_are_limited_as_far_as_they_are_drawn(client: TestClient, image_to_image: dict[str, Any]) -> None:
    upload(client, Image.new("RGB", (64, 64), "red"), "red.png")
    graph = changed(image_to_image, "3", steps=20, denoise=0.1)  # the last of 200
    assert finished(client, graph)["status"]["status_str"] == "success"


def test_a_mask_grows_at_the_size_of_the_picture_that_it_is_for() -> None:
    white = Image.new("L", (32, 32), 0)
    white.paste(255, (0, 0, 16, 32))
    grown = np.asarray(_changed(white, Mask("a", grown=16), (64, 64)))
    assert grown.shape == (64, 64)
    assert (grown[:, :40] > 127).all()  # half as much on each side
    assert (grown[:, 41:] < 128).all()


def test_a_denoise_of_next_to_nothing_is_refused(image_to_image: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=r"draws nothing; take 0\.001 to 1"):
        read_graph(msgspec.convert(changed(image_to_image, "3", denoise=5e-324), Graph))


def test_a_websocket_tells_how_a_graph_gets_on(client: TestClient, text_to_image: dict[str, Any]) -> None:
    with client.websocket_connect("/ws?clientId=me") as mine, client.websocket_connect("/ws?clientId=she") as other:
        first = mine.receive_json()
        assert (first["type"], first["data"]["sid"]) == ("status", "me")
        body = {"prompt": text_to_image, "client_id": "me", "prompt_id": "mine"}
        assert client.post("/prompt", json=body).json()["prompt_id"] == "mine"
        messages = told(mine)
        assert other.receive_json()["type"] == "status"
        body = {"prompt": text_to_image, "client_id": "she", "prompt_id": "hers"}
        assert client.post("/prompt", json=body).json()["prompt_id"] == "hers"
        assert {one["data"].get("prompt_id", "hers") for one in told(other) if isinstance(one, dict)} == {"hers"}
    kinds = [one["type"] for one in messages if isinstance(one, dict)]
    assert kinds[:3] == ["status", "execution_start", "execution_cached"]
    assert kinds[-3:] == ["executed", "execution_success", "executing"]
    progress = [one["data"] for one in messages if isinstance(one, dict) and one["type"] == "progress"]
    assert all(one["max"] == 2 and one["prompt_id"] == "mine" for one in progress)
    previews = [one for one in messages if isinstance(one, bytes)]
    assert all(one[:8] == bytes([0, 0, 0, 1, 0, 0, 0, 2]) for one in previews)
    assert all(Image.open(BytesIO(one[8:])).format == "PNG" for one in previews)


def test_a_graph_that_is_over_before_anybody_hears_of_it_has_begun_too(
    client: TestClient, text_to_image: dict[str, Any]
) -> None:
    asked = {"prompt": text_to_image, "prompt_id": "quick"}
    with client.websocket_connect("/ws?clientId=me") as mine:
        client.post("/prompt", json={**asked, "client_id": "me"})
        told(mine)
    state = client.app.state
    execution = state.comfyui.executions.find("testclient", "quick")

    async def story() -> list[Any]:
        return [message async for message in _story(state.queue, execution)]

    kinds = [kind for kind, _ in asyncio.run(story())]
    assert kinds == [
        "status", "execution_start", "execution_cached", "executing", "executed", "execution_success", "executing",
        "status",
    ]  # fmt: skip


def test_who_listens_later_hears_of_what_is_not_over_and_who_does_not_read_misses_the_oldest() -> None:
    executions = Executions(SimpleNamespace(find=bool))
    job = SimpleNamespace(id="a", client="me", state=State.RUNNING)
    executions.add("over", ["9"], SimpleNamespace(id="b", client="me", state=State.DONE), "mine")
    first = executions.add("first", ["9"], job, "mine")
    executions.add("other", ["9"], job, "another's")
    with executions.listening("me", "mine") as upcoming:
        assert [upcoming.get_nowait() for _ in range(upcoming.qsize())] == [first]
        sent = [executions.add(str(number), ["9"], job, "mine") for number in range(100)]
        waiting = [upcoming.get_nowait() for _ in range(upcoming.qsize())]
    assert 0 < len(waiting) < 100
    assert waiting == sent[-len(waiting) :]


def test_a_name_is_taken_for_its_own_client_alone() -> None:
    executions = Executions(SimpleNamespace(find=bool))
    execution = executions.add("mine", ["9"], SimpleNamespace(id="a", client="me", state=State.RUNNING), "")
    assert executions.new_id("she", "mine") == "mine"
    assert (executions.find("she", "mine"), executions.find("me", "mine")) == (None, execution)
    with pytest.raises(InvalidRequestError, match="was used before"):
        executions.new_id("me", "mine")


def test_previews_are_left_out_while_others_do_not_read() -> None:
    sent = []

    async def send(message: object) -> None:
        sent.append(message)

    state = SimpleNamespace(unread=LIMITS.answers_bytes, limits=LIMITS)
    websocket = SimpleNamespace(app=SimpleNamespace(state=state), send_bytes=send, send_text=send)
    asyncio.run(_send(websocket, b"a preview"))
    asyncio.run(_send(websocket, ("status", {})))
    assert sent == ['{"type": "status", "data": {}}']


@pytest.mark.usefixtures("standstill")
def test_a_graph_is_interrupted_or_leaves_the_queue(client: TestClient, text_to_image: dict[str, Any]) -> None:
    asked = {"prompt": text_to_image, "client_id": "me"}
    with client.websocket_connect("/ws?clientId=me") as mine:
        ids = [client.post("/prompt", json=asked).json()["prompt_id"] for _ in "12"]
        while mine.receive_json()["type"] != "execution_start":
            pass
        rows = client.get("/queue").json()
        assert [[row[1] for row in rows[key]] for key in ("queue_running", "queue_pending")] == [[ids[0]], [ids[1]]]
        assert client.get("/prompt").json()["exec_info"]["queue_remaining"] == 2
        client.post("/queue", json={"delete": [ids[1]]})
        client.post("/interrupt")
        told(mine)
        told(mine)
    history = client.get("/history").json()
    assert [*client.get("/history?max_items=1").json()] == [*history][-1:]
    assert client.get("/history?max_items=0").json() == {}
    assert "max_items must be a whole number" in client.get("/history?max_items=-1").text
    assert [history[one]["status"]["messages"][-1][0] for one in ids] == ["execution_interrupted"] * 2
    client.post("/history", json={"clear": True})
    assert client.get("/history").json() == {}


def test_the_nodes_say_what_they_take(client: TestClient, pipeline: Pipeline) -> None:
    upload(client, Image.new("RGB", (8, 8)), "mine.png")
    nodes = client.get("/object_info").json()
    assert nodes["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] == [pipeline.name]
    sampler = nodes["KSampler"]["input"]["required"]
    assert sampler["model"] == ["MODEL"]
    assert sampler["steps"] == ["INT", {"default": 20, "min": 1, "max": 10_000}]
    assert {"euler_ancestral", "dpmpp_2m", "uni_pc"} <= set(sampler["sampler_name"][0])
    assert all(find_sampler(name) for name in sampler["sampler_name"][0])
    assert "karras" in sampler["scheduler"][0]
    assert nodes["LoadImage"]["input"]["required"]["image"][0][-1] == "mine.png"
    assert (nodes["VAEDecode"]["output"], nodes["SaveImage"]["output_node"]) == (["IMAGE"], True)
    assert client.get("/object_info/KSampler").json() == {"KSampler": nodes["KSampler"]}
    assert client.get("/object_info/Nothing").json() == {}


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("3", {"class_type": "ControlNetLoader", "inputs": {}}, "cannot be had here: ControlNetLoader; there are"),
        ("3", {"inputs": {"model": ["8", 0]}}, "circle"),
        ("3", {"inputs": {"model": ["6", 0]}}, "node 3 (KSampler): model must be a link to an output MODEL"),
        ("3", {"inputs": {"model": ["4", 9]}}, "node 4 (CheckpointLoaderSimple) has no output 9"),
        ("3", {"inputs": {"model": ["99", 0]}}, "there is no node '99'"),
        ("3", {"inputs": {"model": {"name": "x"}}}, "must be a link"),
        ("3", {"inputs": {"steps": "many"}}, "node 3 (KSampler): Expected `int`"),
        ("3", {"inputs": {"steps": 101}}, "steps must be at most 100"),
        ("3", {"inputs": {"denoise": 0.5}}, "an empty latent image is drawn with denoise 1"),
        ("3", {"inputs": {"sampler_name": "magic"}}, "sampler 'magic' is not known"),
        ("4", {"inputs": {"ckpt_name": "other"}}, "model 'other' is not known"),
        ("5", {"class_type": "VAEEncode", "inputs": {"pixels": ["8", 0], "vae": ["4", 2]}}, "circle"),
        ("9", {"class_type": "VAEDecode", "inputs": {}}, "a graph must have 1 to 4 SaveImage"),
    ],
    ids=str,
)
def test_a_graph_that_cannot_be_drawn_is_refused(
    client: TestClient, text_to_image: dict[str, Any], name: str, change: dict[str, Any], why: str
) -> None:
    text_to_image[name] = {**text_to_image[name], **change}
    if "class_type" not in change:
        text_to_image[name]["inputs"] = {**SETTINGS, **text_to_image[name]["inputs"]}
        original = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
        text_to_image[name]["inputs"] = (
            {**original, **text_to_image[name]["inputs"]} if name == "3" else change["inputs"]
        )
    answer = client.post("/prompt", json={"prompt": text_to_image})
    assert answer.status_code == 400
    assert why in answer.json()["error"]["message"]


def test_a_picture_that_was_not_uploaded_is_asked_for(client: TestClient, image_to_image: dict[str, Any]) -> None:
    graph = changed(image_to_image, "10", image="blue.png")
    answer = client.post("/prompt", json={"prompt": graph})
    assert "there is no picture 'blue.png' (any more); send it to /upload/image" in answer.json()["error"]["message"]
    assert client.get("/view?type=input&filename=blue.png").status_code == 404
    upload(client, Image.new("RGB", (8, 8)), "blue.png")
    assert Image.open(BytesIO(client.get("/view?type=input&filename=blue.png").content)).size == (8, 8)


def test_pages_of_other_sites_and_those_without_the_token_get_no_websocket() -> None:
    app = create_app(Pipeline.load(provider="cpu", arithmetic="exact"), limits=LIMITS, token="open sesame")
    with TestClient(app) as client:
        trusted = {"Authorization": "Bearer open sesame"}
        with client.websocket_connect("/ws", headers=trusted) as mine:
            assert mine.receive_json()["type"] == "status"
        for headers in ({}, {**trusted, "Origin": "http://elsewhere.example"}):
            with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers=headers):
                pass


def test_a_server_speaks_websockets_and_leaves_them_when_it_stops(start_server: Callable[..., RunningServer]) -> None:
    server = start_server()
    with Websocket(server.port) as first, Websocket(server.port) as second:
        for each in (first, second):
            accepted, status = each.received(2)
            assert isinstance(accepted, events.AcceptConnection)
            assert json.loads(status.data)["data"]["sid"] == "me"
        first.send(events.TextMessage("x" * 100_000))
        assert first.received(1)[0].code == 1009  # too big: RFC 6455, section 7.4.1
        assert server.interrupt() == 0
        assert isinstance(second.received(1)[0], events.CloseConnection)


class Websocket:
    """A client."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.send(events.Request(host=f"127.0.0.1:{port}", target="/ws?clientId=me"))

    def send(self, event: events.Event) -> None:
        self._socket.sendall(self._protocol.send(event))

    def received(self, count: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            self._protocol.receive_data(self._socket.recv(2**16) or None)
            found += self._protocol.events()
        return found

    def __enter__(self) -> "Websocket":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_uploads_make_room_for_others_and_are_their_own_clients_alone() -> None:
    inputs = Inputs(most_bytes=100)
    inputs.add("small", "a", bytes(10))
    for name in "abcdefghijk":
        inputs.add("large", name, bytes(10))
    assert inputs.names("small") == ["a"]
    assert len(inputs.names("large")) == 9
    assert inputs.read("large", "k") == bytes(10)
