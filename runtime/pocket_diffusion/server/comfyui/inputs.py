"""Pictures that clients upload before the graphs that name them: files in memory, within a limit."""

from collections import Counter

from pocket_diffusion.errors import BusyError, InvalidRequestError
from pocket_diffusion.text import one_line

_MOST_FILES = 1000
_LONGEST_NAME = 100
_SHOWN = 60


class Inputs:
    """Files by client and name. Where they are too many, the oldest of the client that has the most make room."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._files: dict[tuple[str, str], bytes] = {}
        """The oldest first."""

    def add(self, client: str, name: str, content: bytes) -> str:
        """Keep a file and return its name; one of that name is replaced.

        Raises:
            InvalidRequestError: the name is too long.
            BusyError: it alone is more than is kept.

        """
        if not 0 < len(name) <= _LONGEST_NAME:
            raise InvalidRequestError(f"a picture's name has 1 to {_LONGEST_NAME} characters, not {len(name)}")
        if len(content) > self._most_bytes:
            raise BusyError(f"a picture may have {self._most_bytes:,} bytes; reduce it")
        self._files.pop((client, name), None)
        self._files[client, name] = content
        while sum(map(len, self._files.values())) > self._most_bytes or len(self._files) > _MOST_FILES:
            sizes: Counter[str] = Counter()
            for (owner, _), file in self._files.items():
                sizes[owner] += len(file) + self._most_bytes // _MOST_FILES
            largest, _ = sizes.most_common(1)[0]
            del self._files[next(key for key in self._files if key[0] == largest)]
        return name

    def names(self, client: str) -> list[str]:
        """Return the names of a client's files."""
        return [name for owner, name in self._files if owner == client]

    def find(self, client: str, name: str) -> bytes | None:
        """Return a client's file, or None where there is none of that name (any more)."""
        return self._files.get((client, name.removesuffix(" [input]")))

    def read(self, client: str, name: str) -> bytes:
        """Return a client's file.

        Raises:
            InvalidRequestError: there is none of that name (any more).

        """
        content = self.find(client, name)
        if content is None:
            shown = one_line(name, _SHOWN)
            raise InvalidRequestError(f"there is no picture {shown!r} (any more); send it to /upload/image")
        return content
