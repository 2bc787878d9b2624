"""One reader and a row of inputs, each made from the seed and its number alone."""

import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from fuzz.bounded import BoundedReader, Bounds, Outcome
from fuzz.targets import Target

CORPUS = Path(__file__).with_name("corpus")
"""A folder for each reader, with inputs that once hurt it."""


@dataclass(frozen=True)
class Finding:
    """An input that a reader did not stand."""

    target: str
    content: bytes
    fault: str

    @property
    def kind(self) -> str:
        """What the same fault of other inputs has in common with this one."""
        return re.sub(r"[0-9]+|'.*", "", self.fault)[:120]

    def keep(self) -> Path:
        """Put the input into the corpus, so that tests fail until it is mended, and return where it is."""
        path = CORPUS / self.target / hashlib.sha256(self.content).hexdigest()[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content)
        return path


@dataclass
class Campaign:
    """What became of a row of inputs."""

    target: Target
    seed: int
    bounds: Bounds = field(default_factory=Bounds)
    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    """Seconds of the processors, of one input."""
    memory: int = 0
    """Bytes, of one input at the most."""

    def corpus(self) -> Iterator[Finding]:
        """Read what is kept, and yield what hurts still."""
        yield from self._read(path.read_bytes() for path in sorted((CORPUS / self.target.name).glob("*")))

    def run(self, *, inputs: int | None = None, seconds: float | None = None) -> Iterator[Finding]:
        """Read so many inputs, or for so long, and yield what hurts."""
        end = None if seconds is None else time.monotonic() + seconds

        def made() -> Iterator[bytes]:
            number = 0
            while (inputs is None or number < inputs) and (end is None or time.monotonic() < end):
                yield self.input(number)
                number += 1

        yield from self._read(made())

    def input(self, number: int) -> bytes:
        """Return the input of a number: the same each time."""
        return self.target.make_inputs().mutator(Random(f"{self.seed} {self.target.name} {number}"))

    def _read(self, contents: Iterator[bytes]) -> Iterator[Finding]:
        target, start = self.target, time.monotonic()
        good = target.make_inputs().good
        with BoundedReader(target.reader, good, calls=target.calls, bounds=self.bounds) as reader:
            for content, outcome in reader.read_all(contents):
                self._count(outcome)
                if outcome.fault is not None:
                    yield Finding(target.name, content, outcome.fault)
        self.seconds += time.monotonic() - start

    def _count(self, outcome: Outcome) -> None:
        self.inputs += 1
        self.refused += outcome.refusal is not None
        self.slowest = max(self.slowest, outcome.seconds)
        self.memory = max(self.memory, outcome.memory)
