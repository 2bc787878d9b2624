"""What became of the rows as a table that other tools read fast."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from pocket_diffusion.batch.folder import BatchFolder, Record
from pocket_diffusion.errors import ExtraMissingError
from pocket_diffusion.extras import need
from pocket_diffusion.order import Order

NAME = "results.parquet"
_ROWS = 4096
"""Written at once."""
_TOLD = {"row": int, "key": str, "file": str, "sha256": str, "size": int, "seconds": float, "error": str}
"""Columns of each row, whatever it asked for."""
_DRAWN_BY = ("version", "model", "task", "arithmetic", "vae", "lora_sha256", "embedding_sha256", "pipeline_loras")
"""What a picture's settings have beside an order's fields."""


def write_table(folder: BatchFolder) -> list[Path]:
    """Write the records of a batch as Parquet; nothing where pyarrow is not installed, which small machines may lack.

    A column that a row carried keeps its name, with `carried_` before it where that name is taken; its values are
    texts. So are settings that are no number and no text: they are in JSON.

    Raises:
        OutputError: it cannot be written.

    """
    try:
        pyarrow = need("pyarrow", "batch", NAME)
        parquet = need("pyarrow.parquet", "batch", NAME)
    except ExtraMissingError:
        return []
    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    settings = _setting_types()
    carried = {name: f"carried_{name}" if name in {**_TOLD, **settings} else name for name in _carried(folder)}
    types = {**_TOLD, **settings, "warnings": str, **dict.fromkeys(carried.values(), str)}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in types.items()])
    records = folder.records()
    with folder.replacing(NAME) as path, parquet.ParquetWriter(path, schema) as writer:
        while rows := [_flat(record, types, carried) for record in islice(records, _ROWS)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    return [folder.path / NAME]


def _setting_types() -> dict[str, type]:
    """Return the type of each setting's column."""
    hints = get_type_hints(Order, {"Picture": bytes})
    types = {name: _plain(hints[name]) for name in Order.__struct_fields__ if name not in ("count", "image", "mask")}
    return {**types, **dict.fromkeys(_DRAWN_BY, str)}


def _plain(hint: Any) -> type:  # noqa: ANN401 - a type of any kind
    """Return the one of int, float and text that holds a field's values."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return next((kind for kind in (int, float, str) if kind in options), str)


def _carried(folder: BatchFolder) -> Iterator[str]:
    """Yield the names of carried columns, each once, as they come."""
    return iter(dict.fromkeys(name for record in folder.records() for name in record.carried))


def _flat(record: Record, types: dict[str, type], carried: dict[str, str]) -> dict[str, Any]:
    values = {
        **{name: getattr(record, name) for name in _TOLD},
        **record.settings,
        "warnings": "\n".join(record.warnings) or None,
        **{carried[name]: value for name, value in record.carried.items()},
    }
    return {name: _fitting(value, types[name]) for name, value in values.items() if name in types and value is not None}


def _fitting(value: Any, kind: type) -> Any:  # noqa: ANN401 - JSON's
    return json.dumps(value, ensure_ascii=False) if kind is str and not isinstance(value, str) else value
