"""Finished pictures: files under names that cannot be guessed, no more of them than are to be kept."""

import secrets
import shutil
import tempfile
import weakref
from pathlib import Path

from pocket_diffusion.result import Result


class PictureStore:
    """A temporary folder. Names from outside are looked up, and never become paths."""

    def __init__(self, most: int) -> None:
        """Keep at most so many pictures."""
        self._most = most
        self._folder = Path(tempfile.mkdtemp(prefix="pocket-diffusion-"))
        self._delete = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._paths: dict[str, Path] = {}

    def add(self, result: Result) -> list[str]:
        """Write a result's pictures and return their names; the oldest make room.

        Raises:
            OutputError: they cannot be written.

        """
        names = []
        for index in range(len(result.images)):
            name = secrets.token_urlsafe(16)
            path = self._folder / f"{name}.png"
            result.save(path, index)
            self._paths[name] = path
            names.append(name)
        while len(self._paths) > max(self._most, len(names)):
            self._paths.pop(next(iter(self._paths))).unlink(missing_ok=True)
        return names

    def read(self, name: str) -> bytes | None:
        """Return a picture's file, or None where it is not there (any more)."""
        path = self._paths.get(name)
        try:
            return None if path is None else path.read_bytes()
        except FileNotFoundError:  # made room a moment ago
            return None

    def close(self) -> None:
        """Delete all."""
        self._paths.clear()
        self._delete()
