"""Drawing rows with what a machine has: in this process, or in several, each with a pipeline of its own."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import islice

from pocket_diffusion.batch.artist import Artist, Drawn, Studio
from pocket_diffusion.batch.row import Row
from pocket_diffusion.machine.cpu import cores
from pocket_diffusion.machine.free_memory import free_memory, own_anonymous_memory
from pocket_diffusion.model.budget import AUTO, MemoryBudget
from pocket_diffusion.model.memory import MODES, Demand, MemoryMode, needed_memory
from pocket_diffusion.order import Order
from pocket_diffusion.pipeline import Pipeline

_UNDER_WAY = 2
"""Rows for each process, so that none waits for its next one."""
_USABLE = 0.8
"""The part of the free memory that is not left to others."""
_DIED = "the process that drew it ended, twice; is there too little memory?"


@dataclass(frozen=True)
class Share:
    """How a machine is shared out among the processes that draw."""

    processes: int
    threads: int
    """Of each."""
    mode: str
    """In which each draws: pictures go by it."""
    limit: int | None
    """Bytes of memory that each may have, if there is a limit."""

    @property
    def memory(self) -> str | MemoryBudget:
        """What each may have, as `Pipeline.load` takes it."""
        return self.mode if self.limit is None else MemoryBudget(self.mode, self.limit)


def fair_share(
    pipeline: Pipeline, usual: Order, memory: MemoryBudget, processes: int | None, threads: int | None
) -> Share:
    """Return how many processes draw, and with what.

    A thread each draws most: threads of one picture wait for each other (benchmarks/README.md, "Processes and
    threads"). So there are as many processes as cores, in the fastest mode that fits; where memory has room for fewer,
    they share the cores. The mode is settled here, once, as pictures go by it.

    Args:
        pipeline: one as they are to have; nothing is loaded yet.
        usual: what most rows ask for.
        memory: what all processes may have together, this one too.
        processes: how many are asked for; each then has one thread, if nothing else is said, so that the pictures are
            the same with any number.
        threads: of each, if asked for.

    """
    asked = processes or max(cores() // (threads or 1), 1)
    fitting = _fitting(pipeline, usual, memory)
    mode = next((mode for mode, most in fitting.items() if most >= asked), None)
    mode = mode or next((mode for mode, most in fitting.items() if most), [*fitting][-1])
    if processes is None:
        processes = max(min(asked, fitting[mode]), 1)
        threads = threads or max(cores() // processes, 1)
    limit = memory.limit
    if limit is not None and processes > 1:
        limit = (limit - own_anonymous_memory()) // processes
    return Share(processes, threads or 1, mode.name, limit)


def _fitting(pipeline: Pipeline, usual: Order, memory: MemoryBudget) -> dict[MemoryMode, int]:
    """Return how many processes there is room for in each mode that may be taken, the fastest first.

    One alone draws in this process. Where memory is not known, there is one, in the mode that it would take.
    """
    manifest, own, free = pipeline.bundle.manifest, own_anonymous_memory(), free_memory()
    rooms = [] if free is None else [int(free * _USABLE)]
    rooms += [] if memory.limit is None else [memory.limit - own]
    demand = Demand.usual(manifest)
    demand = replace(demand, width=usual.width or demand.width, height=usual.height or demand.height)
    fitting = {}
    for mode in MODES.values():
        need = None if pipeline.provider == "cuda" else needed_memory(manifest, mode, demand)
        if need is None or not rooms:
            return {pipeline.components.mode: 1}
        if memory.asked in (AUTO, mode.name):
            fitting[mode] = max(min(rooms) // (need + own), int(need <= min(rooms)))
    return fitting


def draw_here(studio: Studio, rows: Iterable[Row]) -> Generator[Drawn, None, None]:
    """Draw rows one after another in this process.

    Raises:
        PocketDiffusionError: see `Artist.draw`.

    """
    artist = studio.artist()
    for row in rows:
        yield artist.draw(row)


def draw_in_processes(studio: Studio, processes: int, rows: Iterable[Row]) -> Generator[Drawn, None, None]:
    """Draw rows in several processes, and yield them in their order; closed, it waits for those that are under way.

    Where a process dies, those that were under way are tried once more, each alone: any of them may be why.

    Raises:
        PocketDiffusionError: see `Artist.draw`.

    """
    rows = iter(rows)
    while lost := (yield from _draw_in_pool(studio, processes, rows)):
        for row in lost:
            if (yield from _draw_in_pool(studio, 1, iter([row]))):
                yield Drawn(row=row, error=_DIED)


def _draw_in_pool(studio: Studio, processes: int, rows: Iterator[Row]) -> Generator[Drawn, None, list[Row]]:
    """Draw rows until there are no more, or a process dies; return those that were under way then."""
    context = multiprocessing.get_context("spawn")  # threads of ONNX Runtime do not survive a fork
    under_way: deque[tuple[Row, Future[Drawn]]] = deque()
    with ProcessPoolExecutor(processes, context, _begin, (studio,)) as pool:
        try:
            while True:
                room = processes * _UNDER_WAY - len(under_way)
                under_way.extend((row, _submitted(pool, row)) for row in islice(rows, room))
                if not under_way:
                    return []
                if isinstance(under_way[0][1].exception(), BrokenProcessPool):
                    return [row for row, _ in under_way]
                yield under_way.popleft()[1].result()
        finally:
            for _, future in under_way:
                future.cancel()


def _submitted(pool: ProcessPoolExecutor, row: Row) -> "Future[Drawn]":
    try:
        return pool.submit(_draw, row)
    except BrokenProcessPool as error:
        future: Future[Drawn] = Future()
        future.set_exception(error)
        return future


_artist: Artist
"""Of a process that draws."""


def _begin(studio: Studio) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which lets this one finish
    global _artist
    _artist = studio.artist()


def _draw(row: Row) -> Drawn:
    return _artist.draw(row)
