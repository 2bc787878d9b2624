"""LoRAs and embeddings at run time, with the embedded bundle; tests/export compares with diffusers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from loras import random_lora, write_safetensors
from pocket_diffusion import (
    BundleFormatError,
    CheckpointNotFoundError,
    InvalidRequestError,
    LoraSpec,
    Pipeline,
)
from pocket_diffusion.bundle import CONCEPTS, Bundle
from pocket_diffusion.model.memory import MODES, Demand, needed_memory
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

ASKED: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "seed": 7}


@pytest.fixture(scope="module")
def opened() -> Bundle:
    return Bundle.open(DEFAULT_BUNDLE)


@pytest.fixture
def lora(opened: Bundle, tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "style.safetensors", random_lora(opened))


@pytest.fixture
def embedding(opened: Bundle, tmp_path: Path) -> Path:
    """Two vectors."""
    width = next(spec.shape[1] for spec in opened.manifest.text_encoder.options if spec.name == CONCEPTS)
    vectors = np.random.default_rng(0).normal(size=(2, int(width))).astype(np.float32)
    return write_safetensors(tmp_path / "CatStyle.safetensors", {"emb_params": vectors})


@pytest.fixture
def pipe() -> Iterator[Pipeline]:
    with Pipeline.load(provider="cpu", arithmetic="exact") as pipe:
        yield pipe


def latents(pipe: Pipeline, prompt: str = "a lake", **asked: Any) -> NDArray[np.float32]:  # noqa: ANN401 - an order's fields
    return pipe.generate(prompt, **{**ASKED, **asked}).latents


def test_a_lora_is_taken_away_without_a_trace(pipe: Pipeline, lora: Path) -> None:
    before = latents(pipe)
    context = pipe.encode_prompt("a lake")
    pipe.set_loras([LoraSpec(lora, 0.5)])
    assert np.abs(latents(pipe) - before).max() > 0.01
    assert np.abs(pipe.encode_prompt("a lake") - context).max() > 0.01  # what was encoded before is forgotten
    pipe.set_loras([LoraSpec(lora, 0.0)])
    assert np.array_equal(latents(pipe), before)
    pipe.set_loras([f"{lora}:0.5"])
    pipe.set_loras([])
    assert np.array_equal(latents(pipe), before)
    assert np.array_equal(pipe.encode_prompt("a lake"), context)


def test_all_memory_modes_draw_the_same_with_a_lora(lora: Path) -> None:
    drawn = []
    for mode in MODES:
        with Pipeline.load(provider="cpu", arithmetic="exact", memory=mode, loras=[lora]) as pipe:
            drawn += [latents(pipe), latents(pipe)]
    for other in drawn[1:]:
        np.testing.assert_allclose(
            other, drawn[0], rtol=1e-4, atol=1e-3
        )  # guidance apart or together sums in another order


def test_what_is_wrong_with_a_lora_leaves_the_pipeline_as_it_was(pipe: Pipeline, lora: Path, tmp_path: Path) -> None:
    pipe.set_loras([lora])
    before = latents(pipe)
    with pytest.raises(CheckpointNotFoundError, match="nowhere"):
        pipe.set_loras([tmp_path / "nowhere.safetensors"])
    bad = write_safetensors(
        tmp_path / "bad.safetensors", {"lora_unet_what.lora_up.weight": np.ones((1, 1), np.float32)}
    )
    with pytest.raises(InvalidRequestError, match="LoRA bad: this model has no layer for lora_unet_what"):
        pipe.set_loras([lora, bad])
    assert np.array_equal(latents(pipe), before)


def test_refuses_weights_that_are_more_than_their_storage_holds(pipe: Pipeline, opened: Bundle, tmp_path: Path) -> None:
    tensors = {name: array * np.float32(1e25) for name, array in random_lora(opened, components=["unet"]).items()}
    pipe.set_loras([write_safetensors(tmp_path / "loud.safetensors", tensors)])
    with pytest.raises(InvalidRequestError, match=r"LoRA loud: in .*\.to_[qv]\.weight, .*; lower the scale"):
        latents(pipe)


def test_memory_that_changed_weights_take_is_counted(pipe: Pipeline, lora: Path, opened: Bundle) -> None:
    pipe.set_loras([lora])
    changed = pipe.components._changed
    table = opened.layers("unet").layers
    layers = [layer for name, layer in table.items() if name.endswith(("to_q.weight", "to_v.weight"))]
    assert changed["unet"] == sum(layer.bytes_of(stored) for layer in layers for stored in layer.stored)
    plain = Demand(width=128, height=128, guided=True, from_picture=False)
    more = Demand(width=128, height=128, guided=True, from_picture=False, changed_weights={"unet": 10**9})
    for mode in MODES.values():
        before, after = (needed_memory(opened.manifest, mode, demand) for demand in (plain, more))
        assert before is not None and after is not None
        assert before < 10**8 and 2 * 10**9 < after < 2.2 * 10**9  # copied while the network opens


def test_the_command_line_takes_loras_and_embeddings(run_cli: Any, lora: Path, embedding: Path, pipe: Pipeline) -> None:  # noqa: ANN401 - a fixture's call
    options = ["--width", 64, "--height", 64, "--steps", 1, "--seed", 7, "--provider", "cpu", "--arithmetic", "exact"]
    for name, more in (
        ("plain.png", []),
        ("lora.png", ["--lora", f"{lora}:0.5"]),
        ("both.png", ["--lora", f"{lora}:0.5:0.25", "--lora", lora, "--embedding", embedding]),
        ("named.png", ["--lora-folder", lora.parent, "--embedding-folder", embedding.parent]),
    ):
        prompt = "a catstyle lake" + (" <lora:style:0.5>" if name == "named.png" else "")
        outcome = run_cli("generate", prompt, *options, *more, "-o", lora.parent / name)
        assert outcome.code == 0, outcome.err
    pictures = {path.stem: Image.open(path) for path in lora.parent.glob("*.png")}
    assert len({picture.tobytes() for picture in pictures.values()}) == 4
    told = {name: json.loads(picture.text["pocket-diffusion"]) for name, picture in pictures.items()}  # type: ignore[attr-defined]
    assert told["lora"]["loras"] == [{"name": "style", "scale": 0.5}]
    assert set(told["both"]["embedding_sha256"]) == {"catstyle"}
    assert told["named"]["lora_sha256"] == told["lora"]["lora_sha256"]
    assert "loras" not in told["plain"]
    outcome = run_cli("generate", "a lake", "--lora", lora.parent / "none.safetensors")
    assert outcome.code == 2
    assert "none.safetensors cannot be read" in outcome.error
    outcome = run_cli("generate", "a <lora:stile>", "--lora-folder", lora.parent)
    assert outcome.code == 2
    assert outcome.error == "error: LoRA 'stile' is not known; there are 2, such as style"


def test_refuses_an_embedding_whose_word_is_in_the_vocabulary(opened: Bundle, embedding: Path) -> None:
    taken = embedding.rename(embedding.with_name("Lake.safetensors"))
    with pytest.raises(InvalidRequestError, match=r"embedding Lake: this word is in the vocabulary already.*rename"):
        Pipeline.load(provider="cpu", embeddings=[taken])
    with Pipeline.load(provider="cpu", embedding_folder=taken.parent) as pipe:
        assert pipe.adapters.skipped == ("Lake",)


def test_a_bundle_of_old_says_that_it_must_be_exported_again(
    edit_manifest: Callable[[Callable[[dict[str, Any]], object]], None], bundle: Path, lora: Path
) -> None:
    def age(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = 2
        for component in ("text_encoder", "unet", "vae_encoder", "vae_decoder"):
            del manifest[component]["layers"]

    edit_manifest(age)
    for options in ({"loras": [lora]}, {"lora_folder": lora.parent}):
        with pytest.raises(BundleFormatError, match="cannot be changed; export the bundle again"):
            Pipeline.load(bundle, provider="cpu", **options)
    with Pipeline.load(bundle, provider="cpu") as pipe:
        assert np.isfinite(latents(pipe)).all()
