"""Folders of LoRAs and embeddings: what a prompt may name, looked up in tables that are made beforehand."""

import difflib
import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from pocket_diffusion.bundle import Bundle
from pocket_diffusion.checkpoint.tensor_file import WEIGHT_ENDINGS
from pocket_diffusion.errors import CheckpointError, InvalidRequestError
from pocket_diffusion.model.concepts import Concept, read_concept
from pocket_diffusion.model.file_hash import FileState
from pocket_diffusion.model.lora import LoraFile, read_lora

_REMEMBERED = 32
_SUGGESTED = 3
_SHOWN = 60
_log = logging.getLogger(__name__)


class Library:
    """The files of two folders, and of those below them, by their names without endings.

    Names from outside are looked up here and never become paths.
    """

    def __init__(
        self,
        loras: str | PathLike[str] | None = None,
        embeddings: str | PathLike[str] | None = None,
    ) -> None:
        """Take stock of the folders; without one, there is nothing of that kind.

        Raises:
            InvalidRequestError: a folder is not there.

        """
        self._lora_folder = _folder(loras, "LoRA")
        self._embedding_folder = _folder(embeddings, "embedding")
        self.loras: Mapping[str, Path] = {}
        self.embeddings: Mapping[str, Path] = {}
        self._read: dict[str, LoraFile] = {}
        """By name, least recently used first."""
        self.refresh()

    @property
    def has_loras(self) -> bool:
        """Whether there is a folder of LoRAs, though it may be empty."""
        return self._lora_folder is not None

    def refresh(self) -> None:
        """Take stock anew; safe in any thread."""
        self.loras = _files(self._lora_folder)
        self.embeddings = _files(self._embedding_folder)

    def find_lora(self, name: str) -> Path:
        """Return where a LoRA lies.

        Raises:
            InvalidRequestError: the name is not in the table; tells those that are most like it.

        """
        loras = self.loras  # another thread may take stock anew
        path = loras.get(name)
        if path is not None:
            return path
        shown = ascii(name[:_SHOWN])
        if self._lora_folder is None:
            raise InvalidRequestError(f"LoRA {shown} cannot be had: no folder of LoRAs was given (--lora-folder)")
        near = difflib.get_close_matches(name, loras, _SUGGESTED) or sorted(loras)[:_SUGGESTED]
        there = f"there are {len(loras)}, such as {', '.join(near)}" if near else "the folder of LoRAs has none"
        raise InvalidRequestError(f"LoRA {shown} is not known; {there}")

    def lora(self, name: str, bundle: Bundle) -> LoraFile:
        """Read a LoRA; one that was read lately and has not changed is not read again.

        Raises:
            InvalidRequestError: the name is unknown, or the file does not fit, or cannot be read.
            BundleFormatError: the bundle does not tell where its weights lie.

        """
        path = self.find_lora(name)
        try:
            known = self._read.pop(name, None)
            is_current = known is not None and (known.path, known.state) == (path, FileState.of(path))
            lora = known if known is not None and is_current else read_lora(path, bundle)
        except (OSError, CheckpointError) as error:
            _log.warning("LoRA %s: %s", name, error)
            raise InvalidRequestError(f"LoRA {name!a} cannot be read; the log says why") from None
        self._read[name] = lora
        for oldest in list(self._read)[:-_REMEMBERED]:
            self._read.pop(oldest, None)  # another thread may have done so
        return lora

    def embedding(self, name: str, bundle: Bundle) -> Concept:
        """Read an embedding.

        Raises:
            InvalidRequestError: the name is unknown, or the file does not fit, or cannot be read.
            BundleFormatError: see `embedding_width`.

        """
        path = self.embeddings.get(name)
        if path is None:
            raise InvalidRequestError(f"embedding {name[:_SHOWN]!a} is not in the folder")
        try:
            return read_concept(path, bundle)
        except (OSError, CheckpointError) as error:
            raise InvalidRequestError(f"embedding {name!a} cannot be read: {error}") from None


def _folder(given: str | PathLike[str] | None, what: str) -> Path | None:
    if given is None:
        return None
    folder = Path(given)
    if not folder.is_dir():
        raise InvalidRequestError(f"the {what} folder {folder} is not there; make it, or name another")
    return folder


def _files(folder: Path | None) -> dict[str, Path]:
    """Return the files of weights in and below a folder; of two with one name, the first in order of their paths."""
    files: dict[str, Path] = {}
    for path in [] if folder is None else sorted(folder.rglob("*")):
        if path.suffix.lower() in WEIGHT_ENDINGS and path.stem.isprintable() and path.is_file():
            files.setdefault(path.stem, path)
    return files
