"""A bundle appears whole or not at all, and takes no place that is not its own."""

import contextlib
import errno
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file

from exporting import export_unmeasured
from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import MANIFEST_NAME, Bundle, read_manifest
from pocket_diffusion.errors import InvalidRequestError, OutputError, OutputExistsError
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_diffusion.writer import NEW, OLD, BundleWriter
from pocket_export.export import export


@pytest.fixture
def checkpoint(place: Path, mini_state: dict[str, torch.Tensor]) -> Path:
    save_file(mini_state, place / "model.safetensors")
    return place / "model.safetensors"


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Where bundles are put."""
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def unfinished(shelf: Path) -> Path:
    """Return the folder that an export is filling."""
    (folder,) = shelf.glob(f".out.*/{NEW}")
    return folder


def fill(writer: BundleWriter) -> None:
    """Write what makes a whole bundle: the embedded one."""
    manifest = read_manifest(DEFAULT_BUNDLE)
    for name in manifest.files:
        writer.write(name, (DEFAULT_BUNDLE / name).read_bytes())
    writer.publish(manifest)


def put_bundle(output: Path, *, force: bool = False) -> None:
    with BundleWriter(output, force=force) as writer:
        fill(writer)


# Taken places


def test_a_written_bundle_is_whole_and_alone(shelf: Path) -> None:
    put_bundle(shelf / "out")
    assert names(shelf) == {"out"}
    assert not Bundle.open(shelf / "out").damaged_files()


def test_refuses_an_output_that_exists(checkpoint: Path, shelf: Path) -> None:
    put_bundle(shelf / "out")
    before = (shelf / "out" / MANIFEST_NAME).stat()
    with pytest.raises(OutputExistsError, match="exists; use --force to replace it, or choose another place"):
        export(checkpoint, shelf / "out")
    assert (shelf / "out" / MANIFEST_NAME).stat() == before
    assert names(shelf) == {"out"}


@pytest.mark.parametrize("force", [False, True])
def test_never_replaces_a_folder_that_is_no_bundle(checkpoint: Path, shelf: Path, force: bool) -> None:
    (shelf / "out").mkdir()
    (shelf / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists and is no bundle; choose another place"):
        export(checkpoint, shelf / "out", force=force)
    (shelf / "file").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists and is no bundle"):
        export(checkpoint, shelf / "file", force=force)
    (shelf / "link").symlink_to(DEFAULT_BUNDLE)
    with pytest.raises(OutputExistsError, match="exists and is no bundle"):
        export(checkpoint, shelf / "link", force=force)
    assert names(shelf) == {"out", "file", "link"}
    assert (shelf / "out" / "thesis.txt").read_text() == (shelf / "file").read_text() == "mine"


def test_force_does_not_take_any_bundle_json_for_a_bundle(checkpoint: Path, shelf: Path) -> None:
    """Other tools write files of that name too."""
    (shelf / "out").mkdir()
    (shelf / "out" / MANIFEST_NAME).write_text('{"entry": "main.js"}')
    with pytest.raises(
        OutputExistsError, match=r"its bundle\.json is not one that this version knows; remove it first"
    ):
        export(checkpoint, shelf / "out", force=True)
    assert names(shelf / "out") == {MANIFEST_NAME}


def test_force_does_not_delete_what_lies_beside_a_bundle(checkpoint: Path, shelf: Path) -> None:
    put_bundle(shelf / "out")
    (shelf / "out" / "lake.png").write_bytes(b"a picture")
    with pytest.raises(OutputExistsError, match=r"holds 'lake\.png', which is no part of a bundle and would be lost"):
        export(checkpoint, shelf / "out", force=True)
    assert (shelf / "out" / "lake.png").exists()


def test_force_replaces_a_bundle_also_a_damaged_one(shelf: Path) -> None:
    put_bundle(shelf / "out")
    (shelf / "out" / "unet.onnx").unlink()
    put_bundle(shelf / "out", force=True)
    assert names(shelf) == {"out"}
    assert not Bundle.open(shelf / "out").damaged_files()


def test_an_export_that_fails_leaves_the_bundle_that_it_would_replace(checkpoint: Path, shelf: Path) -> None:
    put_bundle(shelf / "out")
    checkpoint.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        export(checkpoint, shelf / "out", force=True)
    assert names(shelf) == {"out"}
    assert not Bundle.open(shelf / "out").damaged_files()


def test_a_bundle_stays_when_the_new_one_cannot_take_its_name(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_bundle(shelf / "out")
    rename = Path.rename

    def fail_on_the_new_one(self: Path, target: Path) -> Path:
        if self.name == NEW:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_the_new_one)
    with pytest.raises(OutputError, match="Input/output error; nothing was left there"):
        put_bundle(shelf / "out", force=True)
    assert names(shelf) == {"out"}
    assert not Bundle.open(shelf / "out").damaged_files()


def test_a_bundle_comes_back_after_a_kill_between_the_two_renames(shelf: Path) -> None:
    put_bundle(shelf / "out")
    left = shelf / ".out.unfinished-pocket-diffusion-killed"
    left.mkdir()
    (shelf / "out").rename(left / OLD)
    with pytest.raises(OutputExistsError, match="use --force"):
        put_bundle(shelf / "out")
    assert names(shelf) == {"out"}
    assert not Bundle.open(shelf / "out").damaged_files()


def test_an_empty_folder_may_be_filled(shelf: Path) -> None:
    (shelf / "out").mkdir()
    put_bundle(shelf / "out")
    assert not Bundle.open(shelf / "out").damaged_files()


# Places that cannot be written


def test_refuses_a_place_below_what_is_no_folder(checkpoint: Path, shelf: Path) -> None:
    (shelf / "file").write_text("")
    for parent in (shelf / "file", shelf / "nowhere"):
        with pytest.raises(OutputError, match=f"{parent} is no folder; make it first"):
            export(checkpoint, parent / "out")
    with pytest.raises(OutputExistsError, match="exists and is no bundle"):
        export(checkpoint, "/")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC], ids=errno.errorcode.get)
def test_refuses_a_place_that_cannot_be_written(
    checkpoint: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match=f"cannot be written: {os.strerror(code)}; choose another place"):
        export(checkpoint, shelf / "out")
    monkeypatch.undo()
    assert not names(shelf)


def test_refuses_a_place_in_a_system_folder(checkpoint: Path) -> None:
    """A real one, which refuses root too."""
    with pytest.raises(OutputError, match=r"/proc/out cannot be written: .*; choose another place"):
        export(checkpoint, "/proc/out")


def test_touches_nothing_whose_name_is_like_that_of_its_temporary_folder(shelf: Path) -> None:
    put_bundle(shelf / "out")
    for name in ("precious", ".out.partial", ".out.replaced"):
        (shelf / name).mkdir()
        (shelf / name / "thesis.txt").write_text("mine")
    (shelf / ".out.unfinished-pocket-diffusion-link").symlink_to(shelf / "precious")
    before = names(shelf)
    put_bundle(shelf / "out", force=True)
    assert names(shelf) == before
    assert all((shelf / name / "thesis.txt").exists() for name in before - {"out"})


def test_refuses_what_would_not_fit_before_the_work(
    checkpoint: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(shelf)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    steps: list[str] = []
    with pytest.raises(OutputError, match=r"needs about 0\.0 GB and 0\.0 GB are free; make room"):
        export(checkpoint, shelf / "out", on_progress=lambda what, _: steps.append(what))
    assert steps == []
    assert not names(shelf)


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_leaves_nothing_on_a_disk_that_fills(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        with pytest.raises(OutputError, match=r"No space left on device; nothing was left there; make room"):
            put_bundle(disk / "out")
        assert not names(disk)


def write_model(folder: Path) -> None:
    """Write as the exporter writes weights."""
    weights = ir.tensor(torch.zeros(1 << 19).numpy(), name="w")
    value = ir.Value(name="w", type=ir.TensorType(weights.dtype), shape=weights.shape, const_value=weights)
    model = ir.Model(ir.Graph([value], [value], nodes=[], initializers=[value], opset_imports={"": 20}), ir_version=9)
    ir.save(model, folder / "unet.onnx", external_data="unet.weights", size_threshold_bytes=1024)


def test_leaves_nothing_where_weights_cannot_be_written_whole(shelf: Path) -> None:
    """The writer of weights is not ours: what it does on a full disk is seen with a limit on the size of files."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (
        pytest.raises(OutputError, match=r"the disk is full or failing .*; nothing was left there"),
        BundleWriter(shelf / "out", force=False) as writer,
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        try:
            write_model(writer.folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not names(shelf)


# Interrupted


def test_ctrl_c_in_the_middle_leaves_nothing(checkpoint: Path, shelf: Path) -> None:
    seen: set[str] = set()

    def interrupt(step: str, _: float) -> None:
        if step.startswith("checking text_encoder"):  # its files are written
            seen.update(names(unfinished(shelf)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, shelf / "out", on_progress=interrupt)
    assert seen == {"text_encoder.onnx", "text_encoder.weights", "text_encoder.layers.json", "tokenizer"}
    assert not names(shelf)


KILLED = """
import os, signal, sys
from pathlib import Path
from pocket_diffusion.writer import BundleWriter
with BundleWriter(Path(sys.argv[1]), force=False) as writer:
    writer.write("tokenizer/half.json", b"half")
    writer.write("half.weights", b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_export_does_not_hinder_the_next(shelf: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(shelf / "out")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names(unfinished(shelf)) == {"half.weights", "tokenizer"}
    put_bundle(shelf / "out")
    assert names(shelf) == {"out"}
    assert set(read_manifest(shelf / "out").files) | {MANIFEST_NAME} == {
        path.relative_to(shelf / "out").as_posix() for path in (shelf / "out").rglob("*") if path.is_file()
    }


KILLED_EXPORT = """
import os, signal, sys
from pathlib import Path
from pocket_export.export import export
source, output = map(Path, sys.argv[1:])
def die(*_):
    if list(output.parent.glob(f".{output.name}.*/*/text_encoder.onnx")):
        os.kill(os.getpid(), signal.SIGKILL)
export(source, output, on_progress=die)
"""


def test_a_second_export_after_a_killed_one_draws(tiny_folder: Path, shelf: Path) -> None:
    """All of it for once: killed in the middle of its work, then again into the same place."""
    command = [sys.executable, "-c", KILLED_EXPORT, tiny_folder, shelf / "out"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert "text_encoder.onnx" in names(unfinished(shelf))

    bundle = export_unmeasured(tiny_folder, shelf / "out")
    assert names(shelf) == {"out"}
    assert not bundle.damaged_files()
    assert bundle.manifest.provenance.source == tiny_folder.name
    result = Pipeline.load(shelf / "out").generate("a lake", steps=1, width=64, height=64, seed=0)
    assert result.images[0].size == (64, 64)


# Two at once


def test_refuses_a_second_export_into_one_place(checkpoint: Path, shelf: Path) -> None:
    refusals: list[str] = []

    def again(step: str, _: float) -> None:
        with pytest.raises(OutputExistsError) as caught:
            export(checkpoint, shelf / "out")
        refusals.append(str(caught.value))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, shelf / "out", on_progress=again)
    (refusal,) = refusals
    assert refusal.startswith(f"another export is writing {shelf / 'out'}; wait for it, or choose another place; ")
    assert not names(shelf)


def _export_in_another_process(output: Path, held: object, go: object) -> None:
    with BundleWriter(output, force=False) as writer:
        held.set()  # type: ignore[attr-defined]
        assert go.wait(300)  # type: ignore[attr-defined]
        fill(writer)


def test_the_first_of_two_processes_finishes(shelf: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, go = context.Event(), context.Event()
    first = context.Process(target=_export_in_another_process, args=(shelf / "out", held, go))
    first.start()
    assert held.wait(300)
    with pytest.raises(OutputExistsError, match="another export is writing"):
        put_bundle(shelf / "out")
    go.set()
    first.join(300)
    assert first.exitcode == 0
    assert names(shelf) == {"out"}
    assert not Bundle.open(shelf / "out").damaged_files()


def test_refuses_a_combination_that_does_not_exist_before_it_takes_the_place(checkpoint: Path, shelf: Path) -> None:
    with pytest.raises(
        InvalidRequestError, match="--target cuda --weights int8 does not exist; there are: --target cpu"
    ):
        export(checkpoint, shelf / "out", target="cuda", weights="int8")
    assert not names(shelf)
