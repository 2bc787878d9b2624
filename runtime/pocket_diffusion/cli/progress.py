"""How far a long work is, as its `on_progress` tells it."""

import sys
import time
from typing import Any

import click

_TELLING = 0.05
"""The share of the work before which its pace says nothing."""
_BAR_STEPS = 1000


class WorkProgress:
    """A bar with an estimate of the time left; in a log, where a bar is noise, a line for each thing that is done.

    What follows a colon is how far that thing is, and gets no line of its own. What is said before the work has begun
    stays to be read in both.
    """

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden
        self._started = time.perf_counter()
        self._bar: Any = None
        self._doing = ""

    def __enter__(self) -> "WorkProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def __call__(self, what: str, done: float) -> None:
        """Take what is being done, and the share of the work that is done, 0…1."""
        if self._hidden:
            return
        if done > 0 and sys.stderr.isatty():
            if self._bar is None:
                self._bar = click.progressbar(
                    length=_BAR_STEPS, file=sys.stderr, show_eta=False, item_show_func=lambda shown: shown
                )
            text = what + self._left(done)
            self._bar.update(round(done * _BAR_STEPS) - self._bar.pos, text)
            return
        before, self._doing = self._doing, what.partition(":")[0]
        if done > 0 and self._doing == before:
            return
        passed = time.perf_counter() - self._started
        click.echo(f"{done:4.0%} {passed:6.0f} s  {what}{self._left(done)}", err=True)

    def _left(self, done: float) -> str:
        if not _TELLING <= done < 1:
            return ""
        left = (time.perf_counter() - self._started) * (1 - done) / done
        return f", about {left:.0f} s left"
