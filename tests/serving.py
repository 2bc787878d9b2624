"""Real servers, in processes of their own, for the tests that need one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.request import Request, urlopen

from pocket_diffusion.server import Limits

SMALL = {"width": 64, "height": 64, "steps": 1, "seed": 7}
LIMITS = Limits(body_bytes=200_000, prompt_characters=500, pixels=256 * 256, steps=100, count=3, queue=4)

ENDLESS = {"prompt": "dunes", "width": 512, "height": 512, "steps": 150, "count": 16}
"""An order that a test will not see the end of."""

COMMAND = (
    # Shells have background jobs ignore Ctrl-C, and a test may be part of one.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from pocket_diffusion.cli import main; main()"
)


@dataclass
class RunningServer:
    process: "subprocess.Popen[str]"
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=120)


@contextmanager
def occupied(server: RunningServer) -> Iterator[None]:
    """Have a server draw what takes for ever, so that all other drawings wait; cancel it afterwards."""
    with urlopen(Request(f"{server.url}/api/jobs", json.dumps(ENDLESS).encode())) as answer:
        job = json.load(answer)["id"]
    try:
        yield
    finally:
        urlopen(Request(f"{server.url}/api/jobs/{job}", method="DELETE")).close()


@contextmanager
def reserved_port() -> Iterator[int]:
    """Reserve a port for servers that follow one another: a socket that is bound, and never listens, holds it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, who can then listen
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def running_server(*options: object, **environment: str) -> Iterator[RunningServer]:
    """Start `pocket-diffusion serve`, on a free port if none is given, wait until it answers, and end it afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", "--port", "0", *map(str, options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        match = re.search(r"http://\S+:(\d+)/", line)
        assert match, line + process.stderr.read()
        yield RunningServer(process, f"http://127.0.0.1:{match[1]}")
    finally:
        process.kill()
        process.communicate()
