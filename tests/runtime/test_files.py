"""Files from strangers are opened only where they are files, and read up to a size."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pocket_diffusion.checkpoint.config_files import read_json
from pocket_diffusion.checkpoint.tensor_file import read_tensor_file
from pocket_diffusion.errors import CheckpointError
from pocket_diffusion.files import leads_out, open_regular, read_regular


def test_a_pipe_does_not_have_us_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Not a regular file"):
        open_regular(tmp_path / "pipe")


def test_what_else_is_no_file_is_refused_by_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nothing")
    with pytest.raises(OSError, match="Not a regular file"):
        open_regular(Path("/dev/zero"))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError):
            open_regular(path)
    assert len(list(descriptors.iterdir())) == before


def test_reads_as_much_as_may_be_there_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"four")
    assert read_regular(path, 4) == b"four"
    with pytest.raises(OSError, match="Over 3 bytes"):
        read_regular(path, 3)


def test_a_link_out_of_a_folder_is_refused_and_one_within_is_followed(tmp_path: Path) -> None:
    folder, inner = tmp_path / "folder", tmp_path / "folder" / "inner"
    inner.mkdir(parents=True)
    (folder / "file").write_bytes(b"a")
    (inner / "within").symlink_to("../file")
    (inner / "out").symlink_to("../../file")
    (tmp_path / "file").write_bytes(b"b")
    assert read_regular(inner / "within", 9, inside=folder) == b"a"
    assert leads_out(inner / "out", folder)
    with pytest.raises(OSError, match="Link out of the folder"):
        read_regular(inner / "out", 9, inside=folder)


@pytest.mark.parametrize(
    ("name", "read"), [("model.ckpt", read_tensor_file), ("config.json", lambda path: read_json(path, "no config"))]
)
def test_a_checkpoint_of_devices_is_refused(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    (tmp_path / name).symlink_to("/dev/null")
    with pytest.raises(CheckpointError, match="Not a regular file"):
        read(tmp_path / name)
