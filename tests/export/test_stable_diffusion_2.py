"""Stable Diffusion 2.x and SD-Turbo: read in every form, and drawn as diffusers draws them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import MANIFEST_NAME, Bundle
from pocket_diffusion.errors import TensorMismatchError, UnsupportedModelError
from pocket_export.checkpoint import Checkpoint, read_checkpoint
from pocket_export.parts import check_tensors

if TYPE_CHECKING:
    from synthetic_checkpoint import Sizes

Tensors = dict[str, torch.Tensor]
PROMPT, NEGATIVE = "a lake under snowy mountains at sunset", "people"
TEXT = "cond_stage_model.model."
NORM = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


def read(path: Path, **options: Any) -> Checkpoint:  # noqa: ANN401 - those of `read_checkpoint`
    """Read and check: nothing missing, nothing left over."""
    checkpoint = read_checkpoint(str(path), **options)
    check_tensors(checkpoint)
    return checkpoint


# Pictures


def draw_theirs(pipeline: StableDiffusionPipeline, **options: object) -> NDArray[np.float32]:
    picture = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        generator=torch.Generator("cpu").manual_seed(7),
        output_type="np",
        **options,
    ).images[0]
    return np.asarray(picture)


def levels_between(ours: Any, theirs: NDArray[np.float32]) -> float:  # noqa: ANN401 - a picture
    return float(np.abs(np.asarray(ours, float) - theirs * 255).max())


def test_it_draws_what_diffusers_draws(tiny_pipeline_2: StableDiffusionPipeline, tiny_bundle_2: Path) -> None:
    """Velocity, OpenCLIP's activation and its padding, two prompts of different lengths."""
    manifest = Bundle.open(tiny_bundle_2).manifest
    assert (manifest.architecture, manifest.schedule.prediction_type) == ("stable-diffusion-2", "v_prediction")
    assert manifest.tokenizer.pad_id == 0
    theirs = draw_theirs(tiny_pipeline_2, num_inference_steps=4, guidance_scale=5.0)
    ours = Pipeline.load(tiny_bundle_2).generate(
        PROMPT, negative_prompt=NEGATIVE, seed=7, steps=4, guidance_scale=5.0, sampler="ddpm"
    )
    assert levels_between(ours.images[0], theirs) <= 2


# PyTorch's arrays are older than NumPy 2, and diffusers hands them to it.
@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
def test_turbo_draws_what_diffusers_draws_with_no_options_at_all(
    tiny_pipeline_2: StableDiffusionPipeline, tiny_folder_2: Path, tiny_bundle_2: Path, tmp_path: Path
) -> None:
    changes = {"prediction_type": "epsilon", "timestep_spacing": "trailing"}
    scheduler = EulerDiscreteScheduler.from_config(tiny_pipeline_2.scheduler.config, **changes)
    folder = shutil.copytree(tiny_folder_2, tmp_path / "folder")
    scheduler.save_pretrained(folder / "scheduler")
    source = read(folder).source
    # The graphs are those of the model that predicts velocity: a schedule is no part of them.
    bundle = shutil.copytree(tiny_bundle_2, tmp_path / "bundle")
    manifest = Bundle.open(bundle).manifest
    manifest = msgspec.structs.replace(manifest, schedule=source.schedule, defaults=source.defaults)
    (bundle / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))

    pipeline = StableDiffusionPipeline(
        **tiny_pipeline_2.components | {"scheduler": scheduler}, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = draw_theirs(pipeline, num_inference_steps=1, guidance_scale=0.0)
    assert levels_between(Pipeline.load(bundle).generate(PROMPT, seed=7).images[0], theirs) <= 2


# Folders


def test_reads_a_folder_as_it_was_saved(tiny_pipeline_2: StableDiffusionPipeline, tiny_folder_2: Path) -> None:
    checkpoint = read(tiny_folder_2)
    config = checkpoint.text_encoder_config
    assert (config.hidden_act, config.num_hidden_layers) == ("gelu", 3)
    assert checkpoint.unet_config.use_linear_projection
    assert checkpoint.unet_config.attention_heads == (1, 2)
    theirs = tiny_pipeline_2.unet.state_dict()
    assert checkpoint.unet.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in checkpoint.unet.items())
    assert "Stable Diffusion 2.x (768-v), by its text encoder" in checkpoint.source.notes[1]


