"""A reader in a process of its own, whose time and memory are measured and bounded."""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

from peak_memory import memory_now
from pocket_diffusion.errors import PocketDiffusionError

Read = Callable[[bytes], object]
"""Reads an input. `PocketDiffusionError` is a refusal; anything else that is raised is a fault."""

_CALLS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pickle.find_class", "socket.connect")
"""Audit events (PEP 578) of what no file may bring about."""
_FORGET_PEAK = Path("/proc/self/clear_refs")
"""Linux: what is written there has `VmHWM` begin anew (proc(5))."""
_IN_MEMORY = Path("/dev/shm")
"""Linux: a file system in memory. A file that is written anew elsewhere waits for the disk, longer than it is read."""
_SPARE_ADDRESSES = 4 * 2**30
"""Bytes that may be asked for beyond what is there: the machine must outlive what is to be found."""
_LONGEST_MESSAGE = 2000
_BATCH = 16
"""Inputs that are sent at once: on a busy machine, two processes that wait for each other wait for all others too."""


@dataclass(frozen=True)
class Bounds:
    """What one input may take."""

    seconds: float = 10.0
    """Of the processors, so that a busy machine fails nobody."""
    patience: float = 60.0
    """Seconds, in all."""
    memory: int = 10**9
    """Bytes of resident memory, beyond what there is before."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    fault: str | None
    """One line; None where the input was read or refused as it should be."""
    refusal: str | None = None
    """The reader's own message, where it refused the input."""
    seconds: float = 0.0
    """Of the processors."""
    memory: int = 0
    """Bytes that it took at most."""


class BoundedReader:
    """Reads inputs one after another in a child, which is started again where one of them ended it."""

    def __init__(self, make: Callable[[], Read], good: Sequence[bytes], *, calls: bool, bounds: Bounds) -> None:
        """Start nothing yet.

        Args:
            make: returns the reader, in the child, whose working folder is empty and its own.
            good: inputs that it must read, which has it load all that it needs before others are measured.
            calls: whether reading may start processes of its own.
            bounds: of each input.

        """
        self._make = make
        self._good = good
        self._calls = calls
        self._bounds = bounds
        self._child: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        """The child's own."""

    def __enter__(self) -> "BoundedReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def read(self, content: bytes) -> Outcome:
        """Read an input and tell what became of it."""
        ((_, outcome),) = self.read_all([content])
        return outcome

    def read_all(self, contents: Iterable[bytes]) -> Iterator[tuple[bytes, Outcome]]:
        """Read inputs in turn, and yield each with what became of it."""
        contents = iter(contents)
        while batch := list(islice(contents, _BATCH)):
            while batch:
                connection = self._connection or self._start()
                with contextlib.suppress(BrokenPipeError):  # what an earlier input began may end the child at any time
                    connection.send(batch)
                while batch and self._connection is not None:
                    yield batch.pop(0), self._next(connection)

    def _next(self, connection: Connection) -> Outcome:
        """Return what became of the next input of a batch; a child with a fault is ended, and with it the batch."""
        if connection.poll(self._bounds.patience):
            outcome = self._received(connection)
        else:
            outcome = Outcome(f"took longer than {self._bounds.patience:g} s")
        if outcome.fault is not None:
            self._end()  # whatever it left behind is not the next one's
        return outcome

    def _received(self, connection: Connection) -> Outcome:
        try:
            outcome: Outcome = connection.recv()
        except (EOFError, ConnectionResetError):
            assert self._child is not None
            self._child.join()
            return Outcome(f"ended the process: {_ending(self._child.exitcode)}")
        return outcome

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")  # nothing of this process's threads and memory
        connection, theirs = context.Pipe()
        self._folder = tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None)
        arguments = theirs, self._folder.name, self._make, self._good, self._calls, self._bounds
        self._child = context.Process(target=_serve, args=arguments)
        self._child.start()
        theirs.close()
        self._connection = connection
        ready = self._received(connection)
        if ready.fault is not None:
            self._end()
            raise RuntimeError(f"{self._make.__name__} does not read a good input: {ready.fault}")
        return connection

    def _end(self) -> None:
        if self._child is not None and self._connection is not None and self._folder is not None:
            self._connection.close()
            self._child.kill()
            self._child.join()
            self._folder.cleanup()
        self._child = self._connection = self._folder = None


def _ending(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _serve(
    connection: Connection, folder: str, make: Callable[[], Read], good: Sequence[bytes], calls: bool, bounds: Bounds
) -> None:
    """Read what comes, in the child and in a folder that is its own, until the connection is closed."""
    with contextlib.suppress(EOFError, BrokenPipeError):
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # is the parent's, who ends this process
        _silence()
        read = make()
        forbidden: list[str] = []
        if not calls:
            sys.addaudithook(lambda event, _: forbidden.append(event) if event in _CALLS else None)
        outcome = Outcome(None)
        for content in good:
            outcome = _watched(read, content, Bounds(), forbidden)
            if outcome.fault or outcome.refusal:
                outcome = Outcome(outcome.fault or f"it was refused ({outcome.refusal})")
                break
        connection.send(outcome)
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory_now("VmSize") + _SPARE_ADDRESSES, most))
        while True:
            for content in connection.recv():
                connection.send(_watched(read, content, bounds, forbidden))


def _watched(read: Read, content: bytes, bounds: Bounds, forbidden: list[str]) -> Outcome:
    _FORGET_PEAK.write_text("5")
    before, start = memory_now("VmHWM"), time.process_time()
    fault = refusal = None
    try:
        read(content)
    except PocketDiffusionError as error:
        refusal = str(error)[:_LONGEST_MESSAGE]
        if not refusal.isprintable() or len(str(error)) > _LONGEST_MESSAGE:
            fault = f"the message is not one printable line of {_LONGEST_MESSAGE} characters: {refusal[:200]!r}"
        if _asked_for_too_much(error):
            fault = "asked for more memory than there may be, and called that a refusal"
    except BaseException as error:  # SystemExit too is a fault here
        where = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__} at {where.filename}:{where.lineno}: {str(error)[:300]}"
    seconds, memory = time.process_time() - start, memory_now("VmHWM") - before
    if forbidden:
        fault = f"called {', '.join(forbidden)}"
    elif seconds > bounds.seconds:
        fault = fault or f"took {seconds:.1f} s of the processors"
    elif memory > bounds.memory:
        fault = fault or f"took {memory / 1e6:.0f} MB"
    return Outcome(fault and " ".join(fault.split()), refusal, seconds, memory)


def _asked_for_too_much(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _silence() -> None:
    """Send elsewhere what libraries print."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
