"""Pictures become arrays and back; what is written is whole or not there."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocket_diffusion.drawing.images import (
    check_output_format,
    fitting_size,
    save_picture,
    to_array,
    to_mask,
    to_pictures,
)
from pocket_diffusion.drawing.picture_file import read_texts
from pocket_diffusion.errors import InvalidRequestError, OutputError

WHITE, RED = (255, 255, 255), (255, 0, 0)


def half_red(width: int = 16, height: int = 8) -> Image.Image:
    """White, with a red left half."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height))
    return image


@pytest.mark.parametrize(
    ("size", "expected"),
    [((512, 512), (512, 512)), ((515, 391), (512, 384)), ((1, 1), (512, 512)), ((4000, 2000), (720, 360))],
)
def test_the_size_follows_the_picture_near_what_the_model_knows(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fitting_size(Image.new("RGB", size), 512, 512) == expected


def test_a_picture_becomes_an_array_from_minus_one_to_one_and_back() -> None:
    image = half_red()
    array = to_array(image, 16, 8)
    assert (array.shape, array.dtype) == ((1, 3, 8, 16), np.float32)
    assert array[0, :, 4, 2].tolist() == [1, -1, -1]
    np.testing.assert_array_equal(to_pictures(array)[0], image)
    np.testing.assert_array_equal(to_pictures(array * 3)[0], image)  # cut off, not wrapped around


def test_a_mask_is_one_where_it_is_rather_white() -> None:
    mask = Image.new("RGB", (4, 1), (127, 127, 127))
    mask.putpixel((3, 0), (128, 128, 128))
    assert to_mask(mask, 4, 1).tolist() == [[[[0, 0, 0, 1]]]]


@pytest.mark.parametrize("name", ["a.bmp", "a", ".png", "a.png.txt"])
def test_an_unknown_ending_is_refused_with_those_allowed(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"written as \.png, \.jpg, \.jpeg, \.webp; choose such an ending"):
        check_output_format(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.webp", "x" * 250 + ".png"])
def test_pictures_are_written_in_the_format_of_their_ending(tmp_path: Path, name: str) -> None:
    save_picture(half_red(), tmp_path / name, "words", {"seed": 1})
    with Image.open(tmp_path / name) as image:
        assert image.size == (16, 8)
        if name.endswith("png"):
            assert image.text == {"parameters": "words", "pocket-diffusion": '{"seed": 1}'}
    assert read_texts(tmp_path / name)["parameters"] == "words"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).stat().st_mode & 0o077 == 0o044  # like any other file, with the usual umask


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_exif_has_how_it_was_made_as_the_web_ui_writes_it(tmp_path: Path, name: str) -> None:
    save_picture(half_red(), tmp_path / name, "an écu 🏔️", {})
    with Image.open(tmp_path / name) as image:
        assert image.getexif().get_ifd(0x8769)[0x9286] == b"UNICODE\0" + "an écu 🏔️".encode("utf-16-be")
    save_picture(half_red(), tmp_path / name, "a" * 40_000, {})  # more than a JPEG's segment can hold
    assert read_texts(tmp_path / name) == {}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=type)
def test_a_picture_that_cannot_be_finished_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "lake.png"
    path.write_text("older")

    def write_half(_: Image.Image, file: object, **__: object) -> None:
        file.write(b"half")
        raise error

    monkeypatch.setattr(Image.Image, "save", write_half)
    with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
        save_picture(half_red(), path, "", {})
    assert isinstance(caught.value, OSError) == isinstance(error, OSError)
    if isinstance(caught.value, OutputError):
        assert "lake.png cannot be written: No space left on device" in str(caught.value)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("lake.png", "older")]


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_place_that_is_no_folder_is_an_output_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        save_picture(half_red(), tmp_path / folder / "a.png", "", {})