def test_refuses_the_text_encoder_of_another_family(folder: Path, tiny_folder_2: Path) -> None:
    """Mixed in a folder: contexts of one width, and a U-Net that takes another."""
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cross_attention_dim": 1024}))
    with pytest.raises(UnsupportedModelError) as caught:
        read_checkpoint(str(folder))
    assert "folder has parts of different families: a text encoder whose contexts have 64 channels" in str(caught.value)
    assert "and a U-Net that takes 1024 (Stable Diffusion 2.x)" in str(caught.value)


# Single files


@pytest.fixture(scope="module")
def sizes(mini_sizes: "Sizes") -> "Sizes":
    """As small as the width lets be by which the U-Net's heads are known."""
    return replace(mini_sizes, context=1024, open_clip=True, unet_linear=True)


@pytest.fixture(scope="module")
def _state(sizes: "Sizes") -> Tensors:
    from synthetic_checkpoint import synthetic_state_dict

    return synthetic_state_dict(sizes, seed=3, dtype=torch.float16)


@pytest.fixture
def state(_state: Tensors) -> Tensors:
    return dict(_state)


def published(state: Tensors, sizes: "Sizes") -> Tensors:
    """The text encoder's tensors as diffusers names them."""
    config = CLIPTextConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.context,
        intermediate_size=sizes.text_inner,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=16,
    )
    with torch.device("meta"):
        model = CLIPTextModelWithProjection(config)
    theirs = convert_open_clip_checkpoint(model, state)
    left_out = ("text_projection.weight", "text_model.embeddings.position_ids")
    return {name: tensor for name, tensor in theirs.items() if name not in left_out}


def test_maps_the_names_of_openclip_as_diffusers_does(place: Path, state: Tensors, sizes: "Sizes") -> None:
    save_file(state, place / "sd2.safetensors")
    checkpoint = read(place / "sd2.safetensors")
    theirs = published(state, sizes)
    ours = checkpoint.text_encoder
    assert ours.keys() == {name if name.startswith("text_model.") else f"text_model.{name}" for name in theirs}
    for name, tensor in theirs.items():
        assert torch.equal(ours[name if name in ours else f"text_model.{name}"], tensor), name
    # What an import reads is what an export maps.
    layer = "text_model.encoder.layers.0.self_attn"
    for part in ("q", "k", "v"):
        stored = checkpoint.source.text_encoder.tensors[f"{layer}.{part}_proj.weight"]
        assert np.array_equal(stored.read(), ours[f"{layer}.{part}_proj.weight"].numpy())


def test_a_single_file_says_what_it_is_of(place: Path, state: Tensors) -> None:
    save_file(state, place / "sd2.safetensors")
    checkpoint = read(place / "sd2.safetensors")
    config, unet, source = checkpoint.text_encoder_config, checkpoint.unet_config, checkpoint.source
    assert (config.hidden_size, config.num_attention_heads, config.hidden_act) == (1024, 16, "gelu")
    assert (unet.cross_attention_dim, unet.attention_heads) == (1024, (1, 1))
    assert source.architecture == "stable-diffusion-2"
    assert any(note.startswith("Stable Diffusion 2.x (base), by its text encoder: ") for note in source.notes)


def test_reads_a_file_without_the_layer_that_is_not_used(place: Path, state: Tensors) -> None:
    """As scripts make them of diffusers folders."""
    save_file(state, place / "whole.safetensors")
    fewer = {name: t for name, t in state.items() if ".resblocks.23." not in name}
    save_file(fewer, place / "fewer.safetensors")
    whole, cut = read(place / "whole.safetensors"), read(place / "fewer.safetensors")
    assert whole.text_encoder.keys() == cut.text_encoder.keys()
    assert whole.text_encoder_config.num_hidden_layers == cut.text_encoder_config.num_hidden_layers == 1


