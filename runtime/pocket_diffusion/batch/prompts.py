"""Files of prompts, read row by row: what each says, and where it cannot be read, why not."""

import csv
import difflib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import msgspec

from pocket_diffusion.batch.row import COLUMNS, KEYS, NOT_COLUMNS, Row
from pocket_diffusion.errors import InvalidRequestError, PromptsNotFoundError
from pocket_diffusion.extras import need
from pocket_diffusion.files import open_regular
from pocket_diffusion.text import shortened

PROMPT = "prompt"
_FLICKR30K = ["image_name", "comment_number", "comment"]
"""The columns of Flickr30K's `results.csv`, which has ` | ` between them and no quotes."""
_LONGEST_LINE = 2**20
"""Characters."""
_PARQUET_ROWS = 1024
"""Read at once."""
_NAMED = 5
"""How many names a message shows."""

Values = dict[str, Any] | str
"""What a row says by column; or why it cannot be read."""


@dataclass(frozen=True)
class RowsLeft:
    """The rows of a file of prompts whose pictures are not there; read anew by each iteration, here or elsewhere."""

    path: Path
    column: str
    done: frozenset[int]
    """Numbers of the others."""

    def __iter__(self) -> Iterator[Row]:
        """Raise what `read_prompts` raises."""
        return (row for row in read_prompts(self.path, self.column) if row.number not in self.done)


class PromptsWarning(UserWarning):
    """Something in a file of prompts is not as one would expect it."""


def read_prompts(path: Path, column: str = PROMPT) -> Iterator[Row]:
    """Yield the rows of a file of prompts, in bounded memory.

    `.csv` and `.tsv` have their columns' names in the first line, `.jsonl` an object a line, `.txt` a prompt a line;
    `.parquet` needs pyarrow. Flickr30K's `results.csv` is recognised by its columns; the row whose second separator is
    missing there is repaired. Columns are an order's fields; `key` or `id` names a row; others are carried through.

    Args:
        path: the file.
        column: the one that has the prompts.

    Raises:
        PromptsNotFoundError: there is no such file.
        InvalidRequestError: it is of no known kind, or has no column of prompts, or a column or a key twice.

    """
    if path.suffix.lower() not in _READERS:
        raise InvalidRequestError(f"{path}: prompts are read from {', '.join(_READERS)}; choose such a file")
    keys: set[str] = set()
    try:
        for number, values in enumerate(_READERS[path.suffix.lower()](path, column), 1):
            if isinstance(values, str):
                yield Row(number=number, key=str(number), error=values)
                continue
            key = str(next((values[name] for name in KEYS if values.get(name) not in (None, "")), number))
            if key in keys:
                raise InvalidRequestError(
                    f"{path}: row {number} has the key {key!r} of an earlier row; each has its own"
                )
            keys.add(key)
            yield Row.of(number, key, values, column)
    except FileNotFoundError:
        raise PromptsNotFoundError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{path} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be read: {error.strerror or error}") from None


def _table(delimiter: str) -> Callable[[Path, str], Iterator[Values]]:
    """Return what reads rows whose fields are separated so, and may be quoted."""

    def read(path: Path, column: str) -> Iterator[Values]:
        with _opened(path) as file:
            first = file.readline(_LONGEST_LINE)
            if [name.strip() for name in first.split("|")] == _FLICKR30K:
                yield from _flickr30k(path, file)
                return
            file.seek(0)
            lines = csv.reader(file, delimiter=delimiter)
            try:
                names = [name.strip() for name in next(lines, [])]
                _check_columns(path, names, column)
                for fields in lines:
                    if fields:  # else an empty line
                        yield _values(names, fields, lines.line_num)
            except csv.Error as error:
                raise InvalidRequestError(
                    f"{path}, line {lines.line_num}: {error}; is a quote not closed, or the separator another one?"
                ) from None

    return read


