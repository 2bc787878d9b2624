"""`pocket-diffusion serve`, as a process of its own: who is let in, slow and sudden clients, and the end."""

import contextlib
import http.client
import json
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from pocket_diffusion import Pipeline, ProviderUnavailableError
from pocket_diffusion.machine import session
from pocket_diffusion.machine.turns import Cancellation
from pocket_diffusion.server import create_app, run
from pocket_diffusion.server.connections import Places, WebSocketProtocol
from serving import ENDLESS, RunningServer
from stub_driver import StubDriver

RunCli = Callable[..., SimpleNamespace]


def ask(server: RunningServer, path: str, body: object = None, **headers: str) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def wait_for(server: RunningServer, job: str, state: str) -> dict[str, object]:
    deadline = time.monotonic() + 120
    while (view := ask(server, f"/api/jobs/{job}"))["state"] != state:
        assert time.monotonic() < deadline, view
        time.sleep(0.02)
    return view


def test_it_draws_and_ctrl_c_ends_it(start_server: Callable[..., RunningServer]) -> None:
    server = start_server()
    assert "image_url" in ask(server, "/generate", {"text": "a lake"})
    assert server.interrupt() == 0
    assert server.process.stderr.read() == "stopping\n"


def test_ctrl_c_cancels_what_is_drawn_and_those_who_wait_are_told(start_server: Callable[..., RunningServer]) -> None:
    server = start_server()
    job = ask(server, "/api/jobs", ENDLESS)["id"]
    with urllib.request.urlopen(f"{server.url}/api/jobs/{job}/events", timeout=60) as stream:
        assert stream.readline().startswith(b"event: ")
        wait_for(server, job, "running")
        assert server.interrupt() == 0
        rest = stream.read()
    assert b"event: cancelled\n" in rest
    assert b"the server stopped" in rest


