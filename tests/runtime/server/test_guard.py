"""Who is answered: the right host, origin and token, with a body that is neither too large nor too slow."""

import asyncio
import base64
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server import Limits, create_app
from pocket_diffusion.server.guard import ANY_ADDRESS
from serving import LIMITS


@pytest.fixture
def guarded(pipeline: Pipeline) -> Iterator[TestClient]:
    hosts = {"localhost", "127.0.0.1", "::1", "box.local"}
    app = create_app(pipeline, token="sésame", hosts=hosts, limits=LIMITS)
    with TestClient(app, base_url="http://localhost:8000") as client:
        yield client


def bearer(token: str) -> dict[str, str | bytes]:
    return {"Authorization": f"Bearer {token}".encode()}


def basic(token: str) -> dict[str, str | bytes]:
    return {"Authorization": b"Basic " + base64.b64encode(f"anyone:{token}".encode())}


@pytest.mark.parametrize("headers", [bearer("sésame"), basic("sésame")], ids=["bearer", "basic"])
def test_the_token_opens_as_bearer_and_as_password(guarded: TestClient, headers: dict[str, str]) -> None:
    assert guarded.get("/api/model", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {}, bearer("wrong"), bearer(""), basic("wrong"), {"Authorization": "Basic ?"}, {"Authorization": "Digest x"},
        {"Authorization": b"Basic " + base64.b64encode(b"\xff\xff")},
    ],
    ids=repr,
)  # fmt: skip
def test_without_the_token_nothing_opens(guarded: TestClient, headers: dict[str, str]) -> None:
    for path in ("/", "/api/model", "/metrics", "/openapi.json", "/page/page.js", "/v1/models"):
        answer = guarded.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert "token is missing or wrong" in answer.json()["error"]["message"]
    assert guarded.post("/generate", json={"text": "a"}, headers=headers).status_code == 401
    assert guarded.get("/healthz", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("BOX.local", 200), ("evil.example", 403),
        ("localhost.evil.example", 403), ("192.168.1.7:8000", 403), ("", 403), ("[::1", 403), ("a b", 403),
    ],
)  # fmt: skip
def test_only_known_hosts_are_answered_for(guarded: TestClient, host: str, status: int) -> None:
    assert guarded.get("/healthz", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(("host", "status"), [("192.168.1.7:8000", 200), ("[fe80::1]", 200), ("evil.example", 403)])
def test_in_a_network_addresses_are_answered_for(pipeline: Pipeline, host: str, status: int) -> None:
    with TestClient(create_app(pipeline, hosts={ANY_ADDRESS})) as client:
        assert client.get("/healthz", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),
        ({"Origin": "http://localhost:8000"}, 422),
        ({"Origin": "https://localhost:8000"}, 422),  # a proxy in front speaks TLS
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:9000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 422),
    ],
    ids=str,
)
def test_pages_of_other_sites_cannot_have_anything_drawn(
    guarded: TestClient, headers: dict[str, str], status: int
) -> None:
    answer = guarded.post("/api/jobs", json={"prompt": ""}, headers={**basic("sésame"), **headers})
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


@pytest.fixture(scope="module")
def shared(pipeline: Pipeline) -> Iterator[TestClient]:
    app = create_app(pipeline, token="sésame", origins=["https://Friend.example/"], limits=LIMITS)
    with TestClient(app, base_url="http://localhost:8000") as client:
        yield client


