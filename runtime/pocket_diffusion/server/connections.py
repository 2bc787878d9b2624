"""Connections of strangers: how many each may have, how patient the server is with them, and whom it lets in at all."""

import asyncio
import socket
import struct
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

from h11 import DONE, IDLE, SEND_BODY, Request
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.wsproto_impl import WSProtocol

from pocket_diffusion.server.clients import client_at

_HEAD_SECONDS = 15.0
"""How long a client may take to send the head of a request."""
_READ_SECONDS = 60.0
"""How long a client may read nothing of what fills the buffers."""
_CONNECTIONS = 1000
"""At most, and no more than half of the files that the process may have open."""
_SHARE = 4
"""One client has at most one in so many of them."""
_NEW_A_SECOND = 16
"""Of one client, from when half of all places are taken, or half of its own."""
_AT_ONCE = struct.pack("ii", 1, 0)
"""Of SO_LINGER: the system forgets a connection without waiting for the other side."""
_REFUSED_TOGETHER = 1024
"""New connections, before the rest has its turn."""


class Places:
    """A server's connections, by client.

    Where there are too many, those that wait for a request make room: they cost a client nothing, and a browser opens
    another. Strangers can open thousands a second, so that no step looks at each connection.
    """

    def __init__(self) -> None:
        self._connections: defaultdict[str, dict[PunctualProtocol, None]] = defaultdict(dict)
        self._waiting: defaultdict[str, dict[PunctualProtocol, None]] = defaultdict(dict)
        """Those that wait for a request, the one that waits longest first."""
        self._taken = 0
        self._second = 0
        """The one that is counted in."""
        self._new: Counter[str] = Counter()
        """How many connections each client got in it."""

    def take(self, one: "PunctualProtocol") -> "PunctualProtocol | None":
        """Note a new connection, and return the one to hang up on, if there are too many.

        It is one of a client that has too many; or, of too many in all, of the client that has the most, even in the
        middle of a request where none of that client's waits for one.
        """
        self._connections[one.client_id][one] = None
        self._taken += 1
        most, crowded = _most_connections(), one.client_id
        if len(self._connections[crowded]) <= most // _SHARE:
            if self._taken <= most:
                return None
            crowded = max(self._connections, key=lambda client: len(self._connections[client]))
        busy = [one] if crowded == one.client_id else self._connections[crowded]
        return next(chain(self._waiting[crowded], busy))

    def refuses(self, host: str) -> bool:
        """Count a connection that an address wants, and return whether it is to have none now.

        Whoever is hung up on can be back at once, so that making room for one by one would be all that is done.
        """
        if self._second != (second := int(time.monotonic())):
            self._second = second
            self._new.clear()
        client, most = client_at(host), _most_connections()
        if self._new[client] >= _NEW_A_SECOND:
            own = len(self._connections.get(client, ()))
            if max(self._taken, own * _SHARE) > most // 2:
                return True
        self._new[client] += 1
        return False

    def leave(self, one: "PunctualProtocol") -> None:
        """Forget a connection; nothing happens where that was done before."""
        self.go_on(one)
        if one in self._connections[one.client_id]:
            del self._connections[one.client_id][one]
            self._taken -= 1
        if not self._connections[one.client_id]:
            del self._connections[one.client_id], self._waiting[one.client_id]

    def wait(self, one: "PunctualProtocol") -> None:
        """Note that a connection waits for a request."""
        self._waiting[one.client_id][one] = None

    def go_on(self, one: "PunctualProtocol") -> None:
        """Note that a connection waits no more."""
        self._waiting[one.client_id].pop(one, None)


class Listener(socket.socket):
    """A listening socket that hangs up on whom its `places` refuse, before a connection costs more than that."""

    def __init__(self, listening: socket.socket) -> None:
        """Take a listening socket over."""
        super().__init__(listening.family, listening.type, listening.proto, listening.detach())
        self.places = Places()

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection, and where it comes from.

        Raises:
            BlockingIOError: there is none; or so many were refused that it is the turn of other work.

        """
        for _ in range(_REFUSED_TOGETHER):
            connection, address = super().accept()
            if not self.places.refuses(address[0]):
                return connection, address
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            connection.close()
        raise BlockingIOError


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
        least = self._places.take(self)
        if least is not None:
            least.hang_up()

    def hang_up(self) -> None:
        """End the connection, and count it no longer, though the loop is yet to tell that it is lost."""
        self._expect_nothing()
        self.transport.abort()
        self.connections.discard(self)
        self._places.leave(self)

    def shutdown(self) -> None:
        """End the connection when its request is answered; one that is not sent whole is not waited for."""
        if self.conn.their_state is SEND_BODY:
            self.hang_up()
        else:
            super().shutdown()

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


def _most_connections() -> int:
    if sys.platform == "win32":
        return _CONNECTIONS
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CONNECTIONS if files < 0 else min(_CONNECTIONS, files // 2)
