"""Serving the application with uvicorn: the socket, patience with slow clients, and a clean end."""

import asyncio
import ipaddress
import logging
import socket
import sys
from collections import defaultdict
from collections.abc import Callable, Collection
from functools import partial
from itertools import chain
from typing import Any

import uvicorn
from h11 import DONE, IDLE, Request
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.machine.allocator import give_large_back
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
_ACCEPTED_TOGETHER = 64
"""New connections, before requests have their turn again."""
_BACKLOG = 1024
"""New connections that the system keeps until they are accepted."""
_MOST_SAID = 2**16
"""Bytes of a websocket's message from a client."""
_LAST_SECONDS = 10
"""How long clients may take, at the end, to be told so."""


class Places:
    """A server's connections, by client.

    Where there are too many, those that wait for a request make room: they cost a client nothing, and a browser opens
    another. Strangers can open thousands a second, so that no step looks at each connection.
    """

    def __init__(self) -> None:
        self._connections: defaultdict[str, dict[PunctualProtocol, None]] = defaultdict(dict)
        self._waiting: defaultdict[str, dict[PunctualProtocol, None]] = defaultdict(dict)
        """Those that wait for a request, the one that waits longest first."""

    def take(self, one: "PunctualProtocol", taken: int) -> "PunctualProtocol | None":
        """Note a new connection, the last of `taken` in all, and return the one to hang up on, if there are too many.

        It is one of a client that has too many; or, of too many in all, of the client that has the most, even in the
        middle of a request where none of that client's waits for one.
        """
        self._connections[one.client_id][one] = None
        most, crowded = _most_connections(), one.client_id
        if len(self._connections[crowded]) <= most // _SHARE:
            if taken <= most:
                return None
            crowded = max(self._connections, key=lambda client: len(self._connections[client]))
        busy = [one] if crowded == one.client_id else self._connections[crowded]
        return next(chain(self._waiting[crowded], busy))

    def leave(self, one: "PunctualProtocol") -> None:
        """Forget a connection; nothing happens where that was done before."""
        self.go_on(one)
        self._connections[one.client_id].pop(one, None)
        if not self._connections[one.client_id]:
            del self._connections[one.client_id], self._waiting[one.client_id]

    def wait(self, one: "PunctualProtocol") -> None:
        """Note that a connection waits for a request."""
        self._waiting[one.client_id][one] = None

    def go_on(self, one: "PunctualProtocol") -> None:
        """Note that a connection waits no more."""
        self._waiting[one.client_id].pop(one, None)


class PunctualProtocol(H11Protocol):
    """uvicorn's, which would wait for ever for the rest of a request, and for an answer to be read."""

    client_id = ""
    """Whom it counts for."""
    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def __init__(self, *, places: Places, **options: Any) -> None:  # noqa: ANN401 - uvicorn's
        """Be one of a server's connections."""
        super().__init__(**options)
        self._places = places

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Expect a request soon, unless there is no room."""
        super().connection_made(transport)
        self.client_id = client_at(self.client[0] if self.client else "")
        self._expect_head()
        least = self._places.take(self, len(self.connections))
        if least is not None:
            least.hang_up()

    def hang_up(self) -> None:
        """End the connection, and count it no longer, though the loop is yet to tell that it is lost."""
        self._expect_nothing()
        self.transport.abort()
        self.connections.discard(self)
        self._places.leave(self)

    def data_received(self, data: bytes) -> None:
        """Expect the rest of a head that has begun, and the end of a body that was answered already."""
        super().data_received(data)
        if self.conn.their_state is IDLE or self.conn.our_state is DONE:
            self._expect_head()
        else:
            self._expect_nothing()

    def handle_websocket_upgrade(self, event: Request) -> None:
        """Leave the connection, and its place, to a websocket."""
        self._expect_nothing()
        self.ws_protocol_class = partial(  # type: ignore[assignment] # is called, and no more
            WebSocketProtocol, on_lost=partial(self._places.leave, self)
        )
        super().handle_websocket_upgrade(event)

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
        self._places.leave(self)
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(_HEAD_SECONDS, self.transport.close)
            self._places.wait(self)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self._places.go_on(self)

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


class WebSocketProtocol(WSProtocol):
    """uvicorn's, on a connection that stays counted; one that leaves a ping unanswered is closed."""

    def __init__(self, *, on_lost: Callable[[], None], **options: Any) -> None:  # noqa: ANN401 - uvicorn's
        """Take a connection over; `on_lost` is called at its end."""
        super().__init__(**options)
        self._on_lost = on_lost

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no longer."""
        self._on_lost()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """uvicorn's, which ends the drawings before it waits for those who wait for them."""

    def __init__(self, app: Starlette, on_started: Callable[[], None], on_stopping: Callable[[], None]) -> None:
        """Serve an application of `create_app`'s: `run([listener])` answers until SIGINT or SIGTERM."""
        config = uvicorn.Config(
            app,
            http=partial(PunctualProtocol, places=Places()),  # type: ignore[arg-type] # is called, and no more
            ws="wsproto",
            ws_max_size=_MOST_SAID,
            ws_per_message_deflate=False,  # previews are compressed already
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_SECONDS,
            backlog=_ACCEPTED_TOGETHER,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # every malformed request would be a warning
        super().__init__(config)
        self._app = app
        self._on_started = on_started
        self._on_stopping = on_stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say so when requests are answered."""
        await super().startup(sockets)
        give_large_back()  # of bodies and pictures
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # of which asyncio makes the number that it accepts together
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
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
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
