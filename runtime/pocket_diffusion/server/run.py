"""Serving the application with uvicorn: the socket, patience with slow clients, and a clean end."""

import asyncio
import ipaddress
import logging
import socket
import sys
from collections import Counter
from collections.abc import Callable, Collection

import uvicorn
from h11 import DONE, IDLE
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server.clients import client_at
from pocket_diffusion.server.guard import ANY_ADDRESS

_HEAD_SECONDS = 15.0
"""How long a client may take to send the head of a request."""
_READ_SECONDS = 60.0
"""How long a client may read nothing of what fills the buffers."""
_CONNECTIONS = 1000
"""At most, and no more than half of the files that the process may have open."""
_SHARE = 4
"""One client has at most one in so many of them."""
_LAST_SECONDS = 10
"""How long clients may take, at the end, to be told so."""


class PunctualProtocol(H11Protocol):
    """uvicorn's, which would wait for ever for the rest of a request, and for an answer to be read.

    Where there are too many connections, those make room that wait for a request: they cost a client nothing, and a
    browser opens another.
    """

    connections: "set[PunctualProtocol]"  # type: ignore[assignment] # all are of this class
    _client = ""
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Expect a request soon, unless there is no room."""
        super().connection_made(transport)
        self._client = client_at(self.client[0] if self.client else "")
        self._expect_head()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        """Expect the rest of a head that has begun, and the end of a body that was answered already."""
        super().data_received(data)
        if self.conn.their_state is IDLE or self.conn.our_state is DONE:
            self._expect_head()
        else:
            self._expect_nothing()

    def pause_writing(self) -> None:
        """Expect the client to read on."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """Go on with a client that has read."""
        super().resume_writing()
        self._expect_reading_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._expect_nothing()
        self._expect_reading_no_more()
        super().connection_lost(exc)

    def _make_room(self) -> None:
        """Hang up on one connection of a client that has too many; or, of too many in all, of one that has the most."""
        most, counts = _most_connections(), Counter(one._client for one in self.connections)
        if counts[self._client] > most // _SHARE:
            client = self._client
        elif len(self.connections) > most:
            client = counts.most_common(1)[0][0]
        else:
            return
        idle = [one for one in self.connections if one._client == client and one._deadline is not None]
        least = min(idle, key=lambda one: one._deadline.when() if one._deadline else 0.0, default=self)
        least._expect_nothing()
        least.transport.abort()
        self.connections.discard(least)  # at once, for others may be made before the loop tells that it is lost

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expect_reading(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(_READ_SECONDS, self._hang_up_unless_read, left)

    def _hang_up_unless_read(self, left: int) -> None:
        if self.transport.get_write_buffer_size() < left:
            self._expect_reading()
        else:
            self.transport.abort()

    def _expect_reading_no_more(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None


class Server(uvicorn.Server):
    """uvicorn's, which ends the drawings before it waits for those who wait for them."""

    def __init__(self, app: Starlette, on_started: Callable[[], None], on_stopping: Callable[[], None]) -> None:
        """Serve an application of `create_app`'s: `run([listener])` answers until SIGINT or SIGTERM."""
        config = uvicorn.Config(
            app,
            http=PunctualProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # every malformed request would be a warning
        super().__init__(config)
        self._app = app
        self._on_started = on_started
        self._on_stopping = on_stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say so when requests are answered."""
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel what is drawn."""
        self._on_stopping()
        await self._app.state.queue.close()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        InvalidRequestError: it cannot, with the reason.

    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, OverflowError, UnicodeError) as error:
        why = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
        raise InvalidRequestError(
            f"cannot listen on {host}, port {port} ({why}); choose others with --host, --port"
        ) from None


def _most_connections() -> int:
    if sys.platform == "win32":
        return _CONNECTIONS
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CONNECTIONS if files < 0 else min(_CONNECTIONS, files // 2)


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def hosts_of(listener: socket.socket, named: Collection[str]) -> frozenset[str]:
    """Return the names that requests may be for, so that no stranger's domain name can lead here (DNS rebinding)."""
    hosts = {"localhost", "127.0.0.1", "::1", *(name.lower() for name in named)}
    if not is_loopback(listener):
        hostname = socket.gethostname().lower()
        hosts |= {ANY_ADDRESS, hostname, f"{hostname.partition('.')[0]}.local"}
    return frozenset(hosts)


def url_of(listener: socket.socket) -> str:
    """Return where a browser finds the page."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
