"""Figures for Prometheus, and whether the server is alive."""

import logging
import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pocket_diffusion.version import __version__

_log = logging.getLogger(__name__)
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class Metrics:
    """What one server counts. Each has a registry of its own, so that several fit into a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "pocket_diffusion_http_requests",
            "Requests answered, by what they were for",
            ["method", "endpoint", "status"],
            registry=self.registry,
        )
        self.waiting = Gauge("pocket_diffusion_queue_length", "Drawings that wait", registry=self.registry)
        self.step_seconds = Histogram(
            "pocket_diffusion_step_seconds", "From step to step of a drawing", buckets=_SECONDS, registry=self.registry
        )
        self.drawing_seconds = Histogram(
            "pocket_diffusion_drawing_seconds",
            "From a drawing's turn to its end, by how it ended",
            ["state"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.pictures = Counter("pocket_diffusion_pictures", "Pictures drawn", registry=self.registry)
        ProcessCollector(registry=self.registry)  # memory and CPU time
        self._last_step: float | None = None

    def stepped(self) -> None:
        """Note that a step is done."""
        now = time.monotonic()
        if self._last_step is not None:
            self.step_seconds.observe(now - self._last_step)
        self._last_step = now

    def finished(self, state: str, pictures: int, seconds: float) -> None:
        """Note that a drawing is over, and how."""
        self._last_step = None
        self.pictures.inc(pictures)
        self.drawing_seconds.labels(state).observe(seconds)


async def healthz(request: Request) -> Response:
    """Answer that the server can draw, and whether it can keep what it draws; the log says why it cannot."""
    if request.app.state.is_starting:
        return JSONResponse({"status": "starting", "version": __version__}, 503)
    queue = request.app.state.queue
    fault = queue.pictures.fault()
    if fault is None:
        lost = None if queue.album is None else queue.album.fault()
        if lost is not None:
            _log.error("pictures do not stay: %s", lost)
        return JSONResponse({"status": "pictures do not stay" if lost else "ok", "version": __version__})
    _log.error("pictures cannot be kept: %s", fault)
    return JSONResponse({"status": "pictures cannot be kept", "version": __version__}, 503)


async def metrics(request: Request) -> Response:
    """Answer with all figures."""
    text = generate_latest(request.app.state.metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


ROUTES = [Route("/healthz", healthz), Route("/metrics", metrics)]
