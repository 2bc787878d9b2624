"""What a server stands while strangers attack it in every way that is known, all at once.

    python benchmarks/attack.py [BUNDLE] [--seconds 60] [--output results.json]

Starts `pocket-diffusion serve` on a free port of this machine, and attacks nobody else. README.md beside this file says
what each figure means. Exit 1 if the server failed.
"""

import base64
import http.client
import io
import json
import multiprocessing
import os
import resource
import select
import signal
import socket
import statistics
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from machine import machine_facts
from peak_memory import memory_now
from report import headline, markdown_table, positive, progress, publish, workload_parser
from server_load import Server, running_server
from soak import Visit, base64_picture, draw, draw_references
from stages import PROMPT, Workload, parse_workload

_PAUSE = 0.1
"""Seconds, from one look at the server to the next, and of an attacker from one connection's next byte to another's."""
_PATIENCE = 30.0
"""Seconds until an answer is not waited for any more."""
_FILES = 8192
"""That this process may have open: it is thousands of clients."""
KINDS = ("anonymous", "resident")
"""Of a server's memory."""
HOLDING = ("half a head", "a body of a byte now and then", "nothing sent")
"""Attacks that do no more than hold connections; each has one before the time of all runs."""

Attack = Callable[[Visit], Iterator[str]]
"""Goes on for ever, and yields what became of each try."""


# Files and bodies: small, and as much work as can be had from so many bytes.


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return a picture's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def many_texts() -> bytes:
    """Return 89 kB of PNG with 63 MB of text."""
    texts = PngInfo()
    for number in range(63):
        texts.add_text(f"t{number}", "\0" * 1_000_000, zip=True)
    return saved(Image.new("RGB", (8, 8)), "PNG", pnginfo=texts)


def long_text() -> bytes:
    """Return a PNG with as much text as is read, and more than a connection buffers."""
    texts = PngInfo()
    texts.add_text("parameters", "a" * 900_000, zip=True)
    return saved(Image.new("RGB", (8, 8)), "PNG", pnginfo=texts)


def photograph() -> bytes:
    """Return a progressive JPEG of 48 megapixels."""
    return saved(Image.new("RGB", (8000, 6000)), "JPEG", progressive=True)


def many_scans(photograph: bytes, scans: int) -> bytes:
    """Return a progressive JPEG with its last scan repeated; each is decoded again."""
    end, scan = b"\xff\xd9", b"\xff\xda"
    head, *parts = photograph.removesuffix(end).split(scan)
    return scan.join([head, *parts, *[parts[-1]] * (scans - len(parts))]) + end


def thin() -> bytes:
    """Return a PNG of 1 × 43,000,000 pixels."""
    header = struct.pack(">IIBBBBB", 1, 43_000_000, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(86_000_000), 9)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def many_frames() -> bytes:
    """Return a TIFF of 2,000 frames of one pixel, which is the file's first byte; Pillow would write it for seconds."""
    width, height, photometric, strip_offsets, strip_byte_counts = 256, 257, 262, 273, 279
    tags = {width: 1, height: 1, photometric: 1, strip_offsets: 0, strip_byte_counts: 1}
    long = 4
    frame = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, long, 1, tags[tag]) for tag in tags)
    head = struct.pack("<2sHI", b"II", 42, 8)
    size = len(frame) + 4
    following = [*(len(head) + size * number for number in range(1, 2000)), 0]
    return head + b"".join(frame + struct.pack("<I", place) for place in following)


def order(**more: object) -> bytes:
    """Return an order in our own API's form."""
    return json.dumps({"prompt": PROMPT, "width": 64, "height": 64, "steps": 2, **more}).encode()


def redrawing(picture: bytes) -> bytes:
    """Return an order that starts from a picture."""
    return order(image=base64.b64encode(picture).decode())


def texts_of(picture: bytes) -> bytes:
    """Return what asks A1111's API for a picture's texts."""
    return json.dumps({"image": base64.b64encode(picture).decode()}).encode()


# Attacks.


def posting(path: str, body: bytes) -> Attack:
    """Return an attack that sends a body again and again."""

    def attack(visit: Visit) -> Iterator[str]:
        while True:
            status, _ = visit.ask("POST", path, body)
            yield f"answered with {status}"

    return attack


def holding(connections: int, content: Callable[[Visit], bytes], drip: bytes = b"") -> Attack:
    """Return an attack that begins many connections alike, reads nothing, and sends a little more again and again."""

    def attack(visit: Visit) -> Iterator[str]:
        held: dict[int, socket.socket] = {}
        ended = select.poll()
        try:
            while True:
                while len(held) < connections:
                    one = socket.create_connection(("127.0.0.1", visit.server.port), _PATIENCE, (visit.address, 0))
                    held[one.fileno()] = one
                    ended.register(one, select.POLLRDHUP)
                    one.sendall(content(visit))
                    yield "connections"
                time.sleep(_PAUSE)
                for each, _ in ended.poll(0):
                    ended.unregister(each)
                    held.pop(each).close()
                for one in held.values():
                    with suppress(OSError):
                        one.send(drip)
                yield "rounds"
        finally:
            for one in held.values():
                one.close()

    return attack


