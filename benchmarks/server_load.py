"""What the server costs: its overhead over `Pipeline.generate`, many clients at once, and memory over many pictures.

    python benchmarks/server_load.py [BUNDLE] [--size 128x128] [--steps N] [--output results.json]

Starts `pocket-diffusion serve` on a free port of this machine, and asks nobody else. README.md beside this file says
what each figure means.
"""

import base64
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import machine_facts
from peak_memory import memory_now
from report import headline, markdown_table, positive, progress, publish, seconds_text, summarise, workload_parser
from stages import PROMPT, Workload, parse_workload

_STARTED = re.compile(r"http://\S+:(\d+)/")
_PATIENCE = 600.0
"""Seconds until a picture counts as lost."""
SAMPLES = 10
"""Of memory, after the first."""


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    port: int
    pid: int

    def draw(self, workload: Workload, seed: int) -> bytes:
        """Ask for a picture and return its file."""
        asked = {
            "prompt": PROMPT, "size": f"{workload.width}x{workload.height}", "steps": workload.steps, "seed": seed,
        }  # fmt: skip
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/images/generations",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310 - this machine
            return base64.b64decode(json.load(answer)["data"][0]["b64_json"])

    def anonymous_bytes(self) -> int:
        """Return how much memory it has that no file backs."""
        return memory_now("RssAnon", Path(f"/proc/{self.pid}/status"))


@contextmanager
def running_server(workload: Workload) -> Iterator[Server]:
    """Start a server and end it afterwards."""
    command = [
        sys.executable, "-m", "pocket_diffusion", "serve", "--port", "0", "--provider", workload.provider,
        "--memory", workload.memory,
    ]  # fmt: skip
    command += ["--model", workload.bundle] if workload.bundle else []
    command += ["--threads", str(workload.threads)] if workload.threads else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            started = _STARTED.search(process.stdout.readline() if process.stdout else "")
            if started is None:
                raise SystemExit("the server did not start")
            yield Server(int(started[1]), process.pid)
        finally:
            process.terminate()


def overhead(server: Server, workload: Workload, pictures: int) -> dict[str, Any]:
    """Draw by turns with the pipeline in this process and through the server; seconds a picture of each."""
    pipeline = workload.load_pipeline()
    seconds: dict[str, list[float]] = {"Pipeline.generate": [], "server": []}
    for number in range(pictures + 1):
        start = time.perf_counter()
        pipeline.generate(PROMPT, width=workload.width, height=workload.height, steps=workload.steps, seed=number)
        between = time.perf_counter()
        server.draw(workload, number)
        end = time.perf_counter()
        if number:  # the first has graphs loaded
            seconds["Pipeline.generate"].append(between - start)
            seconds["server"].append(end - between)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        **{name: {"seconds": values, **summarise(values)} for name, values in seconds.items()},
        "overhead": medians["server"] / medians["Pipeline.generate"] - 1,
    }


def crowd(server: Server, workload: Workload, clients: int) -> dict[str, Any]:
    """Have many clients ask at once; whoever gets no picture of his own is lost."""
    start = time.perf_counter()

    def ask(seed: int) -> bytes | str:
        try:
            return server.draw(workload, seed)
        except (OSError, http.client.HTTPException) as error:
            return str(error)

    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(ask, range(clients)))
    pictures = [answer for answer in answers if isinstance(answer, bytes)]
    return {
        "clients": clients,
        "lost": clients - len(set(pictures)),
        "failures": sorted({answer for answer in answers if isinstance(answer, str)}),
        "seconds": time.perf_counter() - start,
    }


def endurance(server: Server, workload: Workload, pictures: int) -> dict[str, Any]:
    """Draw many pictures one after another, and look at the server's memory after every tenth of them."""
    memory = []
    every = max(pictures // SAMPLES, 1)
    for number in range(pictures):
        server.draw(workload, number)
        if number % every == 0 or number == pictures - 1:
            memory.append({"pictures": number + 1, "anonymous_bytes": server.anonymous_bytes()})
            progress(f"{number + 1} of {pictures} pictures: {memory[-1]['anonymous_bytes'] / 1e6:.0f} MB")
    return {"pictures": pictures, "memory": memory}


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report."""
    found = figures["measurements"]
    first, last = (found["endurance"]["memory"][i] for i in (1, -1))
    rows = [
        ["a picture, `Pipeline.generate`", f"{seconds_text(found['overhead']['Pipeline.generate']['median'])} s"],
        ["a picture, through the server", f"{seconds_text(found['overhead']['server']['median'])} s"],
        ["overhead", f"{100 * found['overhead']['overhead']:.1f} %"],
        [f"lost of {found['crowd']['clients']} at once", str(found["crowd"]["lost"])],
        [f"anonymous memory after {first['pictures']} pictures", f"{first['anonymous_bytes'] / 1e6:.1f} MB"],
        [f"after {last['pictures']}", f"{last['anonymous_bytes'] / 1e6:.1f} MB"],
    ]
    return [headline(figures), markdown_table(["server", "median"], rows)]


def main() -> None:
    """Run from the command line."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=None)
    parser.add_argument("--pictures", type=positive, default=20, help="by turns, for the overhead (default: 20)")
    parser.add_argument("--clients", type=positive, default=200, help="at once (default: 200)")
    parser.add_argument("--many", type=positive, default=500, help="pictures, for the memory (default: 500)")
    arguments, workload = parse_workload(parser)
    figures: dict[str, Any] = {"benchmark": "server", "machine": machine_facts(), **workload.facts()}
    with running_server(workload) as server:
        progress(f"{arguments.pictures} pictures by turns")
        found = {"overhead": overhead(server, workload, arguments.pictures)}
        progress(f"{arguments.clients} clients at once")
        found["crowd"] = crowd(server, workload, arguments.clients)
        found["endurance"] = endurance(server, workload, arguments.many)
    figures["measurements"] = found
    publish(figures, tables(figures), arguments.output)
    if found["crowd"]["lost"]:
        raise SystemExit("; ".join(found["crowd"]["failures"]) or "two clients got the same picture")


if __name__ == "__main__":
    main()