@pytest.mark.parametrize(
    ("name", "shape", "fault"),
    [
        ("in_proj_weight", (3 * 1024 + 2, 1024), r"v_proj\.weight is \[1026, 1024\]"),
        ("in_proj_bias", (2,), r"_proj\.bias is \["),
        ("in_proj_bias", (), r"'text_model\.encoder\.layers\.0\.self_attn\.in_proj_bias' belongs nowhere"),
    ],
)
def test_names_what_does_not_split_in_three(
    place: Path, state: Tensors, name: str, shape: tuple[int, ...], fault: str
) -> None:
    save_file(state | {f"{TEXT}transformer.resblocks.0.attn.{name}": torch.zeros(shape)}, place / "odd.safetensors")
    with pytest.raises(TensorMismatchError, match=fault):
        read(place / "odd.safetensors")


def test_refuses_a_unet_of_stable_diffusion_2_with_clips_text_encoder(
    place: Path, state: Tensors, mini_state: Tensors
) -> None:
    mixed = {name: t for name, t in state.items() if not name.startswith(TEXT)}
    mixed |= {name: t for name, t in mini_state.items() if name.startswith("cond_stage_model.")}
    save_file(mixed, place / "mixed.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"mixed\.safetensors has parts of different families: .* 1024 "):
        read_checkpoint(str(place / "mixed.safetensors"))


@pytest.mark.parametrize(
    ("spread", "prediction", "side"), [(0.2, "v_prediction", 192), (0.05, "epsilon", 128), (None, "epsilon", 128)]
)
def test_what_is_predicted_is_guessed_by_a_norm(
    place: Path, state: Tensors, spread: float | None, prediction: str, side: int
) -> None:
    """Sizes are 96 and 64 latents, of two pixels here."""
    more = {} if spread is None else {NORM: torch.tensor([spread, -spread])}
    path = place / "sd2.safetensors"
    save_file(state | more, path)
    source = read_checkpoint(str(path)).source
    assert source.schedule.prediction_type == prediction
    assert (source.defaults.width, source.defaults.height) == (side, side)
    why = "by default" if spread is None else "guessed by the spread of a norm's biases"
    assert source.notes[0].startswith(f"prediction type {prediction}, {why}")
    assert read_checkpoint(str(path), prediction="v_prediction").source.defaults.width == 192
    for text in ("parameterization: eps\n", "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n"):
        path.with_suffix(".yaml").write_text(text)
        assert read_checkpoint(str(path)).source.schedule.prediction_type == "epsilon"
    path.with_suffix(".yaml").write_text('target: ldm.models.diffusion.ddpm.LatentDiffusion\nparameterization: "v"\n')
    assert read_checkpoint(str(path)).source.schedule.prediction_type == "v_prediction"


def test_the_norm_of_stable_diffusion_1_says_nothing(place: Path, mini_state: Tensors) -> None:
    save_file(mini_state | {NORM: torch.tensor([1.0, -1.0])}, place / "sd1.safetensors")
    assert read_checkpoint(str(place / "sd1.safetensors")).source.schedule.prediction_type == "epsilon"


@pytest.mark.parametrize(("name", "title"), [("sd_turbo.safetensors", None), ("model.safetensors", "SD-Turbo")])
def test_turbo_is_known_by_its_name(place: Path, state: Tensors, name: str, title: str | None) -> None:
    save_file(state, place / name, None if title is None else {"modelspec.title": title})
    source = read_checkpoint(str(place / name)).source
    assert "SD-Turbo, by its name: it draws in one step, without guidance" in source.notes
    wanted = {"steps": 1, "guidance_scale": 1.0, "sampler": "euler", "scheduler": "trailing"}
    assert {key: getattr(source.defaults, key) for key in wanted} == wanted


# Tokenizers


def test_a_published_folder_pads_as_openclip_does(tiny_folder_2: Path, tmp_path: Path) -> None:
    """Its two files contradict each other; transformers takes the first."""
    folder = shutil.copytree(tiny_folder_2, tmp_path / "folder")
    (folder / "tokenizer" / "tokenizer_config.json").write_text('{"pad_token": "<|endoftext|>"}')
    assert read(folder).source.tokenizer.pad_id == 49407
    (folder / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": "!"}')
    assert read(folder).source.tokenizer.pad_id == 0


def test_a_folder_that_does_not_say_it_pads_as_its_family_does(tiny_folder_2: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder_2, tmp_path / "folder")
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    assert read(folder).source.tokenizer.pad_id == 0
    shutil.rmtree(folder / "tokenizer")
    assert read(folder).source.tokenizer.pad_id == 0
