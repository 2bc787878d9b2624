"""What a server stands for hours: clients of all kinds at once, and an end by `kill -9` now and then.

    python benchmarks/soak.py [BUNDLE] [--minutes 60] [--clients 20] [--kills 3] [--output results.json]

Starts `pocket-diffusion serve` on a free port of this machine, and asks nobody else. README.md beside this file says
what each figure means. Exit 1 if a job was lost, a picture was wrong, or the server failed.
"""

import argparse
import base64
import http.client
import io
import json
import os
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from machine import machine_facts
from report import headline, markdown_table, not_negative, positive, progress, psnr, publish, workload_parser
from server_load import Server, running_server
from stages import PROMPT, Workload, parse_workload

_PATIENCE = 600.0
"""Seconds until an answer counts as lost."""
_SAME_PSNR = 40.0
"""dB; the memory mode and the number of threads change a picture by less, another seed by far more."""
_PROBE_SECONDS = 0.1
"""From one look at `/healthz` to the next."""
_LONGEST_PAUSE = 2.0
"""Seconds, of a client, from one visit to the next."""
_MEMORY_SECONDS = 5.0
"""From one look at the server's memory to the next."""
_SEEDS = 4
FAULTS = ("jobs lost", "wrong pictures", "bad files taken", "errors")
"""What must not happen."""


Reference = tuple[dict[str, Any], NDArray[np.uint8]]
"""An order, and what is drawn of it."""


class Lost(Exception):  # noqa: N818 - what became of a job
    """A job that the server took has no end, or an answer has none."""


@dataclass(frozen=True)
class Visit:
    """One client at a server."""

    server: Server
    references: Sequence[Reference] = ()
    address: str = "127.0.0.1"
    """The client's own, of this machine, so that clients are told apart as strangers would be."""
    random: Random = field(default_factory=partial(Random, 0))
    patience: float = _PATIENCE

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Send a request and return the status and the content of the answer."""
        with self.connection() as connection:
            content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        """Connect, and hang up afterwards."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.server.port, timeout=self.patience, source_address=(self.address, 0)
        )
        try:
            yield connection
        finally:
            connection.close()

    def submit(self, order: dict[str, Any]) -> tuple[str, str]:
        """Return an accepted job's id, or what became of it instead."""
        status, content = self.ask("POST", "/api/jobs", order)
        return ("", outcome_of(status)) if status != 202 else (json.loads(content)["id"], "")

    def job(self, identity: str) -> dict[str, Any]:
        """Return how a job stands; the server must know it."""
        status, content = self.ask("GET", f"/api/jobs/{identity}")
        if status != 200:
            raise Lost(f"a job is answered with {status}")
        view: dict[str, Any] = json.loads(content)
        return view

    def finish(self, identity: str) -> dict[str, Any]:
        """Wait for a job's end."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            view = self.job(identity)
            if view["state"] not in ("queued", "running"):
                return view
            time.sleep(0.2)
        raise Lost("a job has no end")

    def picture(self, identity: str) -> bytes:
        """Wait for a job's picture."""
        view = self.finish(identity)
        if view["state"] != "done":
            raise Lost(f"a job is {view['state']}: {view['error']}")
        status, content = self.ask("GET", urlsplit(view["pictures"][0]["url"]).path)
        if status != 200:
            raise Lost(f"a picture is answered with {status}")
        return content


def outcome_of(status: int) -> str:
    """Return what an answer counts as that refuses what is good."""
    return "refused for lack of room" if status == 429 else "errors"


def compare(content: bytes, reference: NDArray[np.uint8]) -> str:
    """Return what a picture counts as."""
    picture = pixels(content)
    same = picture.shape == reference.shape and psnr(reference, picture, 255) >= _SAME_PSNR
    return "pictures" if same else "wrong pictures"


def pixels(content: bytes) -> NDArray[np.uint8]:
    """Decode a picture."""
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def draw(visit: Visit) -> str:
    """Ask for a picture and wait for it, as OpenAI's clients do."""
    order, reference = visit.random.choice([each for each in visit.references if "image" not in each[0]])
    asked = {name: order[name] for name in ("prompt", "seed", "steps")}
    status, content = visit.ask("POST", "/v1/images/generations", {**asked, "size": size_of(order)})
    if status != 200:
        return outcome_of(status)
    return compare(base64.b64decode(json.loads(content)["data"][0]["b64_json"]), reference)


def upload(visit: Visit) -> str:
    """Send a picture and have it redrawn."""
    order, reference = visit.random.choice([each for each in visit.references if "image" in each[0]])
    identity, refused = visit.submit(order)
    return refused or compare(visit.picture(identity), reference)


