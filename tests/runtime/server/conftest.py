"""A server in this process for most tests, and real ones in processes of their own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
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
