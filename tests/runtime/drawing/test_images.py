"""Whatever people have as pictures becomes RGB or is refused; what is written is whole or not there."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocket_diffusion.drawing.images import (
    check_output_format,
    fitting_size,
    open_picture,
    save_picture,
    to_array,
    to_mask,
    to_pictures,
)
from pocket_diffusion.errors import InvalidRequestError, OutputError

WHITE, RED = (255, 255, 255), (255, 0, 0)


def half_red(width: int = 16, height: int = 8) -> Image.Image:
    """White, with a red left half."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height))
    return image


def as_cmyk(path: Path) -> None:
    half_red().convert("CMYK").save(path, "TIFF")


def as_palette(path: Path) -> None:
    image = half_red().convert("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.quantize(8).save(path, "PNG")


def as_png(path: Path) -> None:
    half_red().save(path, "PNG")


@pytest.mark.parametrize("write", [as_cmyk, as_palette, as_png])
def test_modes_become_rgb(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "picture")
    image = open_picture(tmp_path / "picture")
    assert (image.mode, image.size) == ("RGB", (16, 8))
    np.testing.assert_allclose(image.getpixel((4, 4)), RED, atol=8)
    np.testing.assert_allclose(image.getpixel((12, 4)), WHITE, atol=8)


def test_transparency_becomes_white(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((3, 3), 1)
    palette.save(tmp_path / "palette.png", transparency=0)
    image = open_picture(tmp_path / "palette.png")
    assert image.getpixel((0, 0)) == WHITE
    assert image.getpixel((3, 3)) == RED
    assert open_picture(Image.new("LA", (2, 2), (0, 0))).getpixel((0, 0)) == WHITE


def test_16_bit_grey_is_scaled_not_cut_off(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 32768, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    assert np.asarray(open_picture(tmp_path / "grey.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_nearly_black_16_bit_grey_stays_black() -> None:
    assert np.asarray(open_picture(Image.fromarray(np.array([[0, 1]], np.uint16)))).max() == 0


def test_float_grey_from_0_to_1_is_scaled() -> None:
    assert np.asarray(open_picture(Image.fromarray(np.float32([[0, 0.5, 1]]))))[0, :, 0].tolist() == [0, 128, 255]


def test_a_picture_turned_by_exif_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    half_red().save(tmp_path / "turned.jpg", exif=exif, quality=95)
    image = open_picture(tmp_path / "turned.jpg")
    assert image.size == (8, 16)
    np.testing.assert_allclose(image.getpixel((4, 2)), RED, atol=30)


def test_a_photograph_with_a_preview_beside_it_is_read(tmp_path: Path) -> None:
    half_red().save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[half_red(8, 4)])
    assert open_picture(tmp_path / "photo.jpg").size == (16, 8)


def animated(path: Path) -> None:
    half_red().save(path, "GIF", save_all=True, append_images=[Image.new("RGB", (16, 8))])


def truncated(path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:1500])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claiming(width: int, height: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)

    return write


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (animated, r"animated \(2 frames\); give a still one"),
        (truncated, "damaged or cannot be read"),
        (claiming(11_000, 10_000), r"11000 x 10000 pixels; at most 50,000,000 .*reduce it"),
        (claiming(60_000, 60_000), r"too many pixels; at most 50,000,000 .*reduce it"),
        (lambda path: path.write_text("hello"), r"not a picture that can be read \(PNG, JPEG"),
        (lambda path: path.write_bytes(b""), "not a picture"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: None, "there is no such mask"),
    ],
    ids=["animated", "truncated", "bomb", "larger bomb", "text", "empty", "folder", "missing"],
)
def test_what_is_no_still_picture_is_refused_before_it_is_decoded(
    tmp_path: Path, write: Callable[[Path], Any], why: str
) -> None:
    path = tmp_path / "picture"
    write(path)
    with pytest.raises(InvalidRequestError, match=why) as caught:
        open_picture(path, "mask")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_opened_picture_that_turns_out_damaged_is_refused(tmp_path: Path) -> None:
    truncated(tmp_path / "picture")
    with Image.open(tmp_path / "picture") as image, pytest.raises(InvalidRequestError, match="damaged"):
        open_picture(image)


@pytest.mark.parametrize("thing", [3, np.zeros((8, 8, 3), np.uint8)])
def test_what_stands_for_no_picture_is_refused(thing: object) -> None:
    with pytest.raises(InvalidRequestError, match="must be a path, a file's bytes or a Pillow image"):
        open_picture(thing)


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
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).stat().st_mode & 0o077 == 0o044  # like any other file, with the usual umask


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


def test_a_missing_picture_is_a_missing_file_too(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        open_picture(tmp_path / "nowhere.png")
    assert isinstance(caught.value, InvalidRequestError)
