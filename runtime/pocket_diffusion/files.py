"""Files from strangers, opened only where they are regular files and read only up to a size."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. A pipe would wait for its writer, and a device may have no end.

    Raises:
        OSError: it cannot be opened, or is no regular file.

    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))


def read_regular(path: Path, most: int, *, inside: Path | None = None) -> bytes:
    """Return the content of a file that may have `most` bytes, and must not be a link out of a folder.

    Raises:
        OSError: it cannot be opened, is no regular file, is larger, or lies elsewhere.

    """
    if inside is not None and leads_out(path, inside):
        raise OSError(errno.EXDEV, "Link out of the folder", os.fspath(path))
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"Over {most:,} bytes", os.fspath(path))
    return content


def leads_out(path: Path, folder: Path) -> bool:
    """Tell whether links lead to what lies outside of a folder."""
    return not path.resolve().is_relative_to(folder.resolve())
