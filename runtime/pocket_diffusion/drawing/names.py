"""Names that people type: ours, A1111's labels and diffusers' classes, each with spaces and capitals of its own."""

import difflib
import re
import reprlib
from collections.abc import Mapping
from typing import TypeVar

from pocket_diffusion.errors import InvalidRequestError

Row = TypeVar("Row")

LONGEST = 80
"""Characters of a name; comparing takes the square of them."""


def plain(name: str) -> str:
    """Return the spelling that `DPM++ 2M SDE`, `dpm++-2m-sde` and `DPM++_2M_SDE` share."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def look_up(name: object, rows: Mapping[str, Row], noun: str) -> Row:
    """Return the row of a name; `rows` are by their `plain` names, each with the name that we write.

    Raises:
        InvalidRequestError: names those that are nearest.

    """
    key = plain(name) if isinstance(name, str) and len(name) <= LONGEST else ""
    if key in rows:
        return rows[key]
    near = (getattr(rows[match], "name", match) for match in difflib.get_close_matches(key, rows, n=3))
    guess = " or ".join(dict.fromkeys(near))
    hint = f"did you mean {guess}? " if guess else ""
    raise InvalidRequestError(f"{noun} {reprlib.repr(name)} is not known; {hint}`pocket-diffusion samplers` lists all")