def upload_bad(visit: Visit) -> str:
    """Send what is no order, or no picture."""
    order, _ = visit.references[0]
    picture = base64.b64decode(base64_picture())
    bad = visit.random.choice(
        [
            {**order, "image": base64.b64encode(picture[: len(picture) // 2]).decode()},
            {**order, "image": base64.b64encode(b"no picture").decode()},
            {**order, "steps": 10**9},
            {"prompt": 7},
            b"[" * 10_000,
        ]
    )
    status, _ = visit.ask("POST", "/api/jobs", bad)
    if status in (202, 429):
        return "bad files taken" if status == 202 else outcome_of(status)
    return "bad files refused" if 400 <= status < 500 else "errors"


def cancel(visit: Visit) -> str:
    """Cancel a drawing that waits or runs."""
    identity, refused = visit.submit(visit.references[0][0])
    if refused:
        return refused
    time.sleep(visit.random.random())
    status, _ = visit.ask("DELETE", f"/api/jobs/{identity}")
    if status == 200:  # it was over, and is forgotten
        return "cancelled too late"
    state = visit.finish(identity)["state"]
    return {"cancelled": "cancelled", "done": "cancelled too late"}.get(state, "errors")


def follow(visit: Visit) -> str:
    """Follow a drawing, reading slowly."""
    order, reference = visit.random.choice(visit.references)
    identity, refused = visit.submit(order)
    if refused:
        return refused
    with visit.connection() as connection:
        connection.request("GET", f"/api/jobs/{identity}/events")
        answer = connection.getresponse()
        while answer.read(100):
            time.sleep(0.05)
    return compare(visit.picture(identity), reference)


def leave(visit: Visit) -> str:
    """Ask for a picture and go away before it is there."""
    order, _ = visit.references[0]
    with visit.connection() as connection:
        body = json.dumps({"prompt": order["prompt"], "steps": order["steps"], "size": size_of(order)})
        connection.request("POST", "/v1/images/generations", body, {"Content-Type": "application/json"})
        time.sleep(visit.random.random())
    return "left"


KINDS: tuple[Callable[[Visit], str], ...] = (draw, upload, upload_bad, cancel, follow, leave)
"""Of clients; there are about as many of each."""


def size_of(order: dict[str, Any]) -> str:
    """Return a picture's size as OpenAI's API has it."""
    return f"{order['width']}x{order['height']}"


def base64_picture() -> str:
    """Return a small picture to send."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((96, 96)).convert("RGB").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@dataclass
class Soak:
    """A server that is replaced now and then, and what becomes of its clients' visits."""

    workload: Workload
    references: list[Reference] = field(default_factory=list)
    server: Server | None = None
    """None while there is none."""
    over: threading.Event = field(default_factory=threading.Event)
    counts: Counter[str] = field(default_factory=Counter)
    """Visits, by what became of them."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why jobs were lost."""
    health: list[float] = field(default_factory=list)
    """Seconds that `/healthz` took."""
    memory: list[list[int]] = field(default_factory=list)
    """Samples of the servers' anonymous memory, in bytes."""

    def run(self, seconds: float, clients: int, kills: int) -> None:
        """Have servers live one after another, all but the last in the first half of the time."""
        lengths = [*(seconds / 2 / kills for _ in range(kills)), seconds / 2 if kills else seconds]
        with ThreadPoolExecutor(clients + 1) as pool:
            visitors = [pool.submit(self.probe), *(pool.submit(self.visit, number) for number in range(clients))]
            try:
                for number, length in enumerate(lengths, 1):
                    with running_server(self.workload) as server:
                        self.references = self.references or draw_references(server, self.workload)
                        self.server = server
                        self.look(server)
                        progress(f"server {number} of {len(lengths)} lives for {length:.0f} s")
                        self.memory.append(watch_memory(server, length))
                        if number == len(lengths):
                            self.over.set()
                            wait(visitors)
                        self.server = None
                        os.kill(server.pid, signal.SIGKILL)
            finally:
                self.over.set()
        for visitor in visitors:
            visitor.result()

    def visit(self, number: int) -> None:
        """Be a client, and come again and again."""
        random, kind = Random(number), KINDS[number % len(KINDS)]  # noqa: S311 - no secret
        while not self.over.wait(random.uniform(0, _LONGEST_PAUSE)):
            server = self.server
            if server is None:
                continue
            try:
                became = kind(Visit(server, self.references, f"127.0.1.{number + 1}", random))
            except (OSError, http.client.HTTPException, Lost) as error:
                became = "ended by a kill" if self.server is not server else "jobs lost"
                if became == "jobs lost":
                    self.reasons[f"{kind.__name__}: {error!r}"] += 1
            self.counts[became] += 1

    def probe(self) -> None:
        """Look at `/healthz` again and again."""
        while not self.over.wait(_PROBE_SECONDS):
            if (server := self.server) is not None:
                self.look(server)

    def look(self, server: Server) -> None:
        """Look at `/healthz` once; what a kill interrupts does not count."""
        start = time.perf_counter()
        try:
            status, _ = Visit(server).ask("GET", "/healthz")
        except (OSError, http.client.HTTPException):
            status = 0
        if self.server is server:
            self.health.append(time.perf_counter() - start)
            self.counts["errors"] += status != 200

    def measurements(self) -> dict[str, Any]:
        """Return the figures."""
        last = self.memory[-1]
        fifth = max(len(last) // 5, 1)
        return {
            "visits": dict(sorted(self.counts.items())),
            "reasons": dict(self.reasons),
            "faults": {fault: self.counts[fault] for fault in FAULTS},
            "healthz_seconds": {
                "looks": len(self.health),
                "median": statistics.median(self.health),
                "p99": float(np.quantile(self.health, 0.99)),
                "longest": max(self.health),
            },
            "anonymous_bytes": {
                "first_fifth": statistics.median(last[:fifth]),
                "last_fifth": statistics.median(last[-fifth:]),
            },
            "samples_of_memory": self.memory,
        }


def draw_references(server: Server, workload: Workload) -> list[Reference]:
    """Have a server that nobody else uses draw what it will be asked for."""
    plain = [
        {"prompt": PROMPT, "width": workload.width, "height": workload.height, "steps": workload.steps, "seed": seed}
        for seed in range(_SEEDS)
    ]
    visit, found = Visit(server), []
    for order in (*plain, *({**each, "image": base64_picture(), "strength": 0.5} for each in plain)):
        identity, refused = visit.submit(order)
        if refused:
            raise SystemExit(f"the server does not draw what is to be compared with: {refused}")
        found.append((order, pixels(visit.picture(identity))))
    return found


def watch_memory(server: Server, seconds: float) -> list[int]:
    """Return samples of a server's anonymous memory over some time."""
    memory, end = [server.anonymous_bytes()], time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(_MEMORY_SECONDS, left))
        memory.append(server.anonymous_bytes())
    return memory


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report."""
    found = figures["measurements"]
    health, memory = found["healthz_seconds"], found["anonymous_bytes"]
    others = [[name, f"{count:,}"] for name, count in found["visits"].items() if name not in found["faults"]]
    growth = memory["last_fifth"] / memory["first_fifth"] - 1
    rows = [
        *([name, str(count)] for name, count in found["faults"].items()),
        *others,
        ["`/healthz`, median", f"{1000 * health['median']:.1f} ms"],
        ["`/healthz`, 99th percentile", f"{1000 * health['p99']:.1f} ms"],
        ["`/healthz`, longest", f"{1000 * health['longest']:.0f} ms"],
        ["anonymous memory, first fifth of the last life", f"{memory['first_fifth'] / 1e6:.1f} MB"],
        ["last fifth", f"{memory['last_fifth'] / 1e6:.1f} MB"],
        ["growth", f"{100 * growth:+.1f} %"],
    ]
    soaked = figures["workload"]
    what = f"{soaked['minutes']:g} minutes, {soaked['clients']} clients, {soaked['kills']} kills"
    return [headline(figures), markdown_table([what, "figure"], rows)]


def main() -> None:
    """Run from the command line."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=4)
    parser.add_argument("--minutes", type=minutes, default=60, help="in all (default: 60)")
    parser.add_argument("--clients", type=positive, default=20, help="at once (default: 20)")
    parser.add_argument("--kills", type=not_negative, default=3, help="in the first half (default: 3)")
    arguments, workload = parse_workload(parser)
    figures: dict[str, Any] = {"benchmark": "soak", "machine": machine_facts(), **workload.facts()}
    figures["workload"] |= {name: getattr(arguments, name) for name in ("minutes", "clients", "kills")}
    soak = Soak(workload)
    soak.run(60 * arguments.minutes, arguments.clients, arguments.kills)
    figures["measurements"] = soak.measurements()
    publish(figures, tables(figures), arguments.output)
    if any(figures["measurements"]["faults"].values()):
        raise SystemExit("; ".join(soak.reasons) or 1)


def minutes(text: str) -> float:
    """Read a positive number, which may be a fraction."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes")
    return number


if __name__ == "__main__":
    main()
