"""A bundle appears whole or not at all."""

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType

import msgspec

from pocket_diffusion.addon import TINY_VAE, files_of_tiny_vae
from pocket_diffusion.bundle import MANIFEST_NAME, FileRecord, Manifest, TokenizerSpec, read_manifest, sha256_of
from pocket_diffusion.checkpoint.tokenizer_files import TokenizerFiles
from pocket_diffusion.errors import (
    BundleFormatError,
    CheckpointError,
    OutputError,
    OutputExistsError,
    PocketDiffusionError,
)
from pocket_diffusion.scratch import ScratchFolder
from pocket_diffusion.vocabulary import VOCABULARY_NAME, Vocabulary

NEW, OLD = "new", "old"
"""In a scratch folder: what is being made, and what it replaces."""
OnProgress = Callable[[str, float], None]
"""Called with what is being done and the share of the work that is done, 0…1."""


class BundleWriter:
    """A folder beside the output, filled file by file, that takes the output's name when it is complete.

    A second export into the same place is refused, and what a killed one left behind is removed by the next. A bundle
    that is replaced leaves its tiny VAE to one that has none.
    """

    def __init__(self, output: Path, *, force: bool) -> None:
        self._output = output.absolute()
        self._force = force
        self.folder: Path
        """What is filled, once the place is taken."""
        self._scratch: ScratchFolder

    def __enter__(self) -> "BundleWriter":
        """Take the place.

        Raises:
            OutputExistsError: there is something already, or another export is writing there.
            OutputError: the place cannot be written.

        """
        try:
            self._check_output()
            self._scratch = ScratchFolder(self._output.parent, self._output.name, partial(bring_back, self._output))
            try:
                self._check_output()  # a bundle may have come back
                self._check_rival()
                self.folder = self._scratch.path / NEW
                self.folder.mkdir()
            except BaseException:
                self._scratch.remove()
                raise
        except (OutputError, OutputExistsError):
            raise
        except OSError as error:
            raise OutputError(f"{self._output} cannot be written: {error.strerror}; choose another place") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing half-written; tell a full disk from other troubles by its own words."""
        self._scratch.remove()
        if isinstance(error, OSError) and not isinstance(error, PocketDiffusionError):
            reason = error.strerror or f"the disk is full or failing ({error})"  # NumPy gives no error number
            raise OutputError(
                f"{self._output} cannot be written: {reason}; nothing was left there; make room or choose another place"
            ) from error

    def require_space(self, needed: int) -> None:
        """Refuse before the work what would not fit after it.

        Raises:
            OutputError: fewer than `needed` bytes are free.

        """
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OutputError(
                f"{self._output} needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
                "make room or choose another place"
            )

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def write_tokenizer(self, files: TokenizerFiles, max_tokens: int) -> TokenizerSpec:
        """Write a tokenizer's two files, and return how a text encoder that takes `max_tokens` is to use them."""
        spec = TokenizerSpec(
            vocab="tokenizer/vocab.json",
            merges="tokenizer/merges.txt",
            max_tokens=max_tokens,
            start_id=files.start_id,
            end_id=files.end_id,
            pad_id=files.pad_id,
        )
        self.write(spec.vocab, files.vocab)
        self.write(spec.merges, files.merges)
        return spec

    def write_vocabulary(self, vocabulary: Vocabulary | None) -> str | None:
        """Write which words a model knows, if that is told, and return the file's name."""
        if vocabulary is None:
            return None
        self.write(VOCABULARY_NAME, msgspec.json.format(msgspec.json.encode(vocabulary), indent=1) + b"\n")
        return VOCABULARY_NAME

    def records(self, known: Mapping[str, str] = MappingProxyType({})) -> dict[str, FileRecord]:
        """Return the size and sha256 of every file written so far; `known` has those that need not be hashed again.

        An add-on's are its own manifest's.
        """
        names = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}
        names = {name: path for name, path in names.items() if not name.startswith(f"{TINY_VAE}/")}
        return {
            name: FileRecord(size=path.stat().st_size, sha256=known.get(name) or sha256_of(path))
            for name, path in sorted(names.items())
        }

    def publish(self, manifest: Manifest) -> None:
        """Write the manifest last, make sure that all of it is on the disk, and take the output's name.

        Raises:
            CheckpointError: the manifest is none that the runtime would read.
            OutputExistsError: something has appeared there in the meantime.

        """
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        try:
            msgspec.json.decode(content, type=Manifest)  # what the runtime would refuse must not take a name
        except msgspec.ValidationError as error:
            raise CheckpointError(f"the source describes a model that cannot be drawn with: {error}") from None
        self.write(MANIFEST_NAME, content + b"\n")
        if not (self.folder / TINY_VAE).exists():
            copy_tiny_vae(self._output, self.folder)
        sync_folder(self.folder)
        self._check_output()
        take_place(self._scratch.path, self._output)
        _sync(self._output.parent)

    def _check_rival(self) -> None:
        """Refuse a place into which another export is writing."""
        if self._scratch.rival is not None:
            raise OutputExistsError(
                f"another export is writing {self._output}; wait for it, or choose another place; "
                f"if there is none, remove {self._scratch.rival}"
            )

    def _check_output(self) -> None:
        """Refuse an output that exists, but for an empty folder, or a bundle that is to be replaced."""
        if not self._output.parent.is_dir():
            raise OutputError(f"{self._output.parent} is no folder; make it first")
        if not os.path.lexists(self._output):
            return
        if self._output.is_dir() and not self._output.is_symlink() and not any(self._output.iterdir()):
            return
        if not (self._output / MANIFEST_NAME).is_file() or self._output.is_symlink():
            raise OutputExistsError(f"{self._output} exists and is no bundle; choose another place")
        if not self._force:
            raise OutputExistsError(f"{self._output} exists; use --force to replace it, or choose another place")
        try:
            manifest = read_manifest(self._output)
        except BundleFormatError:
            raise OutputExistsError(
                f"{self._output} exists, and its {MANIFEST_NAME} is not one that this version knows; remove it first, "
                "or choose another place"
            ) from None
        try:
            known = {MANIFEST_NAME, *manifest.files, *files_of_tiny_vae(self._output)}
        except BundleFormatError as error:
            raise OutputExistsError(f"{self._output} exists, and {error}") from None
        for path in self._output.rglob("*"):
            name = path.relative_to(self._output).as_posix()
            if not path.is_dir() and name not in known:
                raise OutputExistsError(
                    f"{self._output} holds {name!r}, which is no part of a bundle and would be lost; "
                    "move it away first, or choose another place"
                )


def copy_tiny_vae(bundle: Path, folder: Path) -> None:
    """Copy the tiny VAE of a bundle, if it has one, into another bundle's folder; a damaged one stays as damaged.

    Raises:
        BundleFormatError: see `read_addon`.

    """
    for name in files_of_tiny_vae(bundle):
        if (bundle / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, folder / name)


def take_place(scratch: Path, place: Path) -> None:
    """Rename a scratch folder's `NEW` to a place; what is there becomes its `OLD`, and comes back if that fails."""
    if place.exists():
        place.rename(scratch / OLD)
    try:
        (scratch / NEW).rename(place)
    except OSError:
        bring_back(place, scratch)
        raise


def bring_back(place: Path, scratch: Path) -> None:
    """Rename what `take_place` put aside to its place again, if nothing is there."""
    if (scratch / OLD).exists() and not os.path.lexists(place):
        (scratch / OLD).rename(place)


def sync_folder(folder: Path) -> None:
    """Make sure that a folder and all in it is on the disk."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
