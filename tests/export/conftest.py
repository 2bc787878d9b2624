"""Handmade checkpoints, as small as the readers accept: most faults show without tracing anything."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from synthetic_checkpoint import Sizes

WORDS = {"a</w>": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of one word."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(WORDS))
    (folder / "merges.txt").write_text("#version: 0.2\n")


@pytest.fixture(scope="session")
def tiny_bundle_cuda(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline, exported for CUDA."""
    from pocket_export.export import export

    return export(tiny_folder, tmp_path_factory.mktemp("cuda") / "bundle", target="cuda").root


@pytest.fixture(scope="session")
def mini_sizes() -> "Sizes":
    from synthetic_checkpoint import Sizes

    return Sizes(
        unet_widths=(32, 64),
        unet_layers=1,
        unet_attention=(True, False),
        context=32,
        vae_widths=(32, 64),
        vae_layers=1,
        vocabulary=len(WORDS),
        text_layers=1,
        text_inner=48,
    )


@pytest.fixture(scope="session")
def _mini_state(mini_sizes: "Sizes") -> dict[str, torch.Tensor]:
    from synthetic_checkpoint import synthetic_state_dict

    return synthetic_state_dict(mini_sizes, seed=1)


@pytest.fixture
def mini_state(_mini_state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a CompVis checkpoint, in a dictionary of the test's own."""
    return dict(_mini_state)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a tokenizer and nothing else, to put a checkpoint into."""
    write_tokenizer(tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A diffusers folder of the test's own; its weights are links, to be replaced and not written to."""

    def link(source: str, target: str) -> None:
        if source.endswith(".safetensors"):
            Path(target).hardlink_to(source)
        else:
            shutil.copy(source, target)

    return shutil.copytree(tiny_folder, tmp_path / "folder", copy_function=link)
