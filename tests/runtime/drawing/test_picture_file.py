"""Whatever people have as pictures becomes RGB or is refused, and what is too large before it is decoded."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from pocket_diffusion.bundle import SIDES
from pocket_diffusion.drawing.picture_file import (
    LONGEST_SIDE,
    MAX_SCANS,
    MAX_TEXT,
    open_picture,
    read_texts,
    transparency_as_mask,
)
from pocket_diffusion.errors import InvalidRequestError

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


def with_scans(count: int) -> Callable[[Path], None]:
    """Write a JPEG whose last scan is repeated: each costs a pass over the whole picture, and has few bytes."""

    def write(path: Path) -> None:
        file = BytesIO()
        half_red(64, 64).save(file, "JPEG", progressive=True)
        head, *scans = file.getvalue().removesuffix(b"\xff\xd9").split(b"\xff\xda")
        scans += scans[-1:] * (count - len(scans))
        path.write_bytes(b"\xff\xda".join([head, *scans]) + b"\xff\xd9")

    return write


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
        (animated, r"several frames or pages; give a still one"),
        (with_scans(MAX_SCANS + 1), r"has 65 scans; at most 64 are read"),
        (truncated, "damaged or cannot be read"),
        (claiming(11_000, 10_000), r"11000 x 10000 pixels; at most 50,000,000 .*reduce it"),
        (claiming(1, 43_000_000), r"1 x 43000000 pixels; one side may be at most 32 times the other; crop it"),
        (claiming(60_000, 60_000), r"too many pixels; at most 50,000,000 .*reduce it"),
        (lambda path: path.write_text("hello"), r"not a picture that can be read \(PNG, JPEG"),
        (lambda path: path.write_bytes(b""), "not a picture"),
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: None, "there is no such mask"),
    ],
    ids=["animated", "scans", "truncated", "bomb", "thin", "larger bomb", "text", "empty", "folder", "missing"],
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


def test_pages_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_red().save(tmp_path / "pages.tif", save_all=True, append_images=[half_red()])
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", property(lambda _: pytest.fail("it takes seconds")))
    with pytest.raises(InvalidRequestError, match="several frames or pages"):
        open_picture(tmp_path / "pages.tif")


def test_a_jpeg_of_as_many_scans_as_encoders_make_is_read(tmp_path: Path) -> None:
    with_scans(MAX_SCANS)(tmp_path / "picture")
    assert open_picture(tmp_path / "picture").size == (64, 64)


def test_thin_pictures_of_pillow_are_refused_too() -> None:
    with pytest.raises(InvalidRequestError, match="32 times"):
        open_picture(Image.new("1", (1, 100)))
    assert open_picture(Image.new("1", (2, 64))).size == (2, 64)


def test_pictures_are_reduced_to_the_largest_that_is_drawn() -> None:
    assert SIDES[1] == LONGEST_SIDE
    assert open_picture(Image.new("L", (2 * LONGEST_SIDE, 256))).size == (LONGEST_SIDE, 128)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_reducing_keeps_what_is_shown_in_every_mode(mode: str) -> None:
    picture = half_red(200, 100).getchannel("G").convert("I" if mode == "I;16" else mode).convert(mode)
    whole, reduced = open_picture(picture), open_picture(picture, "picture", 40)
    assert (reduced.mode, reduced.size) == ("RGB", (40, 20))
    assert [reduced.getpixel((x, 10)) for x in (5, 35)] == [whole.getpixel((x, 50)) for x in (25, 175)]
    assert reduced.getpixel((5, 10)) != reduced.getpixel((35, 10))


def test_reducing_a_mask_by_transparency_keeps_what_is_transparent() -> None:
    picture = half_red(200, 100)
    picture.putalpha(half_red(200, 100).getchannel("G"))
    assert np.asarray(transparency_as_mask(picture, "mask", 40))[10, [5, 35]].tolist() == [255, 0]


def test_a_turned_picture_is_upright_when_it_is_reduced(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    half_red(1600, 800).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    image = open_picture(tmp_path / "turned.jpg", "image", 100)
    assert image.size == (50, 100)
    np.testing.assert_allclose(image.getpixel((25, 25)), RED, atol=30)


def test_opening_leaves_pillows_picture_as_it_was() -> None:
    picture = half_red(200, 100)
    picture.getexif()[0x0112] = 6
    open_picture(picture, "picture", 40)
    assert (picture.size, picture.getexif()[0x0112]) == ((200, 100), 6)


def test_a_png_that_says_too_much_is_refused() -> None:
    said = PngImagePlugin.PngInfo()
    for number in range(4):
        said.add_text(f"text {number}", "x" * (MAX_TEXT // 4), zip=True)
    file = BytesIO()
    half_red().save(file, "PNG", pnginfo=said)
    with pytest.raises(InvalidRequestError, match=r"262,\d+ characters of text; at most 262,144 are read"):
        read_texts(file.getvalue())
    assert open_picture(file.getvalue()).size == (16, 8)


def test_a_missing_picture_is_a_missing_file_too(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        open_picture(tmp_path / "nowhere.png")
    assert isinstance(caught.value, InvalidRequestError)
