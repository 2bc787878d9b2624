"""Pillow's pictures to arrays and back, and to files, which say how they were made."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from PIL.ExifTags import IFD, Base

from pocket_diffusion.drawing.picture_file import UNICODE_COMMENT
from pocket_diffusion.errors import InvalidRequestError, OutputError
from pocket_diffusion.scratch import ScratchFolder

OUTPUT_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
METADATA_KEY = "pocket-diffusion"
QUALITY = 95
"""Of JPEG and WebP where nobody says another."""
_LARGEST_EXIF = 65_533
"""Bytes of a JPEG's segment, without its length: ITU-T T.81, section B.1.1.4."""


def png_bytes(picture: Image.Image) -> bytes:
    """Return the content of a PNG file, without metadata."""
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def fitting_size(picture: Image.Image, width: int, height: int) -> tuple[int, int]:
    """Return the size to draw at when only a picture says it, in multiples of 8.

    The picture's own, if it is not far from the pixel count of `width` x `height` that the model was trained at;
    else its proportions at that pixel count.
    """
    ratio = picture.width * picture.height / (width * height)
    scale = 1.0 if 0.25 <= ratio <= 2.25 else ratio**-0.5
    return max(int(picture.width * scale) // 8 * 8, 64), max(int(picture.height * scale) // 8 * 8, 64)


def to_array(picture: Image.Image, width: int, height: int) -> NDArray[np.float32]:
    """Resize an RGB picture and return `[1, 3, height, width]` in -1…1."""
    resized = picture.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized, np.float32).transpose(2, 0, 1)[None] / np.float32(127.5) - np.float32(1)


def to_mask(picture: Image.Image, width: int, height: int) -> NDArray[np.float32]:
    """Resize a mask and return `[1, 1, height, width]`: 1 where it is rather white (repaint), 0 elsewhere (keep)."""
    resized = picture.resize((width, height), Image.Resampling.LANCZOS).convert("L")
    return (np.asarray(resized)[None, None] >= 127.5).astype(np.float32)


def to_pictures(array: NDArray[np.float32]) -> list[Image.Image]:
    """Turn `[count, 3, height, width]` in -1…1 into pictures; values outside are cut off."""
    levels = ((array / 2 + np.float32(0.5)).clip(0, 1) * 255).round().astype(np.uint8)
    return [Image.fromarray(picture) for picture in levels.transpose(0, 2, 3, 1)]


def file_bytes(
    picture: Image.Image,
    kind: str,
    parameters: str = "",
    metadata: Mapping[str, Any] | None = None,
    quality: int = QUALITY,
) -> bytes:
    """Return the content of a file in one of `OUTPUT_FORMATS`, as `save_picture` writes it; `quality` is 0 to 100."""
    file = BytesIO()
    _write(picture, file, kind, parameters, metadata, quality)
    return file.getvalue()


def save_picture(
    picture: Image.Image, path: Path, parameters: str = "", metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a picture, whole or not at all, with how it was made, where given.

    A PNG carries `parameters` as text and `metadata` as JSON. JPEG and WebP carry `parameters` alone, as EXIF's user
    comment, where AUTOMATIC1111's web UI has it; a text longer than EXIF can be (32,000 characters) is left out.

    Raises:
        InvalidRequestError: the file's ending names no format of `OUTPUT_FORMATS`.
        OutputError: the file cannot be written.

    """
    check_output_format(path)
    try:
        with ScratchFolder(path.parent, "picture") as folder:
            with (folder / path.name).open("wb") as file:
                _write(picture, file, OUTPUT_FORMATS[path.suffix.lower()], parameters, metadata)
                file.flush()
                os.fsync(file.fileno())
            (folder / path.name).replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None


def _write(
    picture: Image.Image,
    file: IO[bytes],
    kind: str,
    parameters: str,
    metadata: Mapping[str, Any] | None = None,
    quality: int = QUALITY,
) -> None:
    options: dict[str, Any] = {}
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        if metadata is not None:
            info.add_itxt("parameters", parameters)
            info.add_itxt(METADATA_KEY, json.dumps(metadata, ensure_ascii=False))
        options["pnginfo"] = info
    else:
        options["quality"] = quality
        if parameters:
            exif = _exif(parameters)
            options["exif"] = exif if len(exif) <= _LARGEST_EXIF else b""
    picture.save(file, format=kind, **options)


def names_picture(path: Path) -> bool:
    """Tell whether a path is that of a picture, by its ending, and not of a folder."""
    return path.suffix.lower() in OUTPUT_FORMATS and not path.is_dir()


def numbered(path: Path, count: int) -> list[Path]:
    """Return a path once for each of several pictures: `lake.png` as `lake-1.png`, `lake-2.png`, …."""
    return [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]


def make_folder(path: Path) -> None:
    """Make a folder, and those above it.

    Raises:
        OutputError: that is not possible.

    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be made: {error.strerror}; choose another place with -o") from None


def _exif(parameters: str) -> bytes:
    """Return EXIF with a user comment (Exif 2.32, section 4.6.5, tag 37510), in UTF-16 as others write it."""
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif)[Base.UserComment] = UNICODE_COMMENT + parameters.encode("utf-16-be")
    return exif.tobytes()


def side_by_side(pictures: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Return pictures of one size in a grid that is about as high as wide; a single one as it is."""
    if len(pictures) == 1:
        return pictures[0]
    columns = math.ceil(len(pictures) ** 0.5)
    width, height = (side + gap for side in pictures[0].size)
    grid = Image.new("RGB", (columns * width - gap, math.ceil(len(pictures) / columns) * height - gap), "white")
    for i, picture in enumerate(pictures):
        grid.paste(picture, (i % columns * width, i // columns * height))
    return grid


def check_output_format(path: Path) -> None:
    """Refuse a file whose ending names no format of `OUTPUT_FORMATS`.

    Raises:
        InvalidRequestError: that is so.

    """
    if path.suffix.lower() not in OUTPUT_FORMATS:
        raise InvalidRequestError(f"{path}: pictures are written as {', '.join(OUTPUT_FORMATS)}; choose such an ending")
