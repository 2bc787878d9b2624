"""Finished pictures: files under names that cannot be guessed, no more of them than are to be kept."""

import secrets
import tempfile
from pathlib import Path

from pocket_diffusion.result import Result


class PictureStore:
    """A temporary folder. Names from outside are looked up, and never become paths."""

    def __init__(self, most: int) -> None:
        """Keep at most so many pictures."""
        self._most = most
        self._folder = tempfile.TemporaryDirectory(prefix="pocket-diffusion-")
        self._paths: dict[str, Path] = {}

    def add(self, result: Result) -> list[str]:
        """Write a result's pictures and return their names; the oldest make room.

        Raises:
            OutputError: they cannot be written.

        """
        names = []
        for index in range(len(result.images)):
            name = secrets.token_urlsafe(16)
            path = Path(self._folder.name, f"{name}.png")
            result.save(path, index)
            self._paths[name] = path
            names.append(name)
        while len(self._paths) > max(self._most, len(names)):
            self._paths.pop(next(iter(self._paths))).unlink(missing_ok=True)
        return names

    def path(self, name: str) -> Path | None:
        """Return where a picture is, or None where it is not there (any more)."""
        return self._paths.get(name)

    def close(self) -> None:
        """Delete all."""
        self._paths.clear()
        self._folder.cleanup()
