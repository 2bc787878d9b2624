"""Good files that hold another model than Stable Diffusion 1.x and 2.x: refused by the name of what they hold."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pocket_diffusion.errors import CheckpointError, CheckpointNotFoundError, UnsupportedModelError
from pocket_export.checkpoint import read_checkpoint

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors], Tensors]

UNET, CONV_IN = "model.diffusion_model.", "model.diffusion_model.input_blocks.0.0.weight"


def only(*prefixes: str) -> Change:
    return lambda state: {name: t for name, t in state.items() if name.startswith(prefixes)}


def without(*prefixes: str) -> Change:
    return lambda state: {name: t for name, t in state.items() if not name.startswith(prefixes)}


def beside(*names: str) -> Change:
    return lambda state: state | {name: torch.zeros(1) for name in names}


def alone(*names: str) -> Change:
    return lambda _state: {name: torch.zeros(1) for name in names}


def below(prefix: str) -> Change:
    return lambda state: {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def channels(count: int) -> Change:
    return lambda state: state | {CONV_IN: torch.zeros(32, count, 3, 3)}


SINGLE_FILES: dict[str, tuple[Change, str]] = {
    "SDXL": (
        lambda s: without("cond_stage_model.")(
            beside("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias")(s)
        ),
        "is a Stable Diffusion XL model",
    ),
    "SDXL's U-Net": (beside(UNET + "label_emb.0.0.weight"), "is a Stable Diffusion XL model"),
    "depth": (channels(5), "is a depth-to-image model (its U-Net takes 5 channels"),
    "depth by its names": (beside("depth_model.model.pretrained.cls_token"), "is a depth-to-image model"),
    "upscaler": (channels(7), "is an upscaler (its U-Net takes 7 channels"),
    "upscaler by its names": (beside(UNET + "label_emb.weight"), "is an upscaler"),
    "unCLIP": (beside("noise_augmentor.betas", UNET + "label_emb.0.0.weight"), "is an unCLIP model"),
    "another number of channels": (channels(6), "is a model of another kind (its U-Net takes 6 channels"),
    "kohya's LoRA": (alone("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"), "is a LoRA"),
    "diffusers' LoRA": (alone("unet.mid_block.attentions.0.proj_in.lora_A.weight"), "is a LoRA"),
    "diffusers' first LoRA": (alone("mid_block.attn1.processor.to_q_lora.down.weight"), "is a LoRA"),
    "LyCORIS": (alone("lycoris_unet_mid_block.hada_w1_a"), "is a LoRA"),
    "VAE": (below("first_stage_model."), "is a VAE alone"),
    "VAE with its prefix": (only("first_stage_model."), "is a VAE alone"),
    "U-Net": (below(UNET), "is a U-Net alone"),
    "text encoder": (below("cond_stage_model.transformer."), "is a text encoder alone"),
    "without a VAE": (without("first_stage_model."), "has no VAE in it"),
    "without a text encoder": (without("cond_stage_model."), "has no text encoder in it"),
    "Flux": (alone("double_blocks.0.img_attn.qkv.weight", "single_blocks.0.linear1.weight"), "is a Flux model"),
    "Flux in ComfyUI's form": (alone(UNET + "double_blocks.0.img_attn.qkv.weight"), "is a Flux model"),
    "Flux in diffusers' form": (
        alone("single_transformer_blocks.0.proj_mlp.weight", "transformer_blocks.0.attn.add_q_proj.weight"),
        "is a Flux model",
    ),
    "SD 3": (alone(UNET + "joint_blocks.0.x_block.attn.qkv.weight"), "is a Stable Diffusion 3 model"),
    "SD 3 in diffusers' form": (alone("transformer_blocks.0.attn.add_q_proj.weight"), "is a Stable Diffusion 3 model"),
    "ControlNet": (alone("control_model.input_blocks.0.0.weight"), "is a ControlNet"),
    "SDXL's ControlNet": (alone("control_model.label_emb.0.0.weight"), "is a ControlNet"),
    "ControlNet in diffusers' form": (alone("controlnet_cond_embedding.conv_in.weight"), "is a ControlNet"),
    "textual inversion": (alone("emb_params"), "is a textual inversion"),
    "diffusers' textual inversion": (alone("<cat-toy>"), "is a textual inversion"),
    "something else": (alone("layer.1.conv\x1b[2J.weight"), "is no diffusion model that is known (it has 'layer.1"),
}


@pytest.mark.parametrize("model", SINGLE_FILES)
def test_refuses_another_model_by_its_name(place: Path, mini_state: Tensors, model: str) -> None:
    change, name = SINGLE_FILES[model]
    save_file(change(mini_state), place / "model.safetensors")
    with pytest.raises(UnsupportedModelError) as caught:
        read_checkpoint(str(place / "model.safetensors"))
    assert f"model.safetensors {name}" in str(caught.value)
    assert "wanted is a Stable Diffusion 1.x or 2.x model" in str(caught.value)
    assert str(caught.value).isprintable()


def test_refuses_an_old_textual_inversion_by_its_name(place: Path) -> None:
    parameters = torch.nn.ParameterDict({"*": torch.zeros(1, 768)})
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters}, place / "cat.pt")
    with pytest.raises(UnsupportedModelError, match="is a textual inversion"):
        read_checkpoint(str(place / "cat.pt"))


def test_reads_what_the_refused_were_made_of(place: Path, mini_state: Tensors) -> None:
    """The twin of the above: without the change, the file is a good one."""
    save_file(mini_state, place / "model.safetensors")
    assert read_checkpoint(str(place / "model.safetensors")).source.name == "model.safetensors"


def set_in(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "kind",
    [
        "StableDiffusionXLPipeline",
        "StableDiffusion3Pipeline",
        "FluxPipeline",
        "StableDiffusionDepth2ImgPipeline",
        "StableDiffusionUpscalePipeline",
        "StableUnCLIPPipeline",
        "StableDiffusionControlNetPipeline",
    ],
)
def test_refuses_a_folder_of_another_pipeline_by_its_name(folder: Path, kind: str) -> None:
    set_in(folder / "model_index.json", _class_name=kind)
    with pytest.raises(UnsupportedModelError, match=f"holds a '{kind}'; wanted is a 'StableDiffusionPipeline'"):
        read_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("part", "values", "name"),
    [
        ("unet", {"in_channels": 5}, "is a depth-to-image model (its U-Net takes 5 channels"),
        ("unet", {"in_channels": 7}, "is an upscaler (its U-Net takes 7 channels"),
        ("unet", {"addition_embed_type": "text_time"}, "has addition_embed_type 'text_time', not None"),
        ("unet", {"mid_block_type": "UNetMidBlock2D"}, "has mid_block_type 'UNetMidBlock2D', not 'UNetMidBlock2DCross"),
        ("unet", {"down_block_types": ["AttnDownBlock2D"]}, "has blocks of the kind 'AttnDownBlock2D'"),
        ("vae", {"shift_factor": 0.1159}, "has shift_factor 0.1159, not None"),
        ("text_encoder", {"model_type": "t5"}, "has a text encoder that is not CLIP's"),
        ("text_encoder", {"hidden_act": "relu"}, "has a text encoder that is not CLIP's"),
    ],
)
def test_refuses_a_folder_with_another_config(folder: Path, part: str, values: dict[str, Any], name: str) -> None:
    set_in(folder / part / "config.json", **values)
    with pytest.raises(UnsupportedModelError) as caught:
        read_checkpoint(str(folder))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'; known are: epsilon, v_prediction"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "known are: linear, scaled_linear"),
        ({"timestep_spacing": "logspace"}, "known are: leading, linspace, trailing"),
    ],
)
def test_refuses_a_schedule_that_it_does_not_know(folder: Path, values: dict[str, Any], reason: str) -> None:
    set_in(folder / "scheduler" / "scheduler_config.json", **values)
    with pytest.raises(UnsupportedModelError) as caught:
        read_checkpoint(str(folder))
    assert reason in str(caught.value)


def test_a_folder_with_a_tiny_vae_alone_needs_a_whole_one(folder: Path, tmp_path: Path) -> None:
    """As SDXS has it."""
    whole = shutil.copytree(folder / "vae", tmp_path / "whole")
    (folder / "vae" / "config.json").write_text('{"_class_name": "AutoencoderTiny", "scaling_factor": 1.0}')
    with pytest.raises(UnsupportedModelError, match="folder has a tiny VAE alone; name a whole one with --vae"):
        read_checkpoint(str(folder))
    assert read_checkpoint(str(folder), vae=whole).vae_config.scaling_factor == 0.18215
    set_in(whole / "config.json", scaling_factor=0.13025)  # Stable Diffusion XL's
    with pytest.raises(UnsupportedModelError, match=r"whole scales latents by 0\.13025, folder by 0\.18215"):
        read_checkpoint(str(folder), vae=whole)


def test_refuses_a_part_saved_as_a_folder(folder: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="holds 'AutoencoderKL' alone; wanted is a whole StableDiff"):
        read_checkpoint(str(folder / "vae"))


def test_refuses_a_folder_without_a_model(place: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"is no diffusers folder: there is no .*model_index\.json"):
        read_checkpoint(str(place))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_refuses_a_folder_with_a_part_missing(folder: Path, part: str) -> None:
    for path in (folder / part).glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointNotFoundError, match=f"{part} has no weights .*; fetch it whole"):
        read_checkpoint(str(folder))
    (folder / part / "config.json").unlink()
    with pytest.raises(CheckpointNotFoundError, match=f"has no {part}: there is no"):
        read_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("model_index.json", "{", "is damaged"),
        ("model_index.json", "[]", "holds no object"),
        ("unet/config.json", "{}", "is damaged: it does not say 'block_out_channels'"),
        ("vae/config.json", '{"block_out_channels": 3}', "cannot be used"),
        ("text_encoder/config.json", '{"hidden_size": 64}', "does not say 'intermediate_size'"),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": "many"}', "cannot be used: Expected `int`"),
        ("scheduler/scheduler_config.json", '{"beta_start": 2}', "cannot be used: Expected `float` < 1"),
        ("generation_config.json", '{"steps": 0}', "cannot be used: Expected `int` >= 1"),
        ("generation_config.json", '{"width": 60}', "Expected `int` >= 64"),
        ("scheduler/scheduler_config.json", '{"thresholding": "no"}', "cannot be used: Expected `bool`"),
        ("generation_config.json", '{"sampler": "magic"}', "sampler 'magic' is not known"),
        ("generation_config.json", '{"scheduler": "magic"}', "scheduler 'magic' is not known"),
        ("generation_config.json", '{"sampler": "lcm", "scheduler": "karras"}', "karras"),
    ],
)
def test_refuses_a_folder_with_a_damaged_config(folder: Path, file: str, content: str, reason: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(str(folder))
    assert type(caught.value) is CheckpointError
    assert str(folder / file) in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -8, 100_000, [8, 0]])
def test_refuses_a_folder_whose_size_nobody_could_draw_at(folder: Path, size: object) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"sample_size": size}))
    with pytest.raises(CheckpointError, match=r"config\.json cannot be used"):
        read_checkpoint(str(folder))
