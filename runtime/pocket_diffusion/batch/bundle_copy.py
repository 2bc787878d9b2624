"""A bundle on its way through Ray's object store: its files are put there once, and unpacked once a node."""

import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocket_diffusion.bundle import sha256_of
from pocket_diffusion.errors import OutputError

if sys.platform != "win32":
    import fcntl


@dataclass(frozen=True)
class StoredFile:
    """A file in the object store."""

    content: Any
    """The reference of its bytes."""
    sha256: str


def put_bundle(ray: Any, root: Path) -> dict[str, StoredFile]:  # noqa: ANN401 - the module
    """Put all files of a bundle, with its add-ons, into the object store; return them by their names."""
    import numpy as np

    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        path.relative_to(root).as_posix(): StoredFile(ray.put(np.fromfile(path, np.uint8)), sha256_of(path))
        for path in paths
    }


def unpacked(ray: Any, files: Mapping[str, StoredFile]) -> Path:  # noqa: ANN401 - the module
    """Return a folder of this machine with the files; they are written unless they are there, as they were put.

    Raises:
        OutputError: they cannot be written.

    """
    names = "\n".join(f"{file.sha256} {name}" for name, file in files.items())
    place = _home() / hashlib.sha256(names.encode()).hexdigest()
    try:
        with place.with_suffix(".lock").open("w") as lock:
            if sys.platform != "win32":
                fcntl.flock(lock, fcntl.LOCK_EX)  # another process of this node may be unpacking them
            if not _is_whole(place, files):
                shutil.rmtree(place, ignore_errors=True)
                for name, file in files.items():
                    (place / name).parent.mkdir(parents=True, exist_ok=True)
                    ray.get(file.content).tofile(place / name)
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror or error}; make room, or set TMPDIR") from None
    if not _is_whole(place, files):
        raise OutputError(f"{place} is not what was sent; is the disk in order?")
    return place


def _is_whole(place: Path, files: Mapping[str, StoredFile]) -> bool:
    return all((place / name).is_file() and sha256_of(place / name) == file.sha256 for name, file in files.items())


def _home() -> Path:
    """Return a folder for temporary files that nobody else can write.

    Raises:
        OutputError: there cannot be one.

    """
    home = Path(tempfile.gettempdir()) / f"pocket-diffusion-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    state = home.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise OutputError(f"{home} is open to others; remove it, or set TMPDIR")
    return home
