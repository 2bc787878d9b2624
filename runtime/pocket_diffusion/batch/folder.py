"""The folder of a batch: pictures, and a journal of what became of each row, which a kill at any moment leaves good."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import msgspec

from pocket_diffusion.batch.artist import Drawn
from pocket_diffusion.batch.row import Row
from pocket_diffusion.drawing.images import make_folder
from pocket_diffusion.errors import InvalidRequestError, OutputError, PocketDiffusionError
from pocket_diffusion.files import read_regular
from pocket_diffusion.scratch import ScratchFolder

IDENTITY, RESULTS, PICTURES = "batch.json", "results.jsonl", "pictures"
_A_FOLDER = 1000
"""Pictures in one folder: some tools take long with more."""
_LONGEST_NAME = 100
_LARGEST_IDENTITY = 2**20


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the pictures of a batch go by. Whatever goes on with it must be the same; the content of `batch.json`."""

    version: str
    """Of this program."""
    prompts: str
    """The SHA-256 of the file."""
    model: str
    """The SHA-256 of the bundle's manifest, which has those of all its files."""
    arithmetic: str
    memory: str
    """The mode: the last bits of a picture go by it, as by the number of threads."""
    threads: int
    options: dict[str, Any]
    """What holds where a row says nothing, and what the pipeline was loaded with, files by their SHA-256."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a row: a line of the journal."""

    row: int
    key: str
    file: str | None = None
    """The picture, relative to the folder; null where there is none."""
    sha256: str | None = None
    size: int | None = None
    """Bytes."""
    seconds: float = 0.0
    settings: dict[str, Any] = {}
    """How the picture was made: an order's fields, and what drew it."""
    carried: dict[str, Any] = {}
    """The row's other columns."""
    warnings: list[str] = []
    error: str | None = None
    """Why there is no picture, if so."""


