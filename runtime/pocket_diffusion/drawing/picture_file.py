"""Anyone's picture file → RGB, a mask, or what it says of itself: what is too large is refused before it is decoded."""

import os
import re
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TypeVar, cast

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import IFD, Base
from PIL.JpegImagePlugin import JpegImageFile

from pocket_diffusion.errors import InvalidRequestError, PictureNotFoundError

Picture = str | os.PathLike[str] | bytes | Image.Image
"""What stands for a picture in the interface: a path, the content of a file, or Pillow's image."""

Found = TypeVar("Found")

INPUT_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000
MAX_RATIO = 32
"""Of the sides. Thin pictures cost more than their pixels do: a pointer a row, and filters as long as the picture."""
MAX_SCANS = 64
"""Of a JPEG. Each passes over the whole picture, however few bytes it has; encoders make about ten."""
MAX_TEXT = 2**18
"""Characters of all that a picture says of itself. A compressed kilobyte can hold a million."""
UNICODE_COMMENT = b"UNICODE\0"
"""What an EXIF user comment of UTF-16 begins with."""
LONGEST_SIDE = 4096
"""Nothing larger is drawn (`bundle.SIDES`), so larger pictures are reduced when they are opened."""
_SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
"""The head of a JPEG's scan of one to four components: ITU-T T.81, section B.2.3."""


def open_picture(picture: Picture, name: str = "picture", longest_side: int = LONGEST_SIDE) -> Image.Image:
    """Return a still picture as RGB, upright, and reduced to a longest side; transparency becomes white.

    Raises:
        InvalidRequestError: not a picture, damaged, of several frames, too large, too thin, or not readable.

    """
    return _open(picture, name, lambda image: _to_rgb(image, longest_side))


def transparency_as_mask(picture: Picture, name: str = "mask", longest_side: int = LONGEST_SIDE) -> Image.Image:
    """Return a mask that is white where a picture is fully transparent: how OpenAI's API marks what to repaint.

    Raises:
        InvalidRequestError: as for `open_picture`; or nothing in it is transparent.

    """
    mask = _open(picture, name, _transparent_to_white)
    if mask.getbbox() is None:
        raise InvalidRequestError(f"the {name} has no fully transparent part; make transparent what is to be repainted")
    return _reduced(mask, longest_side)


def read_texts(picture: Picture, name: str = "picture") -> dict[str, str]:
    """Return what a picture says of itself, by name; `parameters` is how it was made.

    PNGs have any number of texts; of JPEG and WebP, EXIF's user comment is the `parameters`.

    Raises:
        InvalidRequestError: as for `open_picture`; or it says too much.

    """
    return _open(picture, name, _texts)


def _open(picture: Picture, name: str, convert: Callable[[Image.Image], Found]) -> Found:
    """Open a picture by the rules for strangers' files and return what `convert` makes of it; that may change it."""
    if isinstance(picture, Image.Image):
        _check_size(picture, f"the {name}")
        try:
            return convert(picture.copy())
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
                _check_size(image, where)
                _check_scans(image, where)
                # Counting the frames can take seconds. In an MPO, cameras put a preview beside the photograph.
                if getattr(image, "is_animated", False) and image.format != "MPO":
                    raise InvalidRequestError(f"{where} has several frames or pages; give a still one")
                return convert(image)
    except UnidentifiedImageError:
        raise InvalidRequestError(f"{where} is not a picture that can be read ({', '.join(INPUT_FORMATS)})") from None
    except Image.DecompressionBombError:
        raise InvalidRequestError(f"{where} has too many pixels; at most {MAX_PIXELS:,} are read; reduce it") from None
    except FileNotFoundError:
        raise PictureNotFoundError(f"{picture!s}: there is no such {name}") from None
    except MemoryError:
        raise InvalidRequestError(f"{where} takes more memory than there is for it; reduce it") from None
    except InvalidRequestError:
        raise
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, ValueError, struct.error, …
        raise InvalidRequestError(f"{where} is damaged or cannot be read ({error})") from None


def _check_size(image: Image.Image, where: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InvalidRequestError(
            f"{where} has {width} x {height} pixels; at most {MAX_PIXELS:,} in all are read; reduce it"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InvalidRequestError(
            f"{where} has {width} x {height} pixels; one side may be at most {MAX_RATIO} times the other; crop it"
        )


def _check_scans(image: Image.Image, where: str) -> None:
    if not isinstance(image, JpegImageFile) or image.fp is None:
        return
    image.fp.seek(0)
    scans = len(_SCAN.findall(image.fp.read()))
    if scans > MAX_SCANS:
        raise InvalidRequestError(f"{where} has {scans:,} scans; at most {MAX_SCANS} are read; save it anew")


def _to_rgb(image: Image.Image, longest_side: int) -> Image.Image:
    """Return an image as RGB; each step before it is reduced holds as few copies of it as can be."""
    image.draft(None, _reduced_size(image, longest_side))  # a large JPEG is decoded at a half, a quarter or an eighth
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _to_8_bits(image, longest_side)
    elif image.has_transparency_data and image.mode != "RGBA":
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGB")
    image = _reduced(image, longest_side)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reduced(image: Image.Image, longest_side: int) -> Image.Image:
    size = _reduced_size(image, longest_side)
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)  # by whole numbers first, in less memory


def _reduced_size(image: Image.Image, longest_side: int) -> tuple[int, int]:
    scale = min(longest_side / max(image.size), 1.0)
    return max(round(image.width * scale), 1), max(round(image.height * scale), 1)


def _texts(image: Image.Image) -> dict[str, str]:
    image.load()  # texts may stand behind the picture
    texts = {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}
    comment = image.getexif().get_ifd(IFD.Exif).get(Base.UserComment) if image.format in ("JPEG", "WEBP") else None
    if isinstance(comment, bytes) and comment.startswith(UNICODE_COMMENT):
        texts["parameters"] = comment.removeprefix(UNICODE_COMMENT).decode("utf-16-be", "replace")
    characters = sum(len(key) + len(value) for key, value in texts.items())
    if characters > MAX_TEXT:
        raise InvalidRequestError(f"the picture has {characters:,} characters of text; at most {MAX_TEXT:,} are read")
    return texts


def _transparent_to_white(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    return image.getchannel("A").point(lambda level: 255 if level == 0 else 0)


def _to_8_bits(grey: Image.Image, longest_side: int) -> Image.Image:
    """Bring grey levels of 16 bits (or floats in 0…1) to 8, and reduce them; Pillow would cut off all above 255."""
    import numpy as np  # which takes longer to load than most pictures, in a process for one

    _, highest = grey.getextrema()
    full = 1.0 if grey.mode == "F" and cast(float, highest) <= 1 else 65535.0
    if grey.mode.startswith("I;16"):
        grey = grey.convert("I")
    levels = np.nan_to_num(np.asarray(_reduced(grey, longest_side), np.float32)).clip(0, full)
    return Image.fromarray((levels * np.float32(255 / full)).round().astype(np.uint8))
