"""Drawing rows with what a machine has: in this process, or in several, each with a pipeline of its own."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice

from pocket_diffusion.batch.artist import Artist, Drawn, Studio
from pocket_diffusion.batch.row import Row
from pocket_diffusion.machine.cpu import cores
from pocket_diffusion.machine.free_memory import free_memory, own_anonymous_memory
from pocket_diffusion.model.budget import AUTO, MemoryBudget
from pocket_diffusion.model.memory import MODES, Demand, needed_memory
from pocket_diffusion.pipeline import Pipeline

_UNDER_WAY = 2
"""Rows for each process, so that none waits for its next one."""
_USABLE = 0.8
"""The part of the free memory that is not left to others."""
_DIED = "the process that drew it ended, twice; is there too little memory?"


@dataclass(frozen=True)
class Share:
    """How a machine is shared out."""

    processes: int
    memory: str
    """Of each, as `Pipeline.load` takes it."""


def fair_share(pipeline: Pipeline, processes: int | None, memory: str) -> Share:
    """Return how many processes draw, and in what memory each: as many as asked for, else as there is room for.

    Processes that all chose by what is free would together take more than that.
    """
    manifest, usual = pipeline.bundle.manifest, Demand.usual(pipeline.bundle.manifest)
    free, mode = free_memory(), pipeline.components.mode
    if processes is None:
        need = (
            None
            if pipeline.provider == "cuda" or memory not in (AUTO, *MODES)
            else needed_memory(manifest, mode, usual)
        )
        room = 1 if need is None or free is None else int(free * _USABLE / need)
        processes = max(1, min(cores() // (pipeline.threads or 1), room))
    elif memory == AUTO and free is not None:
        part = MemoryBudget(limit=own_anonymous_memory() + int(free * _USABLE / processes))
        mode = part.choose(manifest, usual, pipeline.provider).mode
    return Share(processes, mode.name if memory == AUTO else memory)


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
