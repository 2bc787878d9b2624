"""A server in this process for most tests, and real ones in processes of their own."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack

import pytest
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.result import Step, Steps
from pocket_diffusion.server import create_app
from serving import LIMITS, RunningServer, running_server


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Pipeline.load(provider="cpu", arithmetic="exact"), limits=LIMITS)) as client:
        yield client


@pytest.fixture
def start_server() -> Iterator[Callable[..., RunningServer]]:
    """Start `pocket-diffusion serve` on a free port and wait until it answers."""
    with ExitStack() as stack:
        yield lambda *options, **environment: stack.enter_context(running_server(*options, **environment))


@pytest.fixture
def standstill(monkeypatch: pytest.MonkeyPatch) -> "Future[None]":
    """Have each drawing in this process stand still after its first step, until this is done or it is cancelled."""
    take, begun, done = Steps.__next__, set(), Future()

    def wait_and_take(steps: Steps) -> Step:
        if steps in begun:
            steps._cancellation.wait_for(done)
        begun.add(steps)
        return take(steps)

    monkeypatch.setattr(Steps, "__next__", wait_and_take)
    return done
