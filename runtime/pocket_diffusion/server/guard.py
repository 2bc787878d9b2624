"""What every request must pass: the right host, origin and token, and a body that is neither too large nor too slow."""

import asyncio
import base64
import ipaddress
import re
import secrets
from collections import Counter
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server.answers import CHALLENGE, RELEASE_BODY, refusal
from pocket_diffusion.server.clients import client_of
from pocket_diffusion.server.limits import Limits
from pocket_diffusion.server.monitoring import Metrics
from pocket_diffusion.text import shortened

_ANY_PAGE = "*"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_NAMELESS = "null"
"""Origin of local files, and of frames in which any site can put its own pages."""
ANY_ADDRESS = "any address"
"""In the hosts that are allowed: IP addresses, which no stranger's domain name can stand for."""
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_WITHOUT_TOKEN = ("/healthz", "/pictures/")
"""Tells no more than the version, and has names that cannot be guessed."""
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; connect-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def known_origins(names: Collection[str], token: str | None) -> frozenset[str]:
    """Return the origins whose pages may use the server, as browsers write them.

    Raises:
        InvalidRequestError: one is no origin; or any site could use one, and there is no token to keep it away.

    """
    origins = frozenset(name.lower().removesuffix("/") for name in names)
    for origin in origins:
        if origin in (_ANY_PAGE, _NAMELESS):
            if token is None:
                raise InvalidRequestError(
                    f"with the origin {origin} every site that a browser here opens could draw; give a --token, or "
                    "name the site, such as https://lite.koboldai.net"
                )
        elif _ORIGIN.fullmatch(origin) is None:
            raise InvalidRequestError(
                f"{shortened(repr(origin), 60)} is no origin; give one such as https://lite.koboldai.net"
            )
    return origins


class Guard:
    """Middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        hosts: Collection[str] | None,
        origins: Collection[str],
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts
        self._origins = origins
        self._limits = limits
        self._metrics = metrics
        self.bodies: Counter[str] = Counter()
        """Bytes of bodies that are being received and checked, by client."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] == "websocket":
            await self._pass_on_websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, body = 500, _Body(self.bodies, client_of(scope), self._limits)
        scope.setdefault("state", {})[RELEASE_BODY] = body.release

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        try:
            try:
                self._check(scope, headers)
            except HTTPException as error:
                answer = refusal(error.status_code, str(error.detail), dict(error.headers or {}))
                await answer(scope, receive, send_guarded)
            else:
                await self._app(scope, self._limited(receive, body), send_guarded)
        finally:
            body.release()
            endpoint = getattr(scope.get("endpoint"), "__name__", "other")
            self._metrics.requests.labels(_method(scope), endpoint.lstrip("_"), status).inc()

    async def _pass_on_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a websocket, or pass it on; browsers let any page open one, so that its origin counts."""
        try:
            self._check(scope, Headers(scope=scope))
        except HTTPException:
            await send({"type": "websocket.close", "code": 1008})  # answered with 403
        else:
            await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise HTTPException for a request that is not to be answered."""
        is_safe = scope.get("method") in _SAFE_METHODS
        host = headers.get("host", "")
        if self._hosts is not None and not _is_among(host, self._hosts):
            raise HTTPException(
                403, f"requests for the host {host!r} are not answered here; `serve --allow-host` adds it"
            )
        if not is_safe and not self._is_from_known_page(headers):
            raise HTTPException(
                403, "requests from the pages of other sites are not answered; `serve --allow-origin` adds a site"
            )
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if self._token is not None and not path.startswith(_WITHOUT_TOKEN) and not self._has_token(headers):
            raise HTTPException(401, "the token is missing or wrong; send it as `Authorization: Bearer`", CHALLENGE)
        length = headers.get("content-length", "")
        if is_safe and (length not in ("", "0") or "transfer-encoding" in headers):
            raise HTTPException(400, f"a {scope['method']} has no body here; send none", {"Connection": "close"})
        if length.isdecimal() and int(length) > self._limits.body_bytes:
            raise _too_large(self._limits)

    def _is_from_known_page(self, headers: Headers) -> bool:
        """Whether a request comes from no page, from one of this server, or from one of an origin that is allowed."""
        origin = headers.get("origin")
        if origin is not None and (origin in self._origins or _ANY_PAGE in self._origins):
            return True
        is_elsewhere = origin and _netloc(origin) != headers.get("host", "").lower()
        return not is_elsewhere and headers.get("sec-fetch-site") != "cross-site"

    def _has_token(self, headers: Headers) -> bool:
        """Look for the token as OpenAI's clients send it, or as the password that browsers and A1111's clients send."""
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(value, validate=True).partition(b":")[2]
            except ValueError:
                return False
        elif scheme.lower() == "bearer":
            given = value.encode("latin-1")  # as Starlette decodes headers
        else:
            return False
        return secrets.compare_digest(given, (self._token or "").encode())

    def _limited(self, receive: Receive, body: "_Body") -> Receive:
        """Return a `receive` that ends bodies which are too large or take too long."""
        complete = False
        deadline = asyncio.get_running_loop().time() + self._limits.body_seconds

        async def receive_limited() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the body took longer than {self._limits.body_seconds:g} s", {"Connection": "close"}
                ) from None
            complete = not message.get("more_body", False)
            body.add(len(message.get("body", b"")))
            return message

        return receive_limited


class _Body:
    """How much of one request's body is in memory."""

    def __init__(self, bodies: Counter[str], client: str, limits: Limits) -> None:
        self._bodies = bodies
        self._client = client
        self._limits = limits
        self._bytes = 0

    def add(self, size: int) -> None:
        """Count what came; raise HTTPException where it is too much of one request, or leaves others too little."""
        free = self._limits.bodies_bytes - self._bodies.total()
        self._bytes += size
        self._bodies[self._client] += size
        if self._bytes > self._limits.body_bytes:
            raise _too_large(self._limits)
        if self._bodies[self._client] > free:
            raise HTTPException(429, "too much is being uploaded at once; try again later", {"Connection": "close"})

    def release(self) -> None:
        """Count it no longer."""
        self._bodies[self._client] -= self._bytes
        self._bytes = 0
        if not self._bodies[self._client]:
            del self._bodies[self._client]


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the body has more than {limits.body_bytes:,} bytes", {"Connection": "close"})


def _is_among(host: str, hosts: Collection[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in hosts:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return ANY_ADDRESS in hosts


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _method(scope: Scope) -> str:
    """Return one of the known methods, so that no client can make up ever new ones."""
    return scope["method"] if scope["method"] in (*_SAFE_METHODS, "POST", "PUT", "PATCH", "DELETE") else "other"