def until_jobs(server: RunningServer, count: int) -> None:
    """Wait until so many jobs wait or are drawn."""
    deadline = time.monotonic() + 120
    while ask(server, "/sdapi/v1/progress")["state"]["job_count"] != count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_client_that_goes_away_has_its_drawing_cancelled_at_any_stage(
    start_server: Callable[..., RunningServer],
) -> None:
    server = start_server()
    body = json.dumps({"prompt": "a lake", "size": "512x512", "n": 16, "steps": 150})

    def send(sent: str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.putrequest("POST", "/v1/images/generations")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(sent.encode())
        return connection

    uploading = send(body[:10])
    uploading.close()
    drawn = send(body)
    until_jobs(server, 1)
    waiting = send(body)
    until_jobs(server, 2)
    waiting.close()
    until_jobs(server, 1)
    drawn.close()
    until_jobs(server, 0)
    assert "image_url" in ask(server, "/generate", {"text": "a lake"})


@pytest.fixture
def patient(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A server in this process that waits long for a request's head, and its port."""
    monkeypatch.setattr("pocket_diffusion.server.connections._HEAD_SECONDS", 600)
    # The MCP SDK's, of the whole process: once a server has ended in it, streams of the next would end at once.
    monkeypatch.setattr("sse_starlette.sse.AppStatus.should_exit", False)
    started = threading.Event()
    with run.listen("127.0.0.1", 0) as listener:
        server = run.Server(create_app(pipeline), listener, started.set, lambda: None)
        thread = threading.Thread(target=server.run)
        thread.start()
        assert started.wait(120)
        yield SimpleNamespace(server=server, thread=thread, port=listener.getsockname()[1])
        server.should_exit = True
        thread.join(120)


@pytest.fixture
def lose_patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have servers in this process wait a tenth of a second for the heads that they expect from now on."""
    return lambda: monkeypatch.setattr("pocket_diffusion.server.connections._HEAD_SECONDS", 0.1)


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"POST /generate HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n"])
def test_a_client_that_never_finishes_its_request_is_hung_up_on(
    patient: SimpleNamespace, lose_patience: Callable[[], None], said: bytes
) -> None:
    lose_patience()
    with connect(patient, "127.0.0.1", said) as client:
        assert until_hung_up(client) == b""


def test_after_a_good_request_too_the_next_one_has_to_come_whole(
    patient: SimpleNamespace, lose_patience: Callable[[], None]
) -> None:
    with connect(patient, "127.0.0.1", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") as client:
        assert client.recv(10_000).startswith(b"HTTP/1.1 200")
        lose_patience()
        client.sendall(b"GET /healthz HT")
        until_hung_up(client)


def test_a_body_that_goes_on_after_its_answer_is_hung_up_on(
    patient: SimpleNamespace, lose_patience: Callable[[], None]
) -> None:
    head = b"POST /sdapi/v1/interrupt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    with connect(patient, "127.0.0.1", head) as client:
        assert client.recv(10_000).startswith(b"HTTP/1.1 200")
        lose_patience()
        client.sendall(b"x")
        until_hung_up(client)


def test_a_client_that_does_not_read_is_hung_up_on(patient: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocket_diffusion.server.connections._READ_SECONDS", 0.1)
    with connect(patient, "127.0.0.1", b"") as client:
        until_one(patient, lambda one: True)
        with contextlib.suppress(ConnectionError):
            client.sendall(UNREAD)
        until_none(patient)


def until_hung_up(client: socket.socket) -> bytes:
    """Return all that is said on a connection until the server ends it."""
    heard = b""
    with contextlib.suppress(ConnectionError):  # it may end while something is on its way to it
        while said := client.recv(10_000):
            heard += said
    return heard


def connect(server: SimpleNamespace, address: str, said: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=120, source_address=(address, 0))
    try:
        client.sendall(said)
    except OSError:
        client.close()
        raise
    return client


def answers(client: socket.socket) -> bool:
    """Tell whether a request is answered on a connection."""
    with contextlib.suppress(OSError):
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return client.recv(1000).startswith(b"HTTP/1.1 200")
    return False


def is_answered(server: SimpleNamespace, address: str) -> bool:
    """Tell whether a request on a new connection is answered."""
    with contextlib.suppress(ConnectionError), connect(server, address, b"") as client:
        return answers(client)
    return False


@pytest.fixture
def few_places(patient: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Its 16 connections, four for each client."""
    monkeypatch.setattr("pocket_diffusion.server.connections._CONNECTIONS", 16)
    return patient


@pytest.mark.parametrize("addresses", [["127.0.0.1"], [f"127.0.0.{i}" for i in range(1, 9)]], ids=["one", "many"])
def test_half_sent_requests_keep_nobody_out(few_places: SimpleNamespace, addresses: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(40 // len(addresses)):
            for address in addresses:
                with contextlib.suppress(ConnectionError):
                    stack.enter_context(connect(few_places, address, b"GET / HTTP/1.1\r\nX-"))
        assert is_answered(few_places, "127.0.0.99")
        deadline = time.monotonic() + 120
        while not is_answered(few_places, "127.0.0.1"):  # it is in the next second
            assert time.monotonic() < deadline
        assert len(few_places.server.server_state.connections) <= 16


def test_half_sent_bodies_of_many_keep_nobody_out(few_places: SimpleNamespace) -> None:
    uploading = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for client in range(1, 5):
            for _ in range(4):
                stack.enter_context(connect(few_places, f"127.0.0.{client}", uploading))
        until_uploading(few_places, 16)
        assert is_answered(few_places, "127.0.0.99")


def test_a_client_holds_no_more_than_its_share(few_places: SimpleNamespace) -> None:
    uploading = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connect(few_places, "127.0.0.1", uploading))
        until_uploading(few_places, 4)
        assert not is_answered(few_places, "127.0.0.1")
        assert is_answered(few_places, "127.0.0.2")


def open_one(places: Places, host: str) -> bool:
    """Open a connection that waits for a request, and return whether it was let in."""
    if places.refuses(host):
        return False
    one = Mock(client_id=host)
    places.wait(one)
    least = places.take(one)
    if least is not None:
        places.leave(least)
    return True


def test_who_has_half_of_a_share_opens_few_more_until_the_next_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocket_diffusion.server.connections._CONNECTIONS", 160)
    clock = SimpleNamespace(monotonic=lambda: 7.0)
    monkeypatch.setattr("pocket_diffusion.server.connections.time", clock)
    places = Places()
    assert [open_one(places, "127.0.0.1") for _ in range(23)] == 21 * [True] + 2 * [False]
    assert open_one(places, "127.0.0.2")
    clock.monotonic = lambda: 8.0
    assert [open_one(places, "127.0.0.1") for _ in range(18)] == 16 * [True] + 2 * [False]


def test_when_half_of_all_places_are_taken_each_client_opens_few_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocket_diffusion.server.connections._CONNECTIONS", 160)
    clock = SimpleNamespace(monotonic=lambda: 7.0)
    monkeypatch.setattr("pocket_diffusion.server.connections.time", clock)
    places = Places()
    for client in range(1, 6):
        assert all(open_one(places, f"127.0.0.{client}") for _ in range(16))
    assert open_one(places, "127.0.0.6")  # the 81st
    assert not open_one(places, "127.0.0.1")
    assert all(open_one(places, "127.0.0.6") for _ in range(15))
    assert not open_one(places, "127.0.0.6")


def test_whoever_leaves_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocket_diffusion.server.connections._CONNECTIONS", 8)
    places = Places()
    ones = [Mock(client_id=f"127.0.0.{number}") for number in range(10)]
    assert [places.take(one) for one in ones[:8]] == 8 * [None]
    for _ in range(2):  # nothing the second time
        places.leave(ones[0])
    assert places.take(ones[8]) is None
    assert places.take(ones[9]) is not None


def test_whom_the_listener_refuses_is_hung_up_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with run.listen("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        monkeypatch.setattr(listener.places, "refuses", lambda host: host == "127.0.0.2")
        listener.settimeout(120)  # the system may tell the two sides of a connection at different times
        with (
            socket.create_connection(address, timeout=120, source_address=("127.0.0.2", 0)) as refused,
            socket.create_connection(address, timeout=120, source_address=("127.0.0.3", 0)) as welcome,
        ):
            connection, _ = listener.accept()
            with connection:
                assert connection.getpeername() == welcome.getsockname()
            with pytest.raises(ConnectionResetError):
                refused.recv(1)


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def test_a_websocket_holds_a_place_until_it_is_left(few_places: SimpleNamespace) -> None:
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                websocket = stack.enter_context(connect(few_places, "127.0.0.1", UPGRADE))
                assert websocket.recv(1000).startswith(b"HTTP/1.1 101")
            assert not is_answered(few_places, "127.0.0.1")
        until_none(few_places)
    assert is_answered(few_places, "127.0.0.1")


def posted(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    accepted = "application/json, text/event-stream"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accepted}\r\nContent-Length: {len(content)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + content


def until_one(server: SimpleNamespace, is_so: Callable[[Any], bool]) -> None:
    """Wait until something is so of one of the connections."""
    until(lambda: any(map(is_so, connections_of(server))))


def until_uploading(server: SimpleNamespace, count: int) -> None:
    """Wait until the bodies of so many requests are expected."""
    until(lambda: len([one for one in connections_of(server) if one._deadline is None]) == count)


def until_none(server: SimpleNamespace) -> None:
    """Wait until there are no connections."""
    until(lambda: not connections_of(server))


def connections_of(server: SimpleNamespace) -> list[Any]:
    """Return those that there are now; the server's thread changes them."""
    return [*server.server.server_state.connections]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120  # the SDK is imported, which a busy machine takes long for
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


UNREAD = b"GET /page/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000  # more than buffers take
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "draw", "arguments": ENDLESS}}
FOLLOWED = {"prompt": "a lake", "size": "512x512", "n": 16, "steps": 150, "stream": True, "partial_images": 2}


@pytest.mark.parametrize(
    ("said", "has_come"),
    [
        (b"", lambda one: True),
        (posted("/api/jobs", ENDLESS)[:-9], lambda one: one._deadline is None),
        (posted("/mcp", CALL)[:-9], lambda one: one._deadline is None),
        (UNREAD, lambda one: one._unread is not None),
        (posted("/v1/images/generations", FOLLOWED), lambda one: one.cycle and one.cycle.response_started),
        (posted("/mcp", CALL), lambda one: one.cycle and one.cycle.response_started),
        (UPGRADE, lambda one: isinstance(one, WebSocketProtocol)),
    ],
    ids=["silent", "half an order", "half a call", "reads nothing", "follows a drawing", "calls a tool", "websocket"],
)
def test_the_end_is_quiet_whatever_clients_wait_for(
    few_places: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    said: bytes,
    has_come: Callable[[Any], bool],
) -> None:
    monkeypatch.setattr(run, "_LAST_SECONDS", 0.3)
    with connect(few_places, "127.0.0.1", said):
        until_one(few_places, has_come)
        few_places.server.handle_exit(signal.SIGTERM, None)
        few_places.thread.join(120)
        assert not few_places.thread.is_alive()
    assert caplog.messages == []


def test_a_second_ctrl_c_waits_for_nobody(
    few_places: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "_LAST_SECONDS", 300)
    with connect(few_places, "127.0.0.1", UNREAD):
        until_one(few_places, lambda one: one._unread is not None)
        (one,) = connections_of(few_places)
        for _ in range(2):
            one.loop.call_soon_threadsafe(few_places.server.handle_exit, signal.SIGINT, None)
        few_places.thread.join(120)
        assert not few_places.thread.is_alive()
    assert caplog.messages == []


def test_a_request_that_came_whole_may_take_longer_than_its_head(patient: SimpleNamespace) -> None:
    with connect(patient, "127.0.0.1", b"") as client:
        until_one(patient, lambda one: one._deadline is not None)
        (one,) = connections_of(patient)
        assert answers(client)
        assert one._deadline is None


@pytest.mark.parametrize("said", [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"G" * 200_000])
def test_what_is_no_request_is_refused(start_server: Callable[..., RunningServer], said: bytes) -> None:
    server = start_server()
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as client:
        with contextlib.suppress(ConnectionError):  # what is left of a long one may find nobody
            client.sendall(said)
        assert client.recv(1000).startswith(b"HTTP/1.1 400")
    assert ask(server, "/healthz")["status"] == "ok"


def test_a_body_of_a_gigabyte_is_refused_before_it_is_sent(start_server: Callable[..., RunningServer]) -> None:
    server = start_server()
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as client:
        client.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413")


def test_the_token_comes_from_an_option_or_the_environment(start_server: Callable[..., RunningServer]) -> None:
    for options, environment in ((("--token", "open"), {}), ((), {"POCKET_DIFFUSION_TOKEN": "open"})):
        server = start_server("--host", "0.0.0.0", *options, **environment)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(server, "/api/model")
        assert ask(server, "/api/model", Authorization="Bearer open")["name"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80"])
def test_a_strangers_domain_name_does_not_lead_here(start_server: Callable[..., RunningServer], host: str) -> None:
    server = start_server("--allow-host", "box.lan")
    assert ask(server, "/healthz", Host="box.lan")["status"] == "ok"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(server, "/healthz", Host=host)


@pytest.fixture
def starting(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A server in this process whose model is being tried, until `result` is set, to None or to what is raised."""
    monkeypatch.setattr("sse_starlette.sse.AppStatus.should_exit", False)
    begun, result, started, stopping = threading.Event(), Future(), threading.Event(), threading.Event()

    def try_out(cancellation: Cancellation) -> None:
        begun.set()
        cancellation.wait_for(result)
        result.result()

    pipeline = Pipeline.load(provider="cpu", arithmetic="exact")
    monkeypatch.setattr(pipeline, "try_out", try_out)
    with run.listen("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as pool:
        server = run.Server(create_app(pipeline), listener, started.set, stopping.set)
        running = pool.submit(server.run)
        assert begun.wait(60)
        yield SimpleNamespace(
            url=f"http://127.0.0.1:{listener.getsockname()[1]}", server=server, running=running, result=result,
            started=started, stopping=stopping,
        )  # fmt: skip
        server.should_exit = True


def health(server: SimpleNamespace) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{server.url}/healthz", timeout=60) as answer:
            return answer.status, json.load(answer)["status"]
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal)["status"]


def test_it_is_healthy_once_its_model_has_computed(starting: SimpleNamespace) -> None:
    assert health(starting) == (503, "starting")
    assert not starting.started.is_set()
    starting.result.set_result(None)
    assert starting.started.wait(60)
    assert health(starting) == (200, "ok")


def test_it_ends_where_its_model_cannot_compute(starting: SimpleNamespace) -> None:
    starting.result.set_exception(ProviderUnavailableError("CUDA does not start"))
    with pytest.raises(ProviderUnavailableError, match="CUDA does not start"):
        starting.running.result(120)
    assert not starting.started.is_set()
    assert not starting.stopping.is_set()


def test_a_signal_ends_it_before_its_model_was_tried(starting: SimpleNamespace) -> None:
    starting.server.handle_exit(signal.SIGTERM, None)
    starting.running.result(120)
    assert not starting.started.is_set()
    assert starting.stopping.is_set()


def test_cuda_that_cannot_be_used_is_told_before_it_listens(driver: StubDriver, run_cli: RunCli) -> None:
    driver.gpus = 0
    outcome = run_cli("serve", "--port", "0", "--provider", "cuda")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.error.startswith("error: CUDA cannot be used: NVIDIA's driver finds no GPU")


@pytest.mark.usefixtures("driver")
def test_cuda_that_does_not_start_ends_it_with_one_line(
    bundle: Path, edit_manifest: Callable[..., None], run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_manifest(lambda data: data.update(target="cuda"))
    monkeypatch.setattr(session, "_open", lambda *_: SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"]))
    outcome = run_cli("serve", "--port", "0", "--model", bundle)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.error.startswith("error: ONNX Runtime does not start CUDA")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--host", "0.0.0.0"], "anyone in the network could draw; give a --token"),
        (["--host", "::"], "anyone in the network could draw"),
        (["--port", "0", "--allow-origin", "*"], "every site that a browser here opens could draw"),
        (["--token", ""], "the token is empty"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["--port", "70000"], "--port"),
        (["--model", "nowhere"], "no bundle at nowhere"),
        (["--memory", "huge"], "'huge' is not known"),
        (["--queue", "0"], "--queue"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_served_is_one_line(run_cli: RunCli, options: list[str], why: str) -> None:
    outcome = run_cli("serve", "--port", "0", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert why in outcome.error


def test_a_port_that_is_taken_is_named(run_cli: RunCli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = run_cli("serve", "--port", port)
    assert outcome.code == 2
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use)" in outcome.error


def test_without_its_packages_the_extra_is_named(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pocket_diffusion.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    outcome = run_cli("serve", "--port", "0")
    assert outcome.code == 1
    assert 'pip install "pocket-diffusion[server]"' in outcome.error
