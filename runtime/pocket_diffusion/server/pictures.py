"""Finished pictures: files under names that cannot be guessed, no more of them than are to be kept."""

import os
import secrets
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

from pocket_diffusion.errors import OutputError
from pocket_diffusion.result import Result
from pocket_diffusion.scratch import ScratchFolder

_PIXEL_BYTES = 4
"""More than a PNG takes for one."""
_LEAST_FREE = 2**24
"""Bytes without which the disk counts as full."""


class PictureStore:
    """A temporary folder. Names from outside are looked up, and never become paths.

    A folder that has vanished is made again, without its pictures. Where the disk is full, the oldest pictures make
    room. What a killed server left is removed by the next.
    """

    def __init__(self, most: int) -> None:
        """Keep at most so many pictures.

        Raises:
            OutputError: no folder can be made.

        """
        self._most = most
        self._paths: dict[str, Path] = {}
        """By name, the oldest first."""
        self._making = threading.Lock()
        self._make_folder()

    def make_room(self, pixels: int) -> None:
        """Make sure, before they are drawn, that pictures of so many pixels can be kept; the oldest make room.

        Raises:
            OutputError: they cannot.

        """
        while shutil.disk_usage(self._folder()).free < pixels * _PIXEL_BYTES:
            if not self._drop_older_half():
                raise OutputError(f"the disk of {self._scratch.path} is full; make room there")

    def add(self, result: Result) -> list[str]:
        """Write a result's pictures and return their names; the oldest make room.

        Raises:
            OutputError: they cannot be written.

        """
        while True:
            folder = self._folder()
            paths = {name: folder / f"{name}.png" for name in (secrets.token_urlsafe(16) for _ in result.images)}
            try:
                for index, path in enumerate(paths.values()):
                    result.save(path, index)
                break
            except OutputError:
                for path in paths.values():
                    path.unlink(missing_ok=True)
                if folder.is_dir() and not self._drop_older_half():
                    raise
        self._paths.update(paths)
        self._drop(len(self._paths) - max(self._most, len(paths)))
        return list(paths)

    def read(self, name: str) -> bytes | None:
        """Return a picture's file, or None where it is not there (any more)."""
        path = self._paths.get(name)
        try:
            return None if path is None else path.read_bytes()
        except FileNotFoundError:  # made room a moment ago
            return None

    def path(self, name: str) -> Path | None:
        """Return where a picture is, or None where it is not kept (any more)."""
        return self._paths.get(name)

    def delete(self, name: str) -> None:
        """Delete a picture, if it is there (still)."""
        path = self._paths.pop(name, None)  # in one step, since others may delete it at the same time
        if path is not None:
            path.unlink(missing_ok=True)

    def fault(self) -> str | None:
        """Return why no picture can be kept now, if so."""
        try:
            folder = self._folder()
            free = shutil.disk_usage(folder).free
        except OSError as error:
            return str(error)
        if not os.access(folder, os.W_OK):
            return "the folder of pictures cannot be written to"
        if free < _LEAST_FREE and not self._paths:
            return "the disk of pictures is full"
        return None

    def close(self) -> None:
        """Delete all."""
        self._paths.clear()
        self._delete()

    def _folder(self) -> Path:
        """Return the folder; one that has vanished is made again."""
        with self._making:
            if not self._scratch.path.is_dir():
                self.close()
                self._make_folder()
            return self._scratch.path

    def _make_folder(self) -> None:
        try:
            self._scratch = ScratchFolder(Path(tempfile.gettempdir()), "pictures")
        except OSError as error:
            raise OutputError(
                f"no folder for pictures can be made in {tempfile.gettempdir()}: {error.strerror or error}; make room "
                "there, or name another folder by TMPDIR"
            ) from None
        self._delete = weakref.finalize(self, self._scratch.remove)

    def _drop_older_half(self) -> bool:
        """Delete the older half of the pictures, and tell whether there was any."""
        return self._drop((len(self._paths) + 1) // 2)

    def _drop(self, count: int) -> bool:
        for name in list(self._paths)[: max(count, 0)]:
            self.delete(name)
        return count > 0