def cancelling(visit: Visit) -> Iterator[str]:
    """Send pictures to be redrawn, and cancel each drawing."""
    body = json.loads(redrawing(base64.b64decode(base64_picture())))
    while True:
        identity, refused = visit.submit(body)
        if identity:
            visit.ask("DELETE", f"/api/jobs/{identity}")
        yield refused or "cancelled"


def request(path: str, body: bytes) -> bytes:
    """Return a POST as it is sent."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def events(visit: Visit) -> bytes:
    """Ask for a drawing, and return the request for its events."""
    identity, _ = visit.submit(json.loads(order(steps=100)))
    return f"GET /api/jobs/{identity or 'refused'}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def attacks() -> dict[str, tuple[int, Attack]]:
    """Return all attacks by name: from how many addresses, and what each does."""
    drawing = json.dumps({"prompt": PROMPT, "size": "64x64"}).encode()
    half_a_head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
    half_a_body = b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    asked, photo = request("/v1/images/generations", drawing), photograph()
    answered = request("/sdapi/v1/png-info", texts_of(long_text()))
    return {
        "PNG of 63 texts": (1, posting("/sdapi/v1/png-info", texts_of(many_texts()))),
        "JPEG of 3,000 scans": (1, posting("/api/jobs", redrawing(many_scans(photo, 3000)))),
        "JPEG of 64 scans": (1, posting("/api/jobs", redrawing(many_scans(photo, 64)))),
        "PNG of 1 × 43,000,000": (1, posting("/api/jobs", redrawing(thin()))),
        "TIFF of 2,000 frames": (1, posting("/api/jobs", redrawing(many_frames()))),
        "JPEG of 48 megapixels": (1, posting("/api/jobs", redrawing(photo))),
        "JSON of 6 million lists": (1, posting("/sdapi/v1/txt2img", b'{"steps":[%s1]}' % (b"[]," * 6_000_000))),
        "JSON 10 million deep": (1, posting("/sdapi/v1/txt2img", b'{"steps":' + b"[" * 10_000_000)),
        "JSON with a name of 30 MB": (1, posting("/api/jobs", b'{"%s":1}' % (b"x" * 30_000_000))),
        "half a head": (6, holding(250, lambda _: half_a_head, b"a")),
        "a body of a byte now and then": (2, holding(250, lambda _: half_a_body, b"a")),
        "nothing sent": (2, holding(250, lambda _: b"")),
        "drawings asked for and not read": (3, holding(100, lambda _: asked)),
        "large answers not read": (2, holding(50, lambda _: answered)),
        "events not read": (2, holding(50, events)),
        "drawings cancelled": (2, cancelling),
    }


def attack(server: Server, over: Event, told: Connection) -> None:
    """Do all attacks at once until it is over, each address in a thread, and tell what became of each one's tries.

    Strangers compute on machines of their own: here, only with what the server leaves.
    """
    found = attacks()
    os.nice(10)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES if most < 0 else min(_FILES, most), most))
    counts: dict[str, Counter[str]] = {}

    def go_on(attack: Attack, visit: Visit, counted: Counter[str]) -> None:
        while not over.is_set():
            try:
                for became in attack(visit):
                    counted[became] += 1
                    if over.is_set():
                        return
            except (OSError, http.client.HTTPException):
                counted["hung up on"] += not over.wait(_PAUSE)

    threads: list[threading.Thread] = []
    for name, (addresses, one) in found.items():
        counts[name] = Counter()
        for _ in range(addresses):
            visit = Visit(server, address=f"127.0.2.{len(threads) + 1}", patience=_PATIENCE)
            threads.append(threading.Thread(target=go_on, args=(one, visit, counts[name])))
    for thread in threads:
        thread.start()
    while not all(counts[name]["connections"] for name in HOLDING):
        time.sleep(_PAUSE)
    told.send(len(threads))
    for thread in threads:
        thread.join()
    told.send({name: (addresses, dict(sorted(counts[name].items()))) for name, (addresses, _) in found.items()})


@dataclass
class Siege:
    """How a server bears it, and what becomes of an ordinary client."""

    workload: Workload
    over: threading.Event = field(default_factory=threading.Event)
    attacks: dict[str, tuple[int, dict[str, int]]] = field(default_factory=dict)
    """By name: from how many addresses, and what became of the tries."""
    health: list[float] = field(default_factory=list)
    """Seconds that `/healthz` took."""
    failures: Counter[str] = field(default_factory=Counter)
    """Of `/healthz`."""
    guest: Counter[str] = field(default_factory=Counter)
    """What became of an ordinary client's wishes for a picture."""
    waits: list[float] = field(default_factory=list)
    """Seconds that he waited for each."""
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bytes, by when and of what."""

    def run(self, seconds: float) -> None:
        """Have a server attacked for some time."""
        spawn = multiprocessing.get_context("spawn")
        receiver, sender = spawn.Pipe(duplex=False)
        attack_over = spawn.Event()
        with ThreadPoolExecutor(1) as pool, running_server(self.workload) as server:
            self.memory["started"] = memory_of(server)
            server.draw(self.workload, 0)
            self.memory["after one drawing"] = memory_of(server)
            references = draw_references(server, self.workload)
            attackers = spawn.Process(target=attack, args=(server, attack_over, sender), daemon=True)
            attackers.start()
            sender.close()  # so that their end is told, too
            progress(f"{receiver.recv()} addresses attack for {seconds} s")
            guest = pool.submit(self.be_guest, Visit(server, references, "127.0.3.1"))
            try:
                self.watch(server, seconds)
            finally:
                self.over.set()
                attack_over.set()
                os.kill(server.pid, signal.SIGKILL)  # for whose answers all wait otherwise
            guest.result()
            self.attacks = receiver.recv()
            attackers.join()

    def be_guest(self, visit: Visit) -> None:
        """Ask for one picture after another, as ordinary people do."""
        while not self.over.wait(_PAUSE):
            start = time.perf_counter()
            try:
                became = draw(visit)
            except (OSError, http.client.HTTPException):
                became = "errors"
            if not self.over.is_set():
                self.guest[became] += 1
                self.waits.append(time.perf_counter() - start)

    def watch(self, server: Server, seconds: float) -> None:
        """Look again and again whether a server answers, and how much memory it takes."""
        samples, end = [memory_of(server)], time.monotonic() + seconds
        while not self.health or time.monotonic() < end:
            start = time.perf_counter()
            try:
                status, _ = Visit(server, patience=_PATIENCE).ask("GET", "/healthz")
            except (OSError, http.client.HTTPException) as error:
                status = 0
                self.failures[repr(error)] += 1
            self.health.append(time.perf_counter() - start)
            if status not in (0, 200):
                self.failures[f"answered with {status}"] += 1
            samples.append(memory_of(server))
            time.sleep(_PAUSE)
        self.memory["most, under attack"] = {name: max(each[name] for each in samples) for name in samples[0]}

    def measurements(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "attacks": {
                name: {"addresses": addresses, "tries": tries} for name, (addresses, tries) in self.attacks.items()
            },
            "healthz_seconds": {
                "looks": len(self.health),
                "median": statistics.median(self.health),
                "p99": float(np.quantile(self.health, 0.99)),
                "longest": max(self.health),
                "failures": dict(self.failures),
            },
            "guest": {
                "visits": dict(self.guest),
                "median_seconds": statistics.median(self.waits) if self.waits else None,
            },
            "memory_bytes": self.memory,
        }


def memory_of(server: Server) -> dict[str, int]:
    """Return how much memory a server has now, and the processes in which it reads pictures."""
    status = Path(f"/proc/{server.pid}/status")
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    readers = 0
    for child in children:
        with suppress(OSError):  # it has ended, which they do within moments
            readers += memory_now("VmRSS", Path(f"/proc/{child}/status"))
    return {"anonymous": memory_now("RssAnon", status), "resident": memory_now("VmRSS", status), "readers": readers}


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report."""
    found = figures["measurements"]
    health, guest, memory = found["healthz_seconds"], found["guest"], found["memory_bytes"]
    most = memory["most, under attack"]
    rows = [
        ["`/healthz`, median", f"{1000 * health['median']:.1f} ms"],
        ["`/healthz`, 99th percentile", f"{1000 * health['p99']:.0f} ms"],
        ["`/healthz`, longest", f"{1000 * health['longest']:.0f} ms"],
        [f"`/healthz`, failures of {health['looks']:,}", str(sum(health["failures"].values()))],
        *([f"an ordinary client's {name}", str(count)] for name, count in guest["visits"].items()),
        *([f"{kind} memory, {when}", f"{each[kind] / 1e6:.0f} MB"] for kind in KINDS for when, each in memory.items()),
        *(
            [f"most {kind} memory, of that {when}", f"{most[kind] / memory[when][kind]:.2f} ×"]
            for kind in KINDS
            for when in ("started", "after one drawing")
        ),
        ["processes that read pictures, most", f"{most['readers'] / 1e6:.0f} MB"],
    ]
    attacks = [
        [name, str(one["addresses"]), ", ".join(f"{count:,} {became}" for became, count in one["tries"].items())]
        for name, one in found["attacks"].items()
    ]
    attacked = f"{figures['workload']['seconds']} seconds of all attacks at once"
    return [
        headline(figures),
        markdown_table([attacked, "figure"], rows),
        markdown_table(["attack", "addresses", "tries"], attacks),
    ]


def main() -> None:
    """Run from the command line."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=4)
    parser.add_argument("--seconds", type=positive, default=60, help="of attack (default: 60)")
    arguments, workload = parse_workload(parser)
    figures: dict[str, Any] = {"benchmark": "attack", "machine": machine_facts(), **workload.facts()}
    figures["workload"]["seconds"] = arguments.seconds
    siege = Siege(workload)
    siege.run(arguments.seconds)
    figures["measurements"] = siege.measurements()
    publish(figures, tables(figures), arguments.output)
    if siege.failures or siege.guest["errors"] or siege.guest["wrong pictures"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
