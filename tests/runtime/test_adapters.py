"""LoRAs and embeddings at run time, with the embedded bundle; tests/export compares with diffusers."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from loras import random_lora, write_safetensors
from pocket_diffusion import (
    BundleFormatError,
    CheckpointError,
    CheckpointNotFoundError,
    InvalidRequestError,
    LoraSpec,
    Order,
    Pipeline,
)
from pocket_diffusion.bundle import CONCEPTS, Bundle
from pocket_diffusion.machine import session
from pocket_diffusion.model import weights as weights_module
from pocket_diffusion.model.lora import Lora, read_lora
from pocket_diffusion.model.memory import MODES, Demand, needed_memory
from pocket_diffusion.model.weights import ChangedWeights, changed_arrays
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


def test_what_a_prompt_names_stays_with_its_drawing(lora: Path) -> None:
    """Whatever else is computed before, between and after its steps."""
    styled, plain = (Order(prompt=prompt, **{**ASKED, "steps": 3}) for prompt in ("a lake <lora:style:1>", "a lake"))
    with Pipeline.load(provider="cpu", arithmetic="exact", lora_folder=lora.parent) as pipe:
        wanted = [pipe.steps(order).result.latents for order in (styled, plain)]
        assert np.abs(wanted[0] - wanted[1]).max() > 0.01
        context = pipe.encode_prompt("a lake")
        alone = [partial(pipe.encode_prompt, "a lake"), partial(pipe.predict_noise, wanted[1], 500, context)]
        found = [stage() for stage in alone]
        walks = [pipe.steps(order) for order in (plain, styled)]
        for turn, _ in enumerate(zip(*walks, strict=True)):
            assert np.array_equal(alone[turn % 2](), found[turn % 2])
            pipe.set_loras([f"{lora}:0.5"])
            pipe.set_loras([])
        assert all(np.array_equal(walk.result.latents, wanted.pop()) for walk in walks)


def test_a_file_that_is_overwritten_after_it_was_checked_is_refused(pipe: Pipeline, lora: Path, opened: Bundle) -> None:
    pipe.set_loras([lora])
    write_safetensors(lora, random_lora(opened, seed=1))
    os.utime(lora, ns=(0, 0))  # a clock may be coarse
    with pytest.raises(CheckpointError, match="LoRA style: the file has changed since it was read"):
        latents(pipe)
    pipe.set_loras([lora])
    assert np.isfinite(latents(pipe)).all()


@pytest.mark.parametrize("component", ["text_encoder", "unet"])
def test_changed_weights_are_computed_with_at_any_optimisation(
    opened: Bundle, lora: Path, monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    """On CUDA, ONNX Runtime optimises all it can, which folds weights before or after they are replaced."""
    loras = [Lora(read_lora(lora, opened))]
    spec = opened.manifest.component(component)
    sizes = {"batch": 1, "height": 8, "width": 8, "tokens": 77}
    generator = np.random.default_rng(0)
    inputs = {
        one.name: generator.normal(size=[sizes.get(side, 1) if isinstance(side, str) else side for side in one.shape])
        for one in spec.inputs
    }
    if component == "text_encoder":
        inputs = {"ids": np.arange(77)[None]}

    def run(replaced: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        graph = session.GraphSession(opened.root, component, spec, "cpu", replaced=replaced)
        return graph.run(**inputs)[spec.outputs[0].name]

    changed = changed_arrays(opened, component, loras)
    plain, wanted = run({}), run(changed)
    options = session._options

    def optimised(*arguments: Any, **more: Any) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
        found = options(*arguments, **more)
        found.graph_optimization_level = session.onnxruntime().GraphOptimizationLevel.ORT_ENABLE_ALL
        found.add_session_config_entry("session.disable_quant_qdq", "1")
        return found

    monkeypatch.setattr(session, "_options", optimised)
    found = run(changed)
    assert np.abs(found - plain).max() > 10 * np.abs(found - wanted).max()


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
    assert changed["unet"].size == sum(layer.bytes_of(stored) for layer in layers for stored in layer.stored)
    assert changed["unet"].working == sum(12 * int(np.prod(layer.shape)) for layer in layers)  # all at once
    plain = Demand(width=128, height=128, guided=True, from_picture=False)
    for working, least in ((0, 2), (5 * 10**9, 6)):  # copied while the network opens, or made before that
        weights = {"unet": ChangedWeights(size=10**9, working=working)}
        more = Demand(width=128, height=128, guided=True, from_picture=False, changed_weights=weights)
        for mode in MODES.values():
            before, after = (needed_memory(opened.manifest, mode, demand) for demand in (plain, more))
            assert before is not None and after is not None
            assert before < 10**8 and least * 10**9 < after < (least + 0.2) * 10**9


def test_layers_are_changed_within_the_memory_that_was_counted(
    opened: Bundle, lora: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loras = [Lora(read_lora(lora, opened))]
    monkeypatch.setattr(weights_module, "WORKERS", 8)
    monkeypatch.setattr(weights_module, "_ROOM", 0)
    lock, now, most = threading.Lock(), 0, 0
    change = weights_module.with_loras

    def watched(component: str, name: str, weights: NDArray[np.float32], users: list[Lora]) -> NDArray[np.float32]:
        nonlocal now, most
        with lock:
            now += 3 * weights.nbytes
            most = max(most, now)
        time.sleep(0.001)  # so that others would come in
        changed = change(component, name, weights, users)
        with lock:
            now -= 3 * weights.nbytes
        return changed

    monkeypatch.setattr(weights_module, "with_loras", watched)
    counted = weights_module.changed_memory(opened, "unet", loras).working
    changed_arrays(opened, "unet", loras)
    largest = max(int(np.prod(opened.layers("unet").layers[name].shape)) for name in loras[0].changes("unet"))
    assert counted == 12 * largest
    assert most <= counted


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
    assert told["lora"]["pipeline_loras"] == [{"name": "style", "scale": 0.5}]
    assert "loras" not in told["lora"]  # which an order would find in a folder
    assert set(told["both"]["embedding_sha256"]) == {"catstyle"}
    assert told["named"]["lora_sha256"] == told["lora"]["lora_sha256"]
    assert not {"loras", "pipeline_loras"} & set(told["plain"])
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


def test_the_first_of_two_files_keeps_a_word(opened: Bundle, embedding: Path, lora: Path, tmp_path: Path) -> None:
    """Also where the folder is looked into again, and against what was given by itself."""
    folder = tmp_path / "embeddings"
    (folder / "z").mkdir(parents=True)
    width = int(next(spec.shape[1] for spec in opened.manifest.text_encoder.options if spec.name == CONCEPTS))

    def write(name: str, key: str, value: float) -> None:
        write_safetensors(folder / f"{name}.safetensors", {key: np.full((1, width), value, np.float32)})

    for name, key, value in (("Qqcat", "a", 1), ("z/qqcat", "b", 2), ("qqx", "<qq>", 3), ("z/qqy", "<qq>", 4)):
        write(name, key, value)
    write("catstyle", "emb_params", 5)
    with Pipeline.load(provider="cpu", embedding_folder=folder, embeddings=[embedding]) as pipe:
        for _ in range(2):
            first = {word: concept.vectors[0, 0] for word, concept in pipe.adapters.concepts.items()}
            assert (first["qqcat"], first["qqx"], first["qqy"], first["<qq>"]) == (1, 3, 4, 3)
            assert first["catstyle"] not in (1, 2, 3, 4, 5)
            assert pipe.adapters._concepts is not None
            count = len(pipe.adapters._concepts.vectors)
            pipe.adapters.refresh()
            assert len(pipe.adapters._concepts.vectors) == count
        write("Qqcat", "a", 6)
        pipe.adapters.refresh()
        assert pipe.adapters.concepts["qqcat"].vectors[0, 0] == 6


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
