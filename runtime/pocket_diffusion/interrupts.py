"""Ctrl-C on the command line: one line and an exit code, wherever it comes. Imports little, to be there early."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

MESSAGE = "interrupted; nothing half-written was left"
EXIT_CODE = 130  # what shells report for a process ended by Ctrl-C

Handler = Callable[[int, FrameType | None], object]


class Interrupt:
    """Raises KeyboardInterrupt, of which other people's code may make another error; and remembers that it has."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Be called by a signal."""
        self.came = True
        signal.default_int_handler(number, frame)


def end_at_once(_number: int, _frame: FrameType | None) -> None:
    """End the process as it is: for while modules are imported, which lose exceptions, and nothing is being written."""
    os.write(2, f"\nerror: {MESSAGE}\n".encode())
    os._exit(EXIT_CODE)


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Have Ctrl-C call this meanwhile, unless it is ignored, as shells have it for what runs in the background."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
