"""Serving the application with uvicorn: the socket, a first try, patience with slow clients, and a clean end."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Collection
from functools import partial
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.machine.allocator import give_large_back
from pocket_diffusion.machine.turns import Cancellation
from pocket_diffusion.server.connections import Listener, PunctualProtocol
from pocket_diffusion.server.guard import ANY_ADDRESS

_ACCEPTED_TOGETHER = 64
"""New connections, before requests have their turn again."""
_BACKLOG = 4096
"""Connections that the system keeps until they are accepted, as many as Linux allows; others try again later."""
_MOST_SAID = 2**16
"""Bytes of a websocket's message from a client."""
_LAST_SECONDS = 10
"""How long clients may take, at the end, to read their answers."""


class Server(uvicorn.Server):
    """uvicorn's, which tries its model before it says that it draws, and ends by itself where that fails.

    At the end, it ends the drawings before it waits for those who wait for them.
    """

    def __init__(
        self, app: Starlette, listener: Listener, on_started: Callable[[], None], on_stopping: Callable[[], None]
    ) -> None:
        """Serve an application of `create_app`'s: `run()` answers until SIGINT or SIGTERM.

        `on_started` is called once the default model has computed something, and `on_stopping` when a signal came.
        """
        config = uvicorn.Config(
            app,
            http=partial(PunctualProtocol, places=listener.places),  # type: ignore[arg-type] # is called, and no more
            ws="wsproto",
            ws_max_size=_MOST_SAID,
            ws_per_message_deflate=False,  # previews are compressed already
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2 * _LAST_SECONDS,  # for what goes on without its client, which nothing should
            backlog=_ACCEPTED_TOGETHER,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # every malformed request would be a warning
        super().__init__(config)
        self._app = app
        self._listener = listener
        self._on_started = on_started
        self._on_stopping = on_stopping
        self._trial: asyncio.Task[None] | None = None
        self._trial_cancellation = Cancellation()
        self._fault: Exception | None = None
        """Why the default model cannot draw here."""

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until a signal comes.

        Raises:
            PocketDiffusionError: the default model cannot draw on this machine.

        """
        super().run(sockets or [self._listener])
        if self._fault is not None:
            raise self._fault

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests, and begin to try the default model."""
        self._app.state.is_starting = True
        await super().startup(sockets)
        give_large_back()  # of bodies and pictures
        self._listener.listen(_BACKLOG)  # of which asyncio makes the number that it accepts together
        self._trial = asyncio.create_task(self._try_out())

    async def _try_out(self) -> None:
        try:
            await asyncio.to_thread(self._app.state.models.default.try_out, self._trial_cancellation)
        except Exception as error:  # whatever it is, every drawing would fail of it
            if not self.should_exit:
                self._fault, self.should_exit = error, True
            return
        self._app.state.is_starting = False
        self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the end; at a second signal, hang up on the clients that are still waited for.

        uvicorn would leave at a second one, with a traceback for each of them.
        """
        if self.should_exit:
            asyncio.get_running_loop().call_soon_threadsafe(self._hang_up)
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel what is drawn, tell the clients who wait for it, and hang up on those who do not read that in time."""
        if self._fault is None:
            self._on_stopping()
        self._trial_cancellation.cancel()
        await self._app.state.queue.close()  # a drawing may have the turn that the trial waits for
        if self._trial is not None:
            await self._trial
        # uvicorn would cancel the tasks that still answer, with a traceback for each.
        patience = asyncio.get_running_loop().call_later(_LAST_SECONDS, self._hang_up)
        await super().shutdown(sockets)
        patience.cancel()

    def _hang_up(self) -> None:
        for connection in [*self.server_state.connections]:
            connection.transport.abort()


def listen(host: str, port: int) -> Listener:
    """Return a socket that listens on an address.

    Raises:
        InvalidRequestError: it cannot, with the reason.

    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return Listener(socket.create_server((host, port), family=family, backlog=_BACKLOG))
    except (OSError, OverflowError, UnicodeError) as error:
        why = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
        raise InvalidRequestError(
            f"cannot listen on {host}, port {port} ({why}); choose others with --host, --port"
        ) from None


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
