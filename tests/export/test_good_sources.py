"""Every form in which Stable Diffusion 1.x comes is read to the same tensors and settings."""

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import msgspec
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.checkpoint.families.family import USUAL_DRAWING
from pocket_diffusion.checkpoint.noise_schedule import read_schedule
from pocket_diffusion.checkpoint.recognition import PIPELINES
from pocket_export.checkpoint import Checkpoint, read_checkpoint
from pocket_export.parts import check_tensors

if TYPE_CHECKING:
    from synthetic_checkpoint import Sizes

Tensors = dict[str, torch.Tensor]
PARTS = ("text_encoder", "unet", "vae")


def assert_same_tensors(ours: Tensors, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


def assert_same_model(ours: Checkpoint, theirs: Checkpoint) -> None:
    for part in PARTS:
        assert_same_tensors(getattr(ours, part), getattr(theirs, part))
        assert getattr(ours, f"{part}_config") == getattr(theirs, f"{part}_config")


def read(path: Path) -> Checkpoint:
    """Read and check: nothing missing, nothing left over."""
    checkpoint = read_checkpoint(str(path))
    check_tensors(checkpoint)
    return checkpoint


# Single files


@pytest.fixture
def plain(place: Path, mini_state: Tensors) -> Checkpoint:
    save_file(mini_state, place / "plain.safetensors")
    return read(place / "plain.safetensors")


def test_maps_the_names_of_a_single_file_as_diffusers_does(
    plain: Checkpoint, mini_state: Tensors, tmp_path: Path
) -> None:
    unet, vae = plain.unet_config.to_diffusers(), plain.vae_config.to_diffusers()
    assert_same_tensors(plain.unet, convert_ldm_unet_checkpoint(dict(mini_state), unet))
    theirs = convert_ldm_vae_checkpoint(dict(mini_state), vae)
    # Theirs leaves it to loading to turn the attention's 1x1 convolutions into linear layers.
    theirs = {name: t.flatten(1) if ".attentions.0.to_" in name and t.ndim == 4 else t for name, t in theirs.items()}
    assert_same_tensors(plain.vae, theirs)


def test_maps_the_names_of_two_layers_and_four_levels_as_diffusers_does(place: Path, mini_sizes: "Sizes") -> None:
    from synthetic_checkpoint import synthetic_state_dict

    widths = {"unet_widths": (32,) * 4, "unet_attention": (True, True, True, False), "unet_layers": 2}
    sizes = replace(mini_sizes, **widths, vae_widths=(32,) * 4, vae_layers=2)
    state = synthetic_state_dict(sizes, seed=2)
    save_file(state, place / "deep.safetensors")
    ours = read(place / "deep.safetensors")
    assert_same_tensors(ours.unet, convert_ldm_unet_checkpoint(state, ours.unet_config.to_diffusers()))


def test_reads_single_files_wrapped_and_not(place: Path, mini_state: Tensors, plain: Checkpoint) -> None:
    for content in (mini_state, {"state_dict": mini_state, "epoch": 1}):
        for ending in (".ckpt", ".pt", ".bin"):
            torch.save(content, place / f"model{ending}")
            assert_same_model(read(place / f"model{ending}"), plain)


def test_ignores_what_is_no_weight(place: Path, mini_state: Tensors, plain: Checkpoint) -> None:
    assert "cond_stage_model.transformer.text_model.embeddings.position_ids" in mini_state
    more = {
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(2),
        "cond_stage_model.logit_scale": torch.zeros(()),
        "first_stage_model_x": torch.zeros(3),
        "sqrt_one_minus_alphas_cumprod": torch.full((1000,), float("nan")),
    }
    torch.save({"state_dict": mini_state | more}, place / "model.ckpt")
    assert_same_model(read(place / "model.ckpt"), plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_reads_every_precision(place: Path, mini_state: Tensors, dtype: torch.dtype, name: str) -> None:
    from synthetic_checkpoint import save_checkpoint

    weight = "model.diffusion_model.out.2.weight"
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in mini_state.items()}
    save_checkpoint(state, place / name)
    checkpoint = read(place / name)
    assert checkpoint.unet["conv_out.weight"].dtype == dtype
    assert torch.equal(checkpoint.unet["conv_out.weight"], mini_state[weight].to(dtype))


def test_a_single_file_has_the_settings_of_stable_diffusion(plain: Checkpoint) -> None:
    schedule = plain.source.schedule
    assert (schedule.beta_start, schedule.beta_end, schedule.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert (schedule.prediction_type, schedule.timestep_spacing, schedule.steps_offset) == ("epsilon", None, 1)
    assert (schedule.set_alpha_to_one, schedule.clip_sample, schedule.rescale_betas_zero_snr) == (False, False, False)
    assert {name: getattr(plain.source.defaults, name) for name in USUAL_DRAWING} == USUAL_DRAWING
    assert plain.vae_config.scaling_factor == 0.18215
    assert plain.unet_config.attention_heads == (8, 8)


def test_a_tokenizer_may_lie_elsewhere(place: Path, mini_state: Tensors, tmp_path: Path) -> None:
    save_file(mini_state, place / "model.safetensors")
    (place / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (place / name).rename(place / "tokenizer" / name)
    below = read_checkpoint(str(place / "model.safetensors")).source.tokenizer
    (place / "tokenizer").rename(tmp_path / "elsewhere")
    given = read_checkpoint(str(place / "model.safetensors"), tmp_path / "elsewhere").source.tokenizer
    assert below == given
    assert (given.size, given.start_id, given.end_id, given.pad_id) == (3, 1, 2, 2)


def test_reads_the_license_of_a_single_file(place: Path, mini_state: Tensors) -> None:
    save_file(mini_state, place / "model.safetensors", {"modelspec.license": "CreativeML Open RAIL-M"})
    assert read(place / "model.safetensors").source.license == "CreativeML Open RAIL-M"


# Diffusers folders


def test_reads_a_folder_as_it_was_saved(tiny_pipeline: StableDiffusionPipeline, tiny_folder: Path) -> None:
    checkpoint = read(tiny_folder)
    assert_same_tensors(checkpoint.unet, tiny_pipeline.unet.state_dict())
    assert_same_tensors(checkpoint.vae, tiny_pipeline.vae.state_dict())
    theirs = {n.removeprefix("text_model."): t for n, t in tiny_pipeline.text_encoder.state_dict().items()}
    ours = {n.removeprefix("text_model."): t for n, t in checkpoint.text_encoder.items()}
    assert_same_tensors(ours, {n: t for n, t in theirs.items() if not n.endswith("position_ids")})
    assert (checkpoint.source.defaults.width, checkpoint.source.defaults.height) == (64, 64)


def weights(folder: Path, part: str) -> Path:
    return next((folder / part).glob("*.safetensors"))


@pytest.mark.parametrize("variant", [".bin", ".fp16.safetensors", ".fp16.bin"])
def test_reads_every_form_of_a_folders_weights(folder: Path, variant: str) -> None:
    plain = read(folder)
    for part in PARTS:
        path = weights(folder, part)
        tensors = load_file(path)
        path.unlink()
        if "fp16" in variant:
            tensors = {name: t.half() for name, t in tensors.items()}
        if variant.endswith(".bin"):
            stem = "pytorch_model" if part == "text_encoder" else path.stem
            torch.save(tensors, path.with_name(stem + variant))
        else:
            save_file(tensors, path.with_name(path.stem + variant))
    checkpoint = read(folder)
    assert all(name.endswith(variant) for name in checkpoint.source.files)
    for part in PARTS:
        theirs = getattr(plain, part)
        if "fp16" in variant:
            theirs = {name: t.half() for name, t in theirs.items()}
        assert_same_tensors(getattr(checkpoint, part), theirs)


def test_prefers_full_precision_and_safe_files(folder: Path) -> None:
    for part in PARTS:
        path = weights(folder, part)
        for suffix in (".fp16.safetensors", ".bin", ".non_ema.safetensors"):
            path.with_name(path.stem + suffix).write_bytes(b"not to be read")
    assert list(read(folder).source.files) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_reads_the_old_names_of_the_vaes_attention(folder: Path) -> None:
    plain = read(folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    path = weights(folder, "vae")
    tensors = load_file(path)
    for new_name, old_name in old.items():
        for half in ("encoder", "decoder"):
            for kind in ("weight", "bias"):
                prefix = f"{half}.mid_block.attentions.0"
                tensors[f"{prefix}.{old_name}.{kind}"] = tensors.pop(f"{prefix}.{new_name}.{kind}")
    assert sum(".query." in name for name in tensors) == 4
    path.unlink()
    save_file(tensors, path)
    assert_same_tensors(read(folder).vae, plain.vae)


def test_ignores_the_position_ids_of_old_transformers(folder: Path) -> None:
    plain = read(folder)
    path = weights(folder, "text_encoder")
    tensors = load_file(path)
    path.unlink()
    save_file(tensors | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, path)
    assert_same_tensors(read(folder).text_encoder, plain.text_encoder)


def test_reads_the_scheduler(folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    wanted = {
        "num_train_timesteps": 500,
        "beta_start": 0.001,
        "beta_end": 0.03,
        "beta_schedule": "linear",
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
        "set_alpha_to_one": True,
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.9,
        "sample_max_value": 1.5,
    }
    path.write_text(json.dumps({"_class_name": "PNDMScheduler", **wanted}))
    schedule = read(folder).source.schedule
    assert {key: getattr(schedule, key.removeprefix("num_")) for key in wanted} == wanted
    path.write_text(json.dumps({"trained_betas": [0.1, 0.2]}))
    assert read(folder).source.schedule.trained_betas == (0.1, 0.2)


SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_what_a_scheduler_does_not_say_is_as_in_diffusers(kind: str) -> None:
    """Except for what each of our samplers settles by itself, and what diffusers' pipelines correct."""
    ours = read_schedule("folder", {"_class_name": kind})
    theirs = {name: its.default for name, its in inspect.signature(getattr(diffusers, kind)).parameters.items()}
    assert ours.train_timesteps == theirs["num_train_timesteps"]
    for key in NoiseSchedule.__struct_fields__:
        if key in theirs and key not in ("timestep_spacing", "set_alpha_to_one", "steps_offset", "clip_sample"):
            assert getattr(ours, key) == theirs[key], key
    assert (ours.timestep_spacing, ours.set_alpha_to_one) == (None, None)
    assert (ours.steps_offset, ours.clip_sample) == (1, False)


def test_a_folder_without_a_scheduler_has_stable_diffusions_schedule(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")
    assert read(folder).source.schedule == NoiseSchedule()


def test_reads_the_folders_of_all_pipelines_that_draw_with_these_networks(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    for kind in PIPELINES:
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": kind}))
        assert read_checkpoint(str(folder)).source.architecture == "stable-diffusion-1"


def test_a_scheduler_for_few_steps_sets_how_a_folder_is_drawn(folder: Path) -> None:
    """As saved after an LCM-LoRA was merged; what the folder says itself still wins."""
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    config |= {"_class_name": "LCMScheduler", "original_inference_steps": 50}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    source = read(folder).source
    assert (source.defaults.steps, source.defaults.guidance_scale, source.defaults.sampler) == (4, 1.0, "lcm")
    assert "distilled to few steps, by its scheduler, LCMScheduler" in source.notes
    (folder / "generation_config.json").write_text('{"steps": 8}')
    assert read(folder).source.defaults == msgspec.structs.replace(source.defaults, steps=8)


def test_reads_default_settings(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"width": 96, "steps": 20, "guidance_scale": 4, "other": 1}')
    defaults = read(folder).source.defaults
    assert (defaults.width, defaults.height, defaults.steps, defaults.guidance_scale) == (96, 64, 20, 4.0)
    assert (defaults.sampler, defaults.scheduler) == (USUAL_DRAWING["sampler"], USUAL_DRAWING["scheduler"])
    (folder / "generation_config.json").write_text('{"sampler": "dpmpp_2m", "scheduler": "karras"}')
    defaults = read(folder).source.defaults
    assert (defaults.sampler, defaults.scheduler) == ("dpmpp_2m", "karras")


@pytest.mark.parametrize(
    ("named", "sampler", "scheduler"),
    [("Euler a", "euler_a", None), ("DPM++ SDE Karras", "dpmpp_sde", "karras"), ("DDIMScheduler", "ddim", None)],
)
def test_default_samplers_are_kept_by_their_own_names(
    folder: Path, named: str, sampler: str, scheduler: object
) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"sampler": named}))
    defaults = read(folder).source.defaults
    assert (defaults.sampler, defaults.scheduler) == (sampler, scheduler)


def test_reads_the_license_of_a_folder(folder: Path) -> None:
    assert read(folder).source.license is None
    (folder / "README.md").write_text("---\ntags: []\nlicense: creativeml-openrail-m\n---\n# Model\nlicense: mine\n")
    assert read(folder).source.license == "creativeml-openrail-m"


def test_reads_a_tokenizer_of_one_file(folder: Path) -> None:
    """As transformers 5 writes it."""
    two = read(folder).source.tokenizer
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink()
    assert (folder / "tokenizer" / "tokenizer.json").exists()
    one = read(folder).source.tokenizer
    assert json.loads(one.vocab) == json.loads(two.vocab)
    assert one.merges.decode().split("\n")[1:] == two.merges.decode().split("\n")[1:]
    assert (one.size, one.start_id, one.end_id, one.pad_id) == (49408, 49406, 49407, 49407)


def test_reads_the_padding_of_a_tokenizer(folder: Path) -> None:
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)
    (folder / "tokenizer" / "special_tokens_map.json").write_text('{"pad_token": {"content": "!"}}')
    assert read(folder).source.tokenizer.pad_id == 0
