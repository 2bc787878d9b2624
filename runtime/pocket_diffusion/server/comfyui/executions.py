"""Graphs that were sent: their jobs, by the names that clients have for them, and who wants to hear of them."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server.jobs import Job, JobQueue, State

_LONGEST_NAME = 100
_HISTORY = 64
"""Graphs that are told of at once; each can be asked for by its name."""
_UPCOMING = 64
"""Graphs that one who listens has still to be told of; whoever does not read misses the oldest."""


@dataclass(frozen=True)
class Execution:
    """One graph on its way."""

    id: str
    number: int
    ends: list[str]
    """The names of the nodes that want its pictures."""
    job: Job
    listener: str
    """Whose websockets hear of it: its client's `client_id`."""

    @property
    def row(self) -> list[Any]:
        """Return what a list of graphs has; the graphs themselves are not kept."""
        return [self.number, self.id, {}, {}, self.ends]

    @property
    def outputs(self) -> dict[str, Any]:
        """Return where the pictures are, by the nodes that want them."""
        pictures = [{"filename": f"{name}.png", "subfolder": "", "type": "output"} for name in self.job.pictures]
        return {end: {"images": pictures} for end in self.ends} if pictures else {}

    @property
    def last_message(self) -> tuple[str, dict[str, Any]]:
        """Return how it ended."""
        about: dict[str, Any] = {"prompt_id": self.id}
        if self.job.state is State.DONE:
            return "execution_success", about
        about |= {"node_id": self.ends[0], "node_type": "KSampler", "executed": []}
        if self.job.state is State.CANCELLED:
            return "execution_interrupted", about
        error = self.job.error
        return "execution_error", {
            **about,
            "exception_type": type(error).__name__,
            "exception_message": str(error),
            "traceback": [],
        }

    @property
    def history(self) -> dict[str, Any]:
        """Return what is told of it once it is over."""
        is_done = self.job.state is State.DONE
        status = {
            "status_str": "success" if is_done else "error",
            "completed": is_done,
            "messages": [["execution_start", {"prompt_id": self.id}], list(self.last_message)],
        }
        return {"prompt": self.row, "outputs": self.outputs, "status": status, "meta": {}}


class Executions:
    """All graphs that are remembered, as long as the queue remembers their jobs. Clients see their own alone."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._by_id: dict[tuple[str, str], Execution] = {}
        """By client and name, the oldest first."""
        self._count = 0
        self._listeners: defaultdict[tuple[str, str], set[asyncio.Queue[Execution]]] = defaultdict(set)
        """By client and `client_id`."""

    def new_id(self, client: str, wanted: str | None) -> str:
        """Return a name for a client's graph: its own, where it sent one.

        Raises:
            InvalidRequestError: the name is taken, or too long.

        """
        if wanted is None:
            return secrets.token_urlsafe(16)
        if not 0 < len(wanted) <= _LONGEST_NAME or (client, wanted) in self._by_id:
            raise InvalidRequestError("the prompt_id is too long, or was used before; send another, or none")
        return wanted

    def add(self, name: str, ends: list[str], job: Job, listener: str) -> Execution:
        """Remember a graph, and tell who listens for it."""
        self._by_id = {key: one for key, one in self._by_id.items() if self._queue.find(one.job.id) is not None}
        self._count += 1
        execution = self._by_id[job.client, name] = Execution(name, self._count, ends, job, listener)
        for upcoming in self._listeners.get((job.client, listener), ()):
            _put(upcoming, execution)
        return execution

    def forget(self, execution: Execution) -> None:
        """Forget a graph that is over, and its pictures."""
        self._queue.forget(execution.job)
        del self._by_id[execution.job.client, execution.id]

    def of(self, client: str) -> list[Execution]:
        """Return a client's graphs, the oldest first."""
        return [one for one in self._by_id.values() if one.job.client == client]

    def find(self, client: str, name: str) -> Execution | None:
        """Return one of a client's graphs."""
        return self._by_id.get((client, name))

    def history(self, client: str, most: int | None = None) -> dict[str, Any]:
        """Return what is told of a client's graphs that are over, the last ones."""
        over = [one for one in self.of(client) if one.job.state.is_final]
        count = min(_HISTORY if most is None else most, len(over))
        return {one.id: one.history for one in over[len(over) - count :]}

    @contextmanager
    def listening(self, client: str, listener: str) -> Iterator[asyncio.Queue[Execution]]:
        """Give graphs as they are sent, and before them those that are not over yet."""
        upcoming: asyncio.Queue[Execution] = asyncio.Queue(_UPCOMING)
        key = client, listener
        for one in self.of(client):
            if one.listener == listener and not one.job.state.is_final:
                _put(upcoming, one)
        self._listeners[key].add(upcoming)
        try:
            yield upcoming
        finally:
            self._listeners[key].remove(upcoming)
            if not self._listeners[key]:
                del self._listeners[key]


def _put(upcoming: asyncio.Queue[Execution], execution: Execution) -> None:
    if upcoming.full():
        upcoming.get_nowait()
    upcoming.put_nowait(execution)
