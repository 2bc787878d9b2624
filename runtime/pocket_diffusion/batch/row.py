"""One row of a file of prompts, and the order that it is."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pocket_diffusion.drawing.noise import MAX_SEED
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.files import read_regular
from pocket_diffusion.model.lora import LoraSpec
from pocket_diffusion.order import LoraUse, Order
from pocket_diffusion.text import shortened

KEYS = ("key", "id")
"""Columns that name a row."""
NOT_COLUMNS = {"count": "a row is one picture; repeat the row with other seeds, and leave the column out"}
_LORA = "lora"
_PICTURES = ("image", "mask")
COLUMNS = (*(name for name in Order.__struct_fields__ if name not in ("prompt", *NOT_COLUMNS)), _LORA)
"""What a row may say beside its prompt."""
_LARGEST_PICTURE = 64 * 2**20
_LONGEST_MESSAGE = 500
_OF_SEED = 4
"""Bytes of a hash."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What a row says, as it stands there."""

    number: int
    """From 1, in the order of the file."""
    key: str
    """What it is called; no other row of the file is called so."""
    fields: dict[str, Any] = {}
    """Those of an order."""
    carried: dict[str, Any] = {}
    """Others."""
    error: str | None = None
    """Why it cannot be read, if so."""

    @classmethod
    def of(cls, number: int, key: str, values: Mapping[str, Any], column: str) -> "Row":
        """Sort a row's values; `column` is that of the prompt."""
        fields = {name: value for name, value in values.items() if name in COLUMNS and not _is_missing(value)}
        carried = {name: value for name, value in values.items() if name not in (*COLUMNS, *KEYS, column)}
        if not _is_missing(values.get(column)):
            fields["prompt"] = values[column]
        return cls(number=number, key=key, fields=fields, carried=carried)

    def order(self, usual: Order, seed: int, folder: Path) -> Order:
        """Return what is to be drawn.

        A row without a seed has one that is made of `seed` and its key, and of nothing else: the row is drawn alike
        wherever it stands, and whatever draws it.

        Args:
            usual: what holds where the row says nothing.
            seed: of the whole batch.
            folder: what paths of pictures are relative to; pictures elsewhere are refused.

        Raises:
            InvalidRequestError: something in the row cannot be read; the message says what.

        """
        if self.error is not None:
            raise InvalidRequestError(self.error)
        if not str(self.fields.get("prompt", "")).strip():
            raise InvalidRequestError("the row has no prompt")
        fields: dict[str, Any] = {"seed": seed_of(self.key, seed)}
        for name, value in self.fields.items():
            if name in _PICTURES:
                fields[name] = _picture(name, str(value), folder)
            elif name in ("loras", _LORA) and isinstance(value, str):
                fields["loras"] = [_lora(text) for text in value.split(",")]
            elif name == "guidance_interval" and isinstance(value, str):
                fields[name] = value.split(":")
            else:
                fields[name] = value
        given = {name: getattr(usual, name) for name in usual.__struct_fields__}
        try:
            return msgspec.convert({**given, **fields}, Order, strict=False)  # numbers may be texts
        except msgspec.ValidationError as error:
            raise InvalidRequestError(shortened(str(error).replace("`$.", "`"), _LONGEST_MESSAGE)) from None


def seed_of(key: str, seed: int) -> int:
    """Return the seed of a row that says none: the first bytes of a SHA-256 of the batch's seed and the row's key."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:_OF_SEED]) & MAX_SEED


def _is_missing(value: object) -> bool:
    """Whether a field is empty; Parquet has NaN for numbers that are not there."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _lora(text: str) -> LoraUse:
    spec = LoraSpec.of(text.strip())
    return LoraUse(name=str(spec.path), scale=spec.scale, text_encoder_scale=spec.text_encoder_scale)


def _picture(name: str, text: str, folder: Path) -> bytes:
    try:
        return read_regular(folder / text, _LARGEST_PICTURE, inside=folder)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InvalidRequestError(
            f"the {name} {shortened(text, 200)!r} cannot be read: {why}; it must be a file in the folder of the prompts"
        ) from None
