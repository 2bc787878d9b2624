"""Flickr30K as it is published: a folder with `results.csv`, and the photographs below it or beside it."""

from pathlib import Path

from pocket_diffusion.errors import PictureNotFoundError, PromptsNotFoundError

RESULTS = "results.csv"
"""The captions, five a photograph, which `read_prompts` reads."""
_FOLDERS = ("flickr30k_images", "flickr30k-images")
"""As the archives that are about name it."""


def captions_of(dataset: Path) -> Path:
    """Return the file of captions of a data set; one that is given itself is returned.

    Raises:
        PromptsNotFoundError: there is none.

    """
    places = (dataset / RESULTS, *(dataset / name / RESULTS for name in _FOLDERS))
    found = dataset if dataset.is_file() else next((place for place in places if place.is_file()), None)
    if found is None:
        raise PromptsNotFoundError(
            f"{dataset} has no {RESULTS}; give the folder that Flickr30K was unpacked to, or the file itself"
        )
    return found


def photographs_of(captions: Path) -> dict[str, Path]:
    """Return the paths of a data set's photographs by name, in the order of the names.

    Raises:
        PictureNotFoundError: there are none.

    """
    for folder in (*(captions.parent / name for name in _FOLDERS), captions.parent):
        found = sorted(folder.glob("*.jpg"))
        if found:
            return {path.name: path for path in found}
    raise PictureNotFoundError(
        f"no photographs (.jpg) are in {captions.parent / _FOLDERS[0]} or beside {captions.name}; unpack them there"
    )
