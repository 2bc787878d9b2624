"""Threads that share networks take turns, and what a turn computes can be cancelled by any other thread."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from pocket_diffusion.errors import Cancelled, PocketDiffusionError


class Cancellation:
    """A wish that a computation end, which any thread may have at any time."""

    def __init__(self) -> None:
        self.reason: PocketDiffusionError | None = None
        """What the computation ends with, once somebody wishes it."""
        self._interrupt: Callable[[], object] | None = None
        self._lock = threading.Lock()

    def cancel(self, reason: PocketDiffusionError | None = None) -> None:
        """Have the computation end soon, with the first reason that is given; without one, with `Cancelled`."""
        with self._lock:
            self.reason = self.reason or reason or Cancelled("the drawing was cancelled; there is no picture")
            if self._interrupt is not None:
                self._interrupt()

    def check(self) -> None:
        """Raise the reason, if there is one."""
        if self.reason is not None:
            raise self.reason

    @contextmanager
    def interrupting(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """Have `interrupt` called, in the thread that cancels, as soon as it does; raise the reason if it has."""
        with self._lock:
            self.check()
            outer, self._interrupt = self._interrupt, interrupt
        try:
            yield
        finally:
            with self._lock:
                self._interrupt = outer

    def wait_for(self, future: "Future[Any]") -> None:
        """Wait until a future is done; raise the reason as soon as there is one."""
        over = threading.Event()
        future.add_done_callback(lambda _: over.set())
        with self.interrupting(over.set):
            over.wait()
        self.check()


class Turns:
    """One thread computes at a time, and the others wait; a thread that has the turn may take it again."""

    def __init__(self) -> None:
        self.cancellation = Cancellation()
        """Ends what is computed in this turn."""
        self._lock = threading.RLock()

    @contextmanager
    def turn(self, cancellation: Cancellation | None = None) -> Iterator[None]:
        """Wait for the turn and have it; `cancellation` is heeded meanwhile, or else the one that was before."""
        with self._lock:
            outer, self.cancellation = self.cancellation, cancellation or self.cancellation
            try:
                yield
            finally:
                self.cancellation = outer
