"""Pictures in and out: whatever Pillow reads to RGB, arrays to PNGs that say how they were made."""

import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from pocket_diffusion.errors import InvalidRequestError, OutputError, PictureNotFoundError

Picture = str | os.PathLike[str] | bytes | Image.Image
"""What stands for a picture in the interface: a path, the content of a file, or Pillow's image."""

Found = TypeVar("Found")

INPUT_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
OUTPUT_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_PIXELS = 50_000_000
METADATA_KEY = "pocket-diffusion"


def open_picture(picture: Picture, name: str = "picture") -> Image.Image:
    """Return a still picture as RGB, upright; transparency becomes white.

    Raises:
        InvalidRequestError: not a picture, damaged, animated, too large, or not readable.

    """
    return _open(picture, name, _to_rgb)


def transparency_as_mask(picture: Picture, name: str = "mask") -> Image.Image:
    """Return a mask that is white where a picture is fully transparent: how OpenAI's API marks what to repaint.

    Raises:
        InvalidRequestError: as for `open_picture`; or nothing in it is transparent.

    """
    mask = _open(picture, name, _transparent_to_white)
    if mask.getbbox() is None:
        raise InvalidRequestError(f"the {name} has no fully transparent part; make transparent what is to be repainted")
    return mask


def read_parameters(picture: Picture, name: str = "picture") -> tuple[str, dict[str, str]]:
    """Return the text in which a PNG tells how it was made (empty where it does not), and all texts by their names.

    Raises:
        InvalidRequestError: as for `open_picture`.

    """
    texts = _open(picture, name, _texts)
    return texts.get("parameters", ""), texts


def png_bytes(picture: Image.Image) -> bytes:
    """Return the content of a PNG file, without metadata."""
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _open(picture: Picture, name: str, convert: Callable[[Image.Image], Found]) -> Found:
    """Open a picture by the rules for strangers' files and return what `convert` makes of it."""
    if isinstance(picture, Image.Image):
        try:
            return convert(picture)
        except Exception as error:  # as below: Pillow's pictures may still have to be decoded
            raise InvalidRequestError(f"the {name} is damaged or cannot be converted ({error})") from None
    if not isinstance(picture, str | os.PathLike | bytes):
        raise InvalidRequestError(
            f"the {name} must be a path, a file's bytes or a Pillow image, not {type(picture).__name__}"
        )
    where = f"the {name}" if isinstance(picture, bytes) else f"{Path(picture)}: the {name}"
    try:
        with warnings.catch_warnings():
            # Above its own limit Pillow only warns; MAX_PIXELS, checked before decoding, is the limit here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            source = BytesIO(picture) if isinstance(picture, bytes) else Path(picture)
            with Image.open(source, formats=INPUT_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InvalidRequestError(
                        f"{where} has {image.width} x {image.height} pixels; "
                        f"at most {MAX_PIXELS:,} in all are read; reduce it"
                    )
                frames = getattr(image, "n_frames", 1)
                if frames > 1 and image.format != "MPO":  # in which cameras put a preview beside the photograph
                    raise InvalidRequestError(f"{where} is animated ({frames} frames); give a still one")
                return convert(image)
    except UnidentifiedImageError:
        raise InvalidRequestError(f"{where} is not a picture that can be read ({', '.join(INPUT_FORMATS)})") from None
    except Image.DecompressionBombError:
        raise InvalidRequestError(f"{where} has too many pixels; at most {MAX_PIXELS:,} are read; reduce it") from None
    except FileNotFoundError:
        raise PictureNotFoundError(f"{picture!s}: there is no such {name}") from None
    except InvalidRequestError:
        raise
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, ValueError, struct.error, …
        raise InvalidRequestError(f"{where} is damaged or cannot be read ({error})") from None


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


def save_picture(
    picture: Image.Image, path: Path, parameters: str = "", metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a picture, whole or not at all; a PNG carries `parameters` as text and `metadata` as JSON, where given.

    Raises:
        InvalidRequestError: the file's ending names no format of `OUTPUT_FORMATS`.
        OutputError: the file cannot be written.

    """
    check_output_format(path)
    options: dict[str, Any] = {"format": OUTPUT_FORMATS[path.suffix.lower()]}
    if options["format"] == "PNG":
        info = PngImagePlugin.PngInfo()
        if metadata is not None:
            info.add_itxt("parameters", parameters)
            info.add_itxt(METADATA_KEY, json.dumps(metadata, ensure_ascii=False))
        options["pnginfo"] = info
    else:
        options["quality"] = 95
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".picture-", delete=False) as file:
            temporary = Path(file.name)
            picture.save(file, **options)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # temporary files are private; pictures are like any other file
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it.

    Raises:
        OutputError: that is not possible.

    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be made: {error.strerror}; choose another place with -o") from None


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


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _texts(image: Image.Image) -> dict[str, str]:
    image.load()  # texts may stand behind the picture
    return {str(key): value for key, value in image.info.items() if isinstance(value, str)}


def _transparent_to_white(image: Image.Image) -> Image.Image:
    alpha = ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")
    return alpha.point(lambda level: 255 if level == 0 else 0)


def _to_8_bits(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Bring grey levels of 16 bits (or floats in 0…1) to 8; Pillow would cut off all above 255."""
    full = 1.0 if grey.dtype.kind == "f" and grey.max(initial=0) <= 1 else 65535.0
    levels = np.nan_to_num(grey.astype(np.float32)).clip(0, full)
    levels *= np.float32(255 / full)
    return levels.round(out=levels).astype(np.uint8)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
