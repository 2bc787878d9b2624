"""When what happened while a process drew a picture."""

import statistics
import time
from itertools import pairwise
from typing import Any


class Timeline:
    """Moments by name, in seconds since the process was started."""

    def __init__(self, started: float) -> None:
        """Count from `started`: `time.monotonic()`, the clock of the whole system, read before the process started."""
        self.started = started
        self.marks: dict[str, list[float]] = {}

    def mark(self, event: str) -> None:
        """Note that something happens now."""
        self.marks.setdefault(event, []).append(time.monotonic() - self.started)

    def figures(self) -> dict[str, Any]:
        """Return what the benchmarks report, in seconds.

        The median step leaves out the first, during which the system still allots memory.
        """
        first = self.marks["unet begins"][0]
        steps = [end - begin for begin, end in pairwise([first, *self.marks["step ends"]])]
        return {
            "first_step_begins": first,
            "first_step_ends": self.marks["step ends"][0],
            "step": statistics.median(steps[1:] or steps),
            "steps": steps,
            "decode": self.marks["picture"][-1] - self.marks["vae_decoder begins"][0],
            "picture": self.marks["picture"][-1],
            "marks": {event: list(moments) for event, moments in self.marks.items()},
        }
