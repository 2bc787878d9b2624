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


@dataclass(frozen=True)
class Execution:
    """One graph on its way."""

    id: str
    number: int
    ends: list[str]
    """The names of the nodes that want its pictures."""
    job: Job

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
        self._by_id: dict[str, Execution] = {}
        self._count = 0
        self._listeners: defaultdict[tuple[str, str], set[asyncio.Queue[Execution]]] = defaultdict(set)

    def new_id(self, wanted: str | None) -> str:
        """Return a name for a graph: the client's own, where it sent one.

        Raises:
            InvalidRequestError: the name is taken, or too long.

        """
        if wanted is None:
            return secrets.token_urlsafe(16)
        if not 0 < len(wanted) <= _LONGEST_NAME or wanted in self._by_id:
            raise InvalidRequestError("the prompt_id is too long, or was used before; send another, or none")
        return wanted

    def add(self, name: str, ends: list[str], job: Job, listener: str | None) -> Execution:
        """Remember a graph, and tell who listens for those of its client, by the client's `client_id`."""
        self._by_id = {one.id: one for one in self._by_id.values() if self._queue.find(one.job.id) is not None}
        self._count += 1
        execution = self._by_id[name] = Execution(name, self._count, ends, job)
        for upcoming in self._listeners.get((job.client, listener or ""), ()):
            upcoming.put_nowait(execution)
        return execution

    def forget(self, execution: Execution) -> None:
        """Forget a graph that is over, and its pictures."""
        self._queue.forget(execution.job)
        del self._by_id[execution.id]

    def of(self, client: str) -> list[Execution]:
        """Return a client's graphs, the oldest first."""
        return [one for one in self._by_id.values() if one.job.client == client]

    def find(self, client: str, name: str) -> Execution | None:
        """Return one of a client's graphs."""
        found = self._by_id.get(name)
        return found if found is not None and found.job.client == client else None

    def history(self, client: str) -> dict[str, Any]:
        """Return what is told of a client's graphs that are over lately."""
        over = [one for one in self.of(client) if one.job.state.is_final]
        return {one.id: one.history for one in over[-_HISTORY:]}

    @contextmanager
    def listening(self, client: str, listener: str) -> Iterator[asyncio.Queue[Execution]]:
        """Give graphs as they are sent."""
        upcoming: asyncio.Queue[Execution] = asyncio.Queue()
        key = client, listener
        self._listeners[key].add(upcoming)
        try:
            yield upcoming
        finally:
            self._listeners[key].remove(upcoming)
            if not self._listeners[key]:
                del self._listeners[key]
