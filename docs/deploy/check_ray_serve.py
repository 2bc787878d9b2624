"""Try the served fleet on this machine: a cluster of its own, one replica that becomes two, and each kind of client.

python docs/deploy/check_ray_serve.py       # with openai, and what ray_serve.py needs; docs/fleet.md has the output
"""

import base64
import json
import os
import secrets
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import openai
import ray
from PIL import Image
from ray import serve

_TOKEN = secrets.token_urlsafe()
os.environ["POCKET_DIFFUSION_TOKEN"] = _TOKEN
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from ray_serve import Settings, fleet  # noqa: E402 - reads the token

_PATIENCE = 120.0
"""Seconds, for replicas to come and go."""


def main() -> None:
    """Exit 1 where something is not as it should be."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        serve.start(http_options={"port": port})
        serve.run(fleet(Settings(max_replicas=2, upscale_seconds=1, downscale_seconds=5)))
        check(f"http://127.0.0.1:{port}")
    finally:
        serve.shutdown()
        ray.shutdown()


def check(url: str) -> None:
    """Ask as clients do."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=_TOKEN)
    (picture,) = client.images.generate(prompt="a lake at sunset", size="128x128", n=1).data or ()
    with Image.open(BytesIO(base64.b64decode(picture.b64_json or ""))) as image:
        say(f"OpenAI's client: {image.format} {image.size}")

    status, answer = ask(url, "/generate", {"text": "a lake at sunset"})
    say(f"/generate: {status} {answer['detail']}")
    expect(status == 421)
    session = {"X-Session-ID": secrets.token_urlsafe()}
    status, answer = ask(url, "/generate", {"text": "a lake at sunset"}, session)
    with urllib.request.urlopen(urllib.request.Request(answer["image_url"], headers=session)) as content:  # noqa: S310
        kind = content.headers["Content-Type"]
        say(f"/generate with X-Session-ID: {status}, and its picture: {content.status} {kind}")

    say(f"replicas before a crowd comes: {replicas()}")
    with ThreadPoolExecutor(12) as crowd:
        drawn = crowd.map(lambda number: ask(url, "/v1/images/generations", {"prompt": f"dunes {number}"}), range(96))
        until(lambda: replicas() == 2)
        say("replicas while 12 clients ask: 2")
        sessions = [crowd.submit(job_seen, url) for _ in range(4)]
        seen = sum(session.result() for session in sessions)
        say(f"jobs with X-Session-ID that were followed to their end at two replicas: {seen} of 4")
        expect(seen == len(sessions))
        statuses = [status for status, _ in drawn]
    say(f"pictures of the crowd: {statuses.count(200)} of {len(statuses)}")
    expect(statuses.count(200) == len(statuses))
    until(lambda: replicas() == 1)
    say("replicas after it went: 1")


def job_seen(url: str) -> bool:
    """Create a job and ask for it until it is over; return whether it always was there, and its picture in the end."""
    session = {"X-Session-ID": secrets.token_urlsafe()}
    status, job = ask(url, "/api/jobs", {"prompt": "a lake", "steps": 4}, session)
    while status in (200, 202) and job["state"] in ("queued", "running"):
        time.sleep(0.2)
        status, job = ask(url, f"/api/jobs/{job['id']}", None, session)
    return status == 200 and job["state"] == "done"


def ask(
    url: str, path: str, body: dict[str, object] | None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str]]:
    """Return a request's status and its answer."""
    content = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(  # noqa: S310 - of our own fleet
        url + path, content, {"Authorization": f"Bearer {_TOKEN}", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(asked) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def replicas() -> int:
    """Return how many answer."""
    (deployment,) = serve.status().applications["default"].deployments.values()
    return deployment.replica_states.get("RUNNING", 0)


def until(what: Callable[[], bool]) -> None:
    """Wait for something."""
    deadline = time.monotonic() + _PATIENCE
    while not what():
        expect(time.monotonic() < deadline)
        time.sleep(0.2)


def expect(what: bool) -> None:
    """End the program where something is not so."""
    if not what:
        raise SystemExit("this is not as it should be")


def say(text: str) -> None:
    """Tell what was seen."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
