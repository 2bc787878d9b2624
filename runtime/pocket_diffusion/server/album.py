"""Pictures that stay: a folder of PNGs, each with how it was made, which outlives the server."""

import re
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from pocket_diffusion.drawing.images import METADATA_KEY, make_folder
from pocket_diffusion.errors import OutputError
from pocket_diffusion.result import Result

_NAME = re.compile(r"(\d{8}-\d{6})-\d{1,20}(?:-\d{1,9})?\.png", re.ASCII)
"""Of our own files: when, the seed, and a number where that name was taken. Others are left alone."""
_WHEN = "%Y%m%d-%H%M%S"
_MOST = 500
"""Pictures that are listed, the newest."""


@dataclass(frozen=True)
class Kept:
    """A picture of the folder."""

    name: str
    settings: dict[str, Any]
    """How it was made."""
    created: str
    """ISO 8601, in UTC."""


class Album:
    """Names from outside are matched with the files that are there, and never become paths. Safe in any thread."""

    def __init__(self, folder: Path) -> None:
        """Make the folder, if need be.

        Raises:
            OutputError: it cannot be made.

        """
        make_folder(folder)
        self._folder = folder
        self._writing = threading.Lock()
        self._known: dict[str, Kept] = {}
        """What was read already: files do not change once they are written."""

    def add(self, result: Result) -> list[str]:
        """Write a result's pictures and return their names.

        Raises:
            OutputError: they cannot be written.

        """
        when, names = time.strftime(_WHEN, time.gmtime()), []
        with self._writing:
            make_folder(self._folder)  # it may have vanished
            for index, seed in enumerate(result.seeds):
                number, name = 1, f"{when}-{seed}.png"
                while (self._folder / name).exists():
                    number += 1
                    name = f"{when}-{seed}-{number}.png"
                result.save(self._folder / name, index)
                names.append(name)
        return names

    def pictures(self) -> list[Kept]:
        """Return the newest pictures, the newest first; files that cannot be read are left out."""
        try:
            names = sorted((path.name for path in self._folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)
        except OSError:
            return []
        known = self._known
        self._known = {name: known.get(name) or self._kept(name) for name in names[:_MOST]}
        return [kept for kept in self._known.values() if kept.settings]

    def read(self, name: str) -> bytes | None:
        """Return a picture's file, or None where there is none of that name."""
        try:
            return (self._folder / name).read_bytes() if _NAME.fullmatch(name) else None
        except OSError:
            return None

    def path(self, name: str) -> Path:
        """Return where a picture is that `add` has named."""
        return self._folder.resolve() / name

    def delete(self, name: str) -> bool:
        """Delete a picture, and tell whether it was there."""
        try:
            if _NAME.fullmatch(name):
                (self._folder / name).unlink()
                return True
        except OSError:
            pass
        return False

    def fault(self) -> str | None:
        """Return why no picture can be kept here, if so."""
        try:
            make_folder(self._folder)
        except OutputError as error:
            return str(error)
        return None

    def _kept(self, name: str) -> Kept:
        stamp = _NAME.fullmatch(name)
        try:
            created = datetime.strptime(stamp[1] if stamp else "", _WHEN).replace(tzinfo=UTC).isoformat()
            with Image.open(self._folder / name, formats=["PNG"]) as picture:  # its text comes before its pixels
                settings = msgspec.json.decode(str(picture.info[METADATA_KEY]), type=dict[str, Any])
            msgspec.convert(settings["seed"], int)
        except (OSError, KeyError, ValueError, msgspec.MsgspecError, Image.DecompressionBombError):  # somebody else's
            return Kept(name, {}, "")
        return Kept(name, settings, created)
