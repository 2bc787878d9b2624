"""A served fleet: as many replicas of one server on a Ray cluster as there are drawings to be made.

On every machine: pip install "pocket-diffusion[cpu,server]" "ray[serve]>=2.60,<2.64", and `ray start` as docs/fleet.md
tells. On one of them, in the folder of this file:

    POCKET_DIFFUSION_TOKEN=... serve run --working-dir . ray_serve:fleet model=/shared/sd15 threads=4 max_replicas=16

A replica is one application of `create_app`'s with one model, and draws one picture after another. Ray sends each
request to the replica where the fewest are under way, and begins replicas when more than `queue` are at each.

Jobs, and pictures that are fetched later, live in the replica that made them. A client that wants them sends one header
with all its requests, `X-Session-ID` with a random text, and Ray sends those to one replica. Without it, requests that
lead to something later are refused; those of `_ANSWERED_AT_ONCE` need nothing of it.
"""

import os
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RunningReplica
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pocket_diffusion import Pipeline
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server import create_app
from pocket_diffusion.server.answers import refusal

_TOKEN = "POCKET_DIFFUSION_TOKEN"  # noqa: S105 - a name, not a token
_SESSION = "X-Session-ID"
_ANSWERED_AT_ONCE = (
    *(f"/v1/images/{way}" for way in ("generations", "edits", "variations")),
    *(f"/sdapi/v1/{what}" for what in ("txt2img", "img2img", "png-info", "extra-single-image")),
    *(f"/sdapi/v1/{what}" for what in ("samplers", "schedulers", "sd-models", "loras", "embeddings")),
    *("/v1/models", "/api/model", "/api/models", "/api/samplers", "/api/adapters", "/openapi.json", "/healthz"),
)
"""Paths of which one replica is as good as another."""
_FINISHES_WITHIN = 900.0
"""Seconds that a replica has for what it draws when it is to end."""


class Settings(BaseModel):
    """What `serve run` takes as `name=value`."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    """A bundle that lies at this path on every machine; by default the embedded one."""
    threads: int = 1
    """Cores of each replica."""
    gpus: float = 0
    """Graphics cards of each replica, or a share of one."""
    memory: str = "auto"
    """As `serve --memory` takes it."""
    insecure: bool = False
    """Let everyone draw who reaches the fleet, without a token."""
    min_replicas: int = 1
    max_replicas: int = 4
    queue: float = 2
    """Requests under way at each replica, one of them drawn, beyond which more replicas are begun."""
    upscale_seconds: float = 10
    """For which that must be so."""
    downscale_seconds: float = 300
    """For which fewer must do before replicas are ended."""


class SessionOnly:
    """Middleware that refuses what leads to something later, unless its client says which requests belong together."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] == "lifespan" or _SESSION in Headers(scope=scope) or scope["path"] in _ANSWERED_AT_ONCE:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # answered with 403
        else:
            message = (
                f"{scope['path']} is of one replica, and there are several; send the header {_SESSION} with a random "
                "text of your own, the same in all your requests, or have pictures sent at once by /v1/images"
            )
            await refusal(421, message)(scope, receive, send)


class SessionRouter(ConsistentHashRouter):
    """Sends requests of a session to one replica, and others to where the fewest are under way."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return replicas by rank."""
        if pending_request is not None and not pending_request.metadata.session_id:
            return [candidate_replicas]
        return await super().choose_replicas(candidate_replicas, pending_request)


def fleet(settings: Settings) -> serve.Application:
    """Return the application, for `serve run`.

    Raises:
        InvalidRequestError: there is no token, and nobody said that none is needed.

    """
    token = os.environ.get(_TOKEN)
    if not (token or settings.insecure):
        raise InvalidRequestError(f"a fleet needs a token: set {_TOKEN}, or let everyone draw with insecure=true")
    replica = serve.deployment(
        serve.ingress(_app_of(settings, token))(),
        name="PocketDiffusion",
        ray_actor_options={"num_cpus": settings.threads, "num_gpus": settings.gpus},
        max_ongoing_requests=256,  # that wait in the replica's queue, in which clients take turns
        graceful_shutdown_timeout_s=_FINISHES_WITHIN,
        request_router_config=RequestRouterConfig(
            request_router_class=SessionRouter, request_router_kwargs={"num_fallback_replicas": 0}
        ),
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=settings.queue,
            upscale_delay_s=settings.upscale_seconds,
            downscale_delay_s=settings.downscale_seconds,
        ),
    )
    return replica.bind()


def _app_of(settings: Settings, token: str | None) -> Callable[[], ASGIApp]:
    """Return what makes the application in a replica."""

    def make() -> ASGIApp:
        pipeline = Pipeline.load(settings.model, threads=settings.threads, memory=settings.memory)
        return SessionOnly(create_app(pipeline, token=token))

    return make
