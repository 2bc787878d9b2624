"""Folders for unfinished work: what a killed process left is removed, and nothing else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pocket_diffusion.drawing import images
from pocket_diffusion.scratch import ScratchFolder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_is_gone_at_the_end_also_of_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ScratchFolder(tmp_path, "work") as folder:
        (folder / "half").write_text("half")
        assert names(tmp_path) == {folder.name}
        raise ZeroDivisionError
    assert not names(tmp_path)


def test_one_in_which_work_goes_on_is_told_of_and_kept(tmp_path: Path) -> None:
    with ScratchFolder(tmp_path, "work") as first:
        second = ScratchFolder(tmp_path, "work")
        assert second.rival == first
        assert ScratchFolder(tmp_path, "other").rival is None
        second.remove()
        assert first.exists()


def test_one_that_was_left_is_removed_once_it_was_seen(tmp_path: Path) -> None:
    left = tmp_path / ".work.unfinished-pocket-diffusion-killed"
    (left / "old").mkdir(parents=True)
    for other in (".work.partial", ".picture-abc", ".other.unfinished-pocket-diffusion-killed"):
        (tmp_path / other).mkdir()
    before = names(tmp_path)
    seen: list[set[str]] = []
    scratch = ScratchFolder(tmp_path, "work", lambda folder: seen.append(names(folder)))
    assert seen == [{"old"}]
    assert scratch.rival is None
    scratch.remove()
    assert names(tmp_path) == before - {left.name}


def test_one_that_another_process_took_for_left_behind_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, taken = os.open, []

    def open_after_the_other(path: Path, flags: int) -> int:
        descriptor = opened(path, flags)
        if not taken:
            taken.append(path)
            path.rmdir()
        return descriptor

    monkeypatch.setattr(os, "open", open_after_the_other)
    with ScratchFolder(tmp_path, "work") as folder:
        assert folder.exists()
        assert folder != taken[0]


KILLED = """
import os, signal, sys
from pathlib import Path
from PIL import Image
from pocket_diffusion.drawing.images import save_picture
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
save_picture(Image.new("RGB", (8, 8)), Path(sys.argv[1]))
"""


def test_a_picture_whose_writing_was_killed_leaves_nothing_after_the_next(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "lake.png")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    (tmp_path / ".picture-of-mine").write_text("mine")
    images.save_picture(Image.new("RGB", (8, 8)), tmp_path / "sea.png")
    assert names(tmp_path) == {"sea.png", ".picture-of-mine"}


def test_a_picture_may_be_read_by_whoever_may_read_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        images.save_picture(Image.new("RGB", (8, 8)), tmp_path / "lake.png")
    finally:
        os.umask(before)
    assert (tmp_path / "lake.png").stat().st_mode & 0o777 == 0o640
