"""A process for one picture: what it answers, and that it holds to its limits."""

import signal
import subprocess
import sys
from io import BytesIO

import msgspec
import pytest
from PIL import Image

from pocket_diffusion.drawing import picture_process
from pocket_diffusion.drawing.picture_process import Answer, Pixels, Reading, Refusal, Task, Texts

resource = pytest.importorskip("resource", reason="only Unix holds a process to limits")
TASK = Task(reading=Reading.PICTURE, name="image", longest_side=2048, seconds=30, memory=2**30)


def saved(picture: Image.Image, form: str, **options: object) -> bytes:
    file = BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def read(content: bytes, **changes: object) -> Answer:
    command = [sys.executable, "-m", picture_process.__name__]
    task = msgspec.json.encode(msgspec.structs.replace(TASK, **changes))
    ended = subprocess.run([*command, task], input=content, capture_output=True, check=True, timeout=300)
    return msgspec.msgpack.decode(ended.stdout, type=Answer)


def test_pictures_masks_texts_and_refusals_are_answered() -> None:
    picture = Image.new("RGBA", (64, 32), (255, 0, 0, 0))
    content = saved(picture, "PNG", pnginfo=None)
    assert read(content, longest_side=32) == Pixels("RGB", (32, 16), b"\xff\xff\xff" * 32 * 16)
    assert read(content, reading=Reading.TRANSPARENCY) == Pixels("L", (64, 32), b"\xff" * 64 * 32)
    assert read(content, reading=Reading.TEXTS) == Texts({})
    assert read(b"no picture") == Refusal(
        "the image is not a picture that can be read (PNG, JPEG, WEBP, BMP, GIF, TIFF)"
    )


def test_a_photograph_of_48_megapixels_is_never_whole_in_memory() -> None:
    photograph = saved(Image.new("RGB", (8000, 6000)), "JPEG")
    answer = read(photograph, memory=150 * 2**20)
    assert isinstance(answer, Pixels)
    assert answer.image.size == (2048, 1536)


def test_a_picture_that_takes_too_much_memory_is_refused() -> None:
    content = saved(Image.new("RGB", (8000, 6000)), "PNG", compress_level=1)
    assert read(content, memory=150 * 2**20) == Refusal("the image takes more memory than there is for it; reduce it")


def test_a_process_that_computes_too_long_is_ended_even_without_its_parent() -> None:
    code = f"from {picture_process.__name__} import *; hold_to(Task(**{msgspec.to_builtins(TASK) | {'seconds': 1}}))"
    ended = subprocess.run([sys.executable, "-c", f"{code}\nwhile True: pass"], check=False, timeout=300)
    assert ended.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
