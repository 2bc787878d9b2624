"""A stranger's picture file, read in a process that can do no harm but end: a decoder's faults and bombs stay in it.

`python -m pocket_diffusion.drawing.picture_process TASK` reads the file from its input, and writes an `Answer`. It
loads little, so that it starts in a tenth of a second.
"""

import contextlib
import os
import signal
import sys
from enum import StrEnum

import msgspec
from PIL import Image

from pocket_diffusion.drawing.picture_file import open_picture, read_texts, transparency_as_mask
from pocket_diffusion.errors import InvalidRequestError

_NICENESS = 10
"""The server's answers to others, and what it draws, come first."""


class Reading(StrEnum):
    """What is wanted of a picture file."""

    PICTURE = "picture"
    TRANSPARENCY = "transparency"
    """As a mask."""
    TEXTS = "texts"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be read, and at what cost at most."""

    reading: Reading
    name: str
    """Of the picture, for messages."""
    longest_side: int
    """Larger pictures are reduced to it."""
    seconds: int
    """Of the processor's time."""
    memory: int
    """Bytes."""


class Pixels(msgspec.Struct, frozen=True, tag=True):
    """A picture or a mask: its rows from the top, without padding."""

    mode: str
    """`RGB`, or `L` of a mask."""
    size: tuple[int, int]
    """Width and height."""
    data: memoryview
    """Of the answer that it came in, which is not copied."""

    @classmethod
    def of(cls, image: Image.Image) -> "Pixels":
        """Return an image's."""
        return cls(image.mode, image.size, memoryview(image.tobytes()))

    @property
    def image(self) -> Image.Image:
        """The image."""
        return Image.frombytes(self.mode, self.size, self.data)


class Texts(msgspec.Struct, frozen=True, tag=True):
    """What a picture says of itself, by name."""

    texts: dict[str, str]


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """Why a picture is not read."""

    message: str


Answer = Pixels | Texts | Refusal


def read(content: bytes, task: Task) -> Answer:
    """Read a picture file's content."""
    try:
        if task.reading is Reading.TEXTS:
            return Texts(read_texts(content, task.name))
        open_it = open_picture if task.reading is Reading.PICTURE else transparency_as_mask
        return Pixels.of(open_it(content, task.name, task.longest_side))
    except InvalidRequestError as error:
        return Refusal(str(error))


def hold_to(task: Task) -> None:
    """Have the system end this process where it takes more than its task allows, if the system can (Windows cannot)."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (task.seconds, task.seconds))
        resource.setrlimit(resource.RLIMIT_AS, (task.memory, task.memory))
        os.nice(_NICENESS)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for the server; this process just ends
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # each thread would set memory aside
    asked = msgspec.json.decode(sys.argv[1], type=Task)
    hold_to(asked)
    sys.stdout.buffer.write(msgspec.msgpack.encode(read(sys.stdin.buffer.read(), asked)))
