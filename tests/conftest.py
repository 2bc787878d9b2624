"""What tests share. Nothing here imports PyTorch before a test asks for it: tests/runtime runs without."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from pocket_diffusion.pipeline import DEFAULT_BUNDLE

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# Nothing is timed in a test: on a fresh checkout Hypothesis first builds its tables of characters, for a second.
# Its examples are the same each time: `make fuzz` is for new ones.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

CLIP_FILES = Path(__file__).parent / "data" / "clip"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the embedded bundle, to be damaged."""
    return shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")


@pytest.fixture(scope="session")
def tiny_pipeline() -> "StableDiffusionPipeline":
    """A tiny diffusers pipeline with random weights."""
    from reference import tiny_pipeline

    pipeline = tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_folder(pipeline: "StableDiffusionPipeline", folder: Path) -> Path:
    """Save a diffusers folder with CLIP's two files."""
    pipeline.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(CLIP_FILES / name, folder / "tokenizer" / name)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tiny_pipeline: "StableDiffusionPipeline", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, saved as a diffusers folder with CLIP's two files."""
    return save_folder(tiny_pipeline, tmp_path_factory.mktemp("tiny") / "folder")


@pytest.fixture(scope="session")
def tiny_pipeline_2() -> "StableDiffusionPipeline":
    """A tiny pipeline of Stable Diffusion 2 with random weights, which predicts velocity."""
    from reference import tiny_pipeline_2

    pipeline = tiny_pipeline_2()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def tiny_folder_2(tiny_pipeline_2: "StableDiffusionPipeline", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, saved as a diffusers folder."""
    return save_folder(tiny_pipeline_2, tmp_path_factory.mktemp("tiny2") / "folder")


@pytest.fixture(scope="session")
def tiny_bundle_2(tiny_folder_2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, exported with float32 weights."""
    from exporting import export_unmeasured

    return export_unmeasured(tiny_folder_2, tmp_path_factory.mktemp("tiny2") / "bundle", weights="fp32").root


@pytest.fixture(scope="session")
def tiny_bundle_fp32(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, exported with float32 weights."""
    from pocket_export.export import export

    return export(tiny_folder, tmp_path_factory.mktemp("fp32") / "bundle", weights="fp32").root


@pytest.fixture(scope="session")
def tiny_bundle_fp16(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, exported with the defaults."""
    from pocket_export.export import export

    return export(tiny_folder, tmp_path_factory.mktemp("fp16") / "bundle").root


@pytest.fixture(scope="session")
def tiny_int8_progress() -> list[tuple[str, float]]:
    """What `tiny_bundle_int8`, once it is asked for, says while it is exported."""
    return []


@pytest.fixture(scope="session")
def captions() -> tuple[str, ...]:
    """What 8-bit arithmetic of `tiny_bundle_int8` is measured on."""
    return "A dog runs .", "Two men in a boat .", "A girl's red hat ."


@pytest.fixture(scope="session")
def tiny_bundle_int8(
    tiny_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_int8_progress: list[tuple[str, float]],
    captions: tuple[str, ...],
) -> Path:
    """The same, exported with int8 weights."""
    from pocket_export.export import export

    folder = tmp_path_factory.mktemp("int8")
    prompts = folder / "captions.txt"
    prompts.write_text("\n".join(captions))

    def tell(what: str, done: float) -> None:
        tiny_int8_progress.append((what, done))

    return export(tiny_folder, folder / "bundle", weights="int8", calibration=prompts, on_progress=tell).root