def _values(names: Sequence[str], fields: Sequence[str], line: int) -> Values:
    if len(fields) > len(names):
        return f"line {line} has {len(fields)} fields for {len(names)} columns; quote what has the separator in it"
    return {name: field for name, field in zip(names, fields, strict=False) if field != ""}


def _flickr30k(path: Path, lines: TextIO) -> Iterator[Values]:
    """Yield Flickr30K's captions; a row's key is its photograph's name and the number of the caption."""
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("|", 2)]
        if len(fields) == 2 and (repaired := re.fullmatch(r"(\d+)\s+(\S.*)", fields[1])):
            fields[1:] = repaired.groups()
            warnings.warn(
                f"{path}, line {number}: the separator after the caption's number is missing; it was put in",
                PromptsWarning,
                stacklevel=2,
            )
        if len(fields) != 3:
            yield f"line {number} is not `{'| '.join(_FLICKR30K)}`"
            continue
        image, comment, prompt = fields
        yield {"key": f"{image}#{comment}", "image_name": image, "comment_number": comment, PROMPT: prompt}


def _objects(path: Path, column: str) -> Iterator[Values]:
    with _opened(path) as file:
        is_first = True
        for number, line in enumerate(_lines(path, file), 1):
            if not line.strip():
                continue
            try:
                values = msgspec.json.decode(line, type=dict[str, Any])
            except (msgspec.MsgspecError, RecursionError) as error:
                yield f"line {number} is no JSON object: {error}"
                continue
            if is_first:
                _check_columns(path, list(values), column)
                is_first = False
            yield values


def _texts(path: Path, column: str) -> Iterator[Values]:
    with _opened(path) as file:
        for line in _lines(path, file):
            if line.strip():
                yield {column: line.strip()}


def _parquet(path: Path, column: str) -> Iterator[Values]:
    parquet = need("pyarrow.parquet", "batch", f"{path} is Parquet")
    import pyarrow

    try:
        with open_regular(path) as content, parquet.ParquetFile(content) as file:
            _check_columns(path, file.schema_arrow.names, column)
            for batch in file.iter_batches(_PARQUET_ROWS):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise InvalidRequestError(f"{path} cannot be read as Parquet: {error}") from None


_READERS: dict[str, Callable[[Path, str], Iterator[Values]]] = {
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".jsonl": _objects,
    ".parquet": _parquet,
    ".txt": _texts,
}


def _opened(path: Path) -> TextIO:
    import io

    return io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="")


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """Yield lines, none of which a file of strangers can make too long."""
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise InvalidRequestError(f"{path} has a line of over {_LONGEST_LINE:,} characters; is it a text file?")
        yield line


def _check_columns(path: Path, names: Sequence[str], column: str) -> None:
    """Refuse a table without prompts; say which columns look misspelt.

    Raises:
        InvalidRequestError: there is no column of prompts, or a column is there twice, or is none that can be had.

    """
    shown = ", ".join(shortened(name, 60) for name in names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
    if column not in names:
        near = difflib.get_close_matches(column, names, 1) or [name for name in names if name.lower() in _LIKE_PROMPTS]
        hint = f"--prompt-column {near[0]} takes that one" if near else "--prompt-column names another one"
        raise InvalidRequestError(f"{path} has no column {column!r}, but {shown or 'none at all'}; {hint}")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InvalidRequestError(f"{path} has the column {twice[0]!r} twice; take one away")
    for name, why in NOT_COLUMNS.items():
        if name in names:
            raise InvalidRequestError(f"{path}: a column {name!r} cannot be had, as {why}")
    for name in names:
        near = [] if name in (*COLUMNS, *KEYS, column) else difflib.get_close_matches(name, COLUMNS, 1, 0.8)
        if near:
            warnings.warn(
                f"{path}: the column {shortened(name, 60)!r} is carried through and changes nothing; {near[0]!r} would",
                PromptsWarning,
                stacklevel=2,
            )


_LIKE_PROMPTS = ("caption", "captions", "text", "comment", "description", "prompts")
