"""A sheet that shows a batch at a glance."""

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from pocket_diffusion.batch.folder import BatchFolder, Record

NAME = "contact-sheet.jpg"
_MOST = 100
"""Pictures, evenly from the whole batch."""
_SIDE = 128
"""Pixels of a picture's place."""
_LINE = 16
"""Pixels of the row's number below it."""
_GAP = 6


def write_contact_sheet(folder: BatchFolder) -> list[Path]:
    """Write a sheet of up to a hundred pictures of a batch, each with the number of its row; none where there is none.

    Raises:
        OutputError: it cannot be written.

    """
    drawn = (record for record in folder.records() if record.file is not None)
    places = {i * len(folder) // _MOST for i in range(_MOST)}
    chosen = [record for place, record in enumerate(drawn) if place in places]  # no more of thousands are in memory
    if not chosen:
        return []
    columns = math.ceil(len(chosen) ** 0.5)
    width, height = _SIDE + _GAP, _SIDE + _LINE + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, math.ceil(len(chosen) / columns) * height + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, record in enumerate(chosen):
        left, top = _GAP + i % columns * width, _GAP + i // columns * height
        with Image.open(folder.path / str(record.file)) as picture:
            shown = ImageOps.contain(picture.convert("RGB"), (_SIDE, _SIDE), Image.Resampling.LANCZOS)
        sheet.paste(shown, (left + (_SIDE - shown.width) // 2, top + (_SIDE - shown.height) // 2))
        pen.text((left + _SIDE // 2, top + _SIDE + 2), _label(record), "black", anchor="ma")
    with folder.replacing(NAME) as path:
        sheet.save(path, "JPEG", quality=90)
    return [folder.path / NAME]


def _label(record: Record) -> str:
    return f"row {record.row}"