class BatchFolder:
    """Takes a folder for a batch; a second process is refused while the first one works."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self._identity = identity
        self._drawn: set[int] = set()
        """Numbers of the rows whose pictures are there."""
        self._adapters: dict[str, str] = {}
        """The SHA-256 of each LoRA and embedding that they were drawn with."""
        self._scratch: ScratchFolder
        self._journal: BinaryIO

    def __enter__(self) -> "BatchFolder":
        """Make the folder, or go on with one.

        Raises:
            InvalidRequestError: it is of another batch, or of something else.
            OutputError: it cannot be written, or another process is drawing there.

        """
        make_folder(self.path)
        with self._faults_told():
            self._scratch = ScratchFolder(self.path, "batch")
            try:
                self._take()
            except BaseException:
                self._scratch.remove()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # the disk may be full: what it took of the last line is cut off by whoever goes on
            self._journal.close()
        self._scratch.remove()

    @property
    def drawn(self) -> frozenset[int]:
        """The numbers of the rows whose pictures are there."""
        return frozenset(self._drawn)

    def __len__(self) -> int:
        """How many pictures are there."""
        return len(self._drawn)

    def add(self, drawn: Drawn) -> Record:
        """Write a picture, whole or not at all, and then what became of its row.

        Raises:
            InvalidRequestError: it was drawn with a LoRA or an embedding that others were drawn with, and that has
                changed since.
            OutputError: that is not possible; what was there before stays.

        """
        row = drawn.row
        record = Record(
            row=row.number, key=row.key, seconds=round(drawn.seconds, 3), settings=drawn.settings, carried=row.carried,
            warnings=drawn.warnings, error=drawn.error,
        )  # fmt: skip
        self._check_adapters(record)
        with self._faults_told():
            if drawn.error is None:
                place = place_of(row)
                self._write(drawn.picture, place)
                sha256 = hashlib.sha256(drawn.picture).hexdigest()
                record = msgspec.structs.replace(record, file=place, sha256=sha256, size=len(drawn.picture))
            self._journal.write(msgspec.json.encode(record, enc_hook=str) + b"\n")
            self._journal.flush()
            os.fsync(self._journal.fileno())
        if drawn.error is None:
            self._learn(record)
        return record

    def records(self) -> Iterator[Record]:
        """Yield what became of each row, in their order: of a row that was tried again, the last."""
        places = {}
        with (self.path / RESULTS).open("rb") as journal:
            begin = 0
            for line in journal:
                places[msgspec.json.decode(line, type=Record).row] = begin
                begin += len(line)
            for _, begin in sorted(places.items()):
                journal.seek(begin)
                yield msgspec.json.decode(journal.readline(), type=Record)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Yield where a file is to be written that takes its name in the folder when it is complete.

        Raises:
            OutputError: it cannot be written; what was there before stays.

        """
        scratch = self._scratch.path / Path(name).name
        try:
            with self._faults_told():
                yield scratch
                with scratch.open("rb") as file:
                    os.fsync(file.fileno())
                scratch.replace(self.path / name)
        finally:
            scratch.unlink(missing_ok=True)

    def sort(self) -> None:
        """Bring the journal into the order of the rows.

        Raises:
            OutputError: that is not possible; it stays as it is.

        """
        with self.replacing(RESULTS) as path, path.open("wb") as file:
            for record in self.records():
                file.write(msgspec.json.encode(record) + b"\n")
        self._journal.close()
        self._journal = (self.path / RESULTS).open("ab")

    def _take(self) -> None:
        if self._scratch.rival is not None:
            raise OutputError(
                f"another process is drawing a batch in {self.path}; wait for it, or choose another folder"
            )
        begun = identity_in(self.path)
        if begun is not None:
            self._compare(begun)
        elif any(each != self._scratch.path for each in self.path.iterdir()):
            raise InvalidRequestError(f"{self.path} has other files, and no {IDENTITY}; choose another folder")
        else:
            self._write(msgspec.json.format(msgspec.json.encode(self._identity), indent=1) + b"\n", IDENTITY)
        self._journal = (self.path / RESULTS).open("ab")
        self._read_journal()

    def _compare(self, begun: Identity) -> None:
        """Refuse another batch than the one that was begun here."""
        mine = msgspec.json.decode(msgspec.json.encode(self._identity), type=Identity)  # tuples as lists, likewise
        fields = [name for name in Identity.__struct_fields__ if name != "options"]
        changed = [name for name in fields if getattr(begun, name) != getattr(mine, name)]
        names = sorted({*begun.options, *mine.options})
        changed += [name for name in names if begun.options.get(name) != mine.options.get(name)]
        if changed:
            raise InvalidRequestError(
                f"{self.path} has a batch that differs in: {', '.join(changed)}; give the same again to go on with it, "
                "or choose another folder"
            )

    def _read_journal(self) -> None:
        """Learn what is done; the end of a line that a kill cut off is taken away."""
        path, good = self.path / RESULTS, 0
        with path.open("rb") as journal:
            for line in journal:
                try:
                    record = msgspec.json.decode(line, type=Record)
                except msgspec.MsgspecError:
                    if line.endswith(b"\n"):
                        raise InvalidRequestError(
                            f"{path} was changed by something else; choose another folder for this batch"
                        ) from None
                    break
                if not line.endswith(b"\n"):
                    break
                good += len(line)
                if record.file is not None and self._is_there(record):
                    self._learn(record)
        os.truncate(path, good)

    def _learn(self, record: Record) -> None:
        """Take notice of a picture that is there."""
        self._drawn.add(record.row)
        self._adapters.update(_adapters(record))

    def _check_adapters(self, record: Record) -> None:
        """Refuse a picture that others do not go with: a file in a folder of LoRAs was overwritten meanwhile."""
        for name, sha256 in _adapters(record).items():
            if self._adapters.get(name, sha256) != sha256:
                raise InvalidRequestError(
                    f"{name} is not what it was when pictures in {self.path} were drawn with it; give the file of then "
                    "to go on, or choose another folder"
                )

    def _is_there(self, record: Record) -> bool:
        try:
            return (self.path / str(record.file)).stat().st_size == record.size
        except OSError:
            return False

    def _write(self, content: bytes, name: str) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        with self.replacing(name) as path:
            path.write_bytes(content)

    @contextmanager
    def _faults_told(self) -> Iterator[None]:
        """Have what the disk refuses end in one line that says how to go on."""
        try:
            yield
        except PocketDiffusionError:  # some are an OSError, too
            raise
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written: {error.strerror or error}; {len(self)} pictures are there; make room, "
                "and give the same command to go on"
            ) from None


def _adapters(record: Record) -> dict[str, str]:
    """Return the SHA-256 of each LoRA and embedding that a picture was drawn with, by what they are called."""
    kinds = {"LoRA": "lora_sha256", "embedding": "embedding_sha256"}
    return {
        f"{kind} {name}": sha256
        for kind, setting in kinds.items()
        for name, sha256 in record.settings.get(setting, {}).items()
    }


def identity_in(folder: Path) -> Identity | None:
    """Return what the batch in a folder goes by; None where none was begun.

    Raises:
        InvalidRequestError: that cannot be read.

    """
    path = folder / IDENTITY
    try:
        return msgspec.json.decode(read_regular(path, _LARGEST_IDENTITY), type=Identity)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError):
        raise InvalidRequestError(f"{path} cannot be read; choose another folder for this batch") from None


def place_of(row: Row) -> str:
    """Return where a row's picture lies in the folder: its number, and its key as far as that can be a file's name."""
    name = f"{row.number:06d}"
    if row.key != str(row.number):
        slug = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in row.key)
        name = f"{name}-{slug[:_LONGEST_NAME]}"
    return f"{PICTURES}/{(row.number - 1) // _A_FOLDER:04d}/{name}.png"
