"""Readers with faults that a fuzzer must find: an input that is not `GOOD` hurts them."""

import os
import signal
import time

from fuzz.bounded import Read
from pocket_diffusion.errors import InvalidRequestError

GOOD = b"good"


def raises() -> Read:
    """Raise what is no refusal."""
    return lambda content: None if content == GOOD else {}[content]


def takes_memory() -> Read:
    """Take 200 MB and give them back."""
    return lambda content: None if content == GOOD else len(b"x" * 200_000_000)


def hides_a_lack_of_memory() -> Read:
    """Ask for more memory than there may be, and call that a refusal."""

    def read(content: bytes) -> None:
        try:
            bytearray(2**45 if content != GOOD else 1)
        except MemoryError:
            raise InvalidRequestError("it is damaged") from None

    return read


def takes_time() -> Read:
    """Compute for a second."""

    def read(content: bytes) -> None:
        end = time.process_time() + 1
        while content != GOOD and time.process_time() < end:
            pass

    return read


def hangs() -> Read:
    """Wait for ever."""
    return lambda content: None if content == GOOD else signal.pause()


def dies() -> Read:
    """End by a signal."""
    return lambda content: None if content == GOOD else os.kill(os.getpid(), signal.SIGSEGV)


def executes() -> Read:
    """Run what an input says."""
    return lambda content: None if content == GOOD else os.system("true")


def babbles() -> Read:
    """Refuse with a message that repeats the input."""

    class LongError(InvalidRequestError):
        def __str__(self) -> str:
            return "a" * 100_000

    def read(content: bytes) -> None:
        if content != GOOD:
            raise LongError

    return read


def refuses() -> Read:
    """Refuse as it should be."""

    def read(content: bytes) -> None:
        if content != GOOD:
            raise InvalidRequestError("it is no picture")

    return read
