"""Where a data set's files are, as the archives that are about unpack them."""

from pathlib import Path

import pytest

from pocket_diffusion.batch.flickr30k import captions_of, photographs_of
from pocket_diffusion.errors import PictureNotFoundError, PromptsNotFoundError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("captions", "photograph"),
    [
        ("results.csv", "flickr30k_images/1.jpg"),
        ("flickr30k_images/results.csv", "flickr30k_images/flickr30k_images/1.jpg"),
        ("results.csv", "1.jpg"),
        ("flickr30k-images/results.csv", "flickr30k-images/1.jpg"),
    ],
    ids=["photographs below", "nested", "photographs beside", "all in one"],
)
def test_each_layout_is_found(tmp_path: Path, captions: str, photograph: str) -> None:
    file, picture = touch(tmp_path / captions), touch(tmp_path / photograph)
    assert captions_of(tmp_path) == captions_of(file) == file
    assert photographs_of(file) == {"1.jpg": picture}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptsNotFoundError, match=r"has no results\.csv; give the folder"):
        captions_of(tmp_path)
    with pytest.raises(
        PictureNotFoundError, match=r"no photographs \(\.jpg\) .*flickr30k_images or beside results\.csv"
    ):
        photographs_of(touch(tmp_path / "results.csv"))