FRIEND = {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"}


def test_pages_of_sites_that_are_allowed_ask_first_without_the_token(shared: TestClient) -> None:
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    answer = shared.options("/api/jobs", headers={**FRIEND, **asking, "Access-Control-Request-Private-Network": "true"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://friend.example"
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert shared.options("/api/jobs", headers={"Origin": "https://evil.example", **asking}).status_code == 400


@pytest.mark.parametrize(("headers", "status"), [(basic("sésame"), 422), (bearer("wrong"), 401)], ids=["in", "out"])
def test_they_may_draw_with_the_token_and_read_refusals(
    shared: TestClient, headers: dict[str, str], status: int
) -> None:
    answer = shared.post("/api/jobs", json={"prompt": ""}, headers={**headers, **FRIEND})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == "https://friend.example"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://friend.example", "https://friend.example.evil.example"]
)
def test_other_pages_still_cannot(shared: TestClient, origin: str) -> None:
    answer = shared.post("/api/jobs", json={"prompt": ""}, headers={**basic("sésame"), "Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["*", "null"])
def test_every_site_is_let_in_with_a_token_alone(pipeline: Pipeline, origin: str) -> None:
    with pytest.raises(InvalidRequestError, match="every site"):
        create_app(pipeline, origins=[origin])
    client = TestClient(create_app(pipeline, origins=[origin], token="sésame"))
    headers = {**basic("sésame"), "Origin": "null"}
    assert client.post("/api/jobs", json={"prompt": ""}, headers=headers).status_code == 422


@pytest.mark.parametrize("origin", ["friend.example", "https://friend.example/page", "https://", "", "https://a b"])
def test_what_is_no_origin_is_refused(pipeline: Pipeline, origin: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no origin; give one such as https://"):
        create_app(pipeline, origins=[origin])


def test_a_body_that_says_it_is_too_large_is_refused_unread(guarded: TestClient) -> None:
    headers = {**basic("sésame"), "Content-Length": str(2**30)}
    sent: list[bytes] = []
    assert asyncio.run(post_raw(guarded, [], headers, sent)) == 413
    assert sent == []


def test_all_bodies_together_have_a_limit_and_are_forgotten(pipeline: Pipeline) -> None:
    limits = Limits(body_bytes=100_000, bodies_bytes=300_000, body_seconds=0.3)
    with TestClient(create_app(pipeline, limits=limits)) as client:

        async def crowd() -> list[int]:
            slow = [
                post_raw(client, [b"x" * 60_000, None], {}, address=where) for where in ("1.1.1.1",) * 5 + ("2.2.2.2",)
            ]
            return await asyncio.gather(*slow)

        *greedy, other = asyncio.run(crowd())
        assert greedy == [408, 408, 408, 429, 429]  # no more than it leaves free
        assert other == 408
        assert client.post("/api/jobs", content=b"x" * 90_000).status_code == 400
        assert client.post("/api/jobs", content=b"x" * 90_000).status_code == 400


def test_an_empty_token_is_none_that_protects(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidRequestError, match="the token is empty"):
        create_app(pipeline, token="")


def test_reading_takes_no_body(guarded: TestClient) -> None:
    answer = guarded.request("GET", "/healthz", content=b"x")
    assert (answer.status_code, answer.headers["connection"]) == (400, "close")


def test_a_body_that_turns_out_too_large_is_refused_on_the_way(guarded: TestClient) -> None:
    chunks = [b"x" * 50_000] * 100
    sent: list[bytes] = []
    assert asyncio.run(post_raw(guarded, chunks, basic("sésame"), sent)) == 413
    assert 4 <= len(sent) <= 6


def test_a_body_that_dawdles_is_refused(pipeline: Pipeline) -> None:
    with TestClient(create_app(pipeline, limits=Limits(body_seconds=0.1))) as client:
        assert asyncio.run(post_raw(client, [b"{", None], {})) == 408


async def post_raw(
    client: TestClient,
    chunks: list[bytes | None],
    headers: dict[str, str | bytes],
    sent: list[bytes] | None = None,
    address: str = "127.0.0.1",
) -> int:
    """Send a body bit by bit to the application itself and return the status; None never comes."""
    remaining = iter(chunks)
    statuses = []

    async def receive() -> dict[str, object]:
        chunk = next(remaining, b"")
        if chunk is None:
            await asyncio.Event().wait()
        if sent is not None:
            sent.append(chunk)
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    raw = {"host": "localhost", **headers}
    scope = {
        "type": "http", "method": "POST", "path": "/api/jobs", "raw_path": b"/api/jobs", "root_path": "",
        "query_string": b"", "scheme": "http", "server": ("localhost", 80), "client": (address, 1234),
        "http_version": "1.1",
        "headers": [
            (name.lower().encode(), value if isinstance(value, bytes) else value.encode())
            for name, value in raw.items()
        ],
    }  # fmt: skip
    async with asyncio.timeout(120):
        await client.app(scope, receive, send)
    return statuses[0]
