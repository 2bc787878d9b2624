"""Folders for unfinished work, whose names are nobody else's; the next process removes what a killed one left."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

if sys.platform != "win32":  # where what a killed process left stays
    import fcntl

_MARK = "unfinished-pocket-diffusion"
_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


class ScratchFolder:
    """A folder for one piece of work; entered, it is the path, and it is removed with all in it at the end.

    It stays locked for as long as the work goes on. One that is not locked was left behind by a killed process.
    """

    def __init__(self, parent: Path, name: str, rescue: Callable[[Path], None] = lambda folder: None) -> None:
        """Make one in `parent`, for work that goes by `name` there.

        Those of that name that were left behind are removed, after `rescue` has taken from each what is worth keeping.

        Raises:
            OSError: it cannot be made.

        """
        prefix = f".{name}.{_MARK}-"
        self.path, self._lock = _make(parent, prefix)
        self.rival: Path | None = None
        """Another folder of that name, in which work goes on; or which cannot be locked where nothing can."""
        with suppress(OSError):  # a folder that must not be listed
            for other in parent.iterdir():
                if other.name.startswith(prefix) and other != self.path and not _cleared(other, rescue):
                    self.rival = other

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it, with all that is still in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _make(parent: Path, prefix: str) -> tuple[Path, int]:
    """Return a new folder and what holds its lock until it is closed."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        if sys.platform == "win32":
            return path, os.open(os.devnull, os.O_RDONLY)
        with suppress(FileNotFoundError):
            lock = os.open(path, _FLAGS)
            with suppress(OSError):  # some network drives know no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():  # else another process took it, not yet locked, for one that was left behind
                return path, lock
            os.close(lock)


def _cleared(path: Path, rescue: Callable[[Path], None]) -> bool:
    """Remove a folder that was left behind, and tell whether none is there where work goes on."""
    if sys.platform == "win32":
        return True
    try:
        lock = os.open(path, _FLAGS)
    except PermissionError:
        return False
    except OSError:  # no folder, or not there any more
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        rescue(path)
        shutil.rmtree(path, ignore_errors=True)
        return True
    finally:
        os.close(lock)
