"""Folders of LoRAs and embeddings: names, and nothing but names, find files."""

from pathlib import Path

import pytest

from pocket_diffusion.bundle import Bundle
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.model.library import Library
from pocket_diffusion.pipeline import DEFAULT_BUNDLE


def test_names_are_those_of_the_files_in_and_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("z.safetensors", "b/style.pt", "b/z.safetensors", "notes.txt", "b/old.CKPT"):
        (tmp_path / name).touch()
    (tmp_path / "x.safetensors").mkdir()
    library = Library(tmp_path)
    found = {name: path.relative_to(tmp_path).as_posix() for name, path in library.loras.items()}
    assert found == {"old": "b/old.CKPT", "style": "b/style.pt", "z": "b/z.safetensors"}
    assert library.embeddings == {}
    (tmp_path / "new.bin").touch()
    assert "new" not in library.loras
    library.refresh()
    assert "new" in library.loras


@pytest.mark.parametrize("name", ["../z", "z.safetensors", "/etc/passwd", "b/style", "Z", ""])
def test_refuses_what_is_no_name_of_the_table(tmp_path: Path, name: str) -> None:
    (tmp_path / "z.safetensors").touch()
    with pytest.raises(InvalidRequestError) as refused:
        Library(tmp_path).find_lora(name)
    assert str(refused.value) == f"LoRA {name!r} is not known; there are 1, such as z"


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"no folder of LoRAs was given \(--lora-folder\)"):
        Library().find_lora("z")
    with pytest.raises(InvalidRequestError, match="the folder of LoRAs has none"):
        Library(tmp_path).find_lora("z")
    with pytest.raises(InvalidRequestError, match=r"the embedding folder .*nowhere is not there; make it"):
        Library(embeddings=tmp_path / "nowhere")


def test_an_embedding_that_went_meanwhile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat.pt").touch()
    library = Library(embeddings=tmp_path)
    (tmp_path / "cat.pt").unlink()
    library.refresh()  # in another thread, while one still walks the old table
    with pytest.raises(InvalidRequestError, match="embedding 'cat' is not in the folder"):
        library.embedding("cat", Bundle.open(DEFAULT_BUNDLE))
