"""Published U-Nets at their true sizes: from a folder's config, and from a single file's names and shapes.

Nothing here has numbers.
"""

from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from pocket_diffusion.checkpoint.architecture import UNetSpec, infer_unet, read_unet_config
from pocket_diffusion.checkpoint.fitting import check_fit
from pocket_diffusion.checkpoint.key_mapping import compvis_unet
from pocket_diffusion.checkpoint.stored_tensor import StoredTensor, StoredTensors
from pocket_diffusion.errors import TensorMismatchError, UnsupportedModelError
from pocket_models import UNet, UNetConfig
from synthetic_checkpoint import Sizes, compvis_shapes

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"
SD1: dict[str, Any] = {
    # runwayml/stable-diffusion-v1-5's unet/config.json
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [CROSS, CROSS, CROSS, PLAIN],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": [PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP],
}
# What diffusers of later versions adds to it, as latent consistency models and BK-SDM have it.
LATER = {
    "addition_embed_type": None,
    "attention_type": "default",
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "dropout": 0.0,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": 1,
    "upcast_attention": False,
    "use_linear_projection": False,
}
BASE = SD1 | LATER | {"layers_per_block": 1}
SMALL = BASE | {"mid_block_type": None}
TINY = SMALL | {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": [CROSS] * 3,
    "up_block_types": [CROSS_UP] * 3,
}
SD2 = {"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True}
SD2_TINY = TINY | SD2 | {"attention_head_dim": [5, 10, 20]}

CONFIGS: dict[str, dict[str, Any]] = {
    "SD 1.5": SD1,
    "LCM_Dreamshaper_v7": SD1 | LATER | {"time_cond_proj_dim": 256},
    "SD 1.5 inpainting": SD1 | {"in_channels": 9},
    "instruct-pix2pix": SD1 | {"in_channels": 8},
    "SD 2.1 base": SD1 | SD2 | {"dual_cross_attention": False, "num_class_embeds": None, "only_cross_attention": False},
    "SD 2.1, 768-v": SD1 | SD2 | {"sample_size": 96, "upcast_attention": True},
    "SD-Turbo": SD1 | LATER | SD2 | {"upcast_attention": None},
    "SD 2 inpainting": SD1 | SD2 | {"in_channels": 9},
    "BK-SDM-Base, Segmind's small-sd": BASE,
    "BK-SDM-Small": SMALL,
    "BK-SDM-Tiny, Segmind's tiny-sd": TINY,
    "BK-SDM-v2-Base": BASE | SD2,
    "BK-SDM-v2-Small": SMALL | SD2,
    "BK-SDM-v2-Tiny": SD2_TINY,
    # Their configs were not at hand: after the paper (Song et al. 2024, section 3.1) and stable-diffusion.cpp's reader.
    "SDXS-512-DreamShaper": TINY
    | {"down_block_types": [PLAIN, CROSS, CROSS], "up_block_types": [CROSS_UP, CROSS_UP, PLAIN_UP]},
    "SDXS-512-0.9": SD2_TINY | {"only_cross_attention": [True, False, False]},
}

OPEN_CLIP = {"context": 1024, "unet_linear": True}
DISTILLED = {"unet_layers": 1, "unet_gaps": True}
MIDLESS = DISTILLED | {"unet_middle": False}
THREE_LEVELS = MIDLESS | {"unet_widths": (320, 640, 1280), "unet_attention": (True,) * 3}
FILES: dict[str, dict[str, Any]] = {
    "SD 1.5": {},
    "LCM_Dreamshaper_v7": {"unet_guidance": 256},
    "SD 1.5 inpainting": {"unet_channels": 9},
    "instruct-pix2pix": {"unet_channels": 8},
    "SD 2.1 base": OPEN_CLIP,
    "SD 2 inpainting": OPEN_CLIP | {"unet_channels": 9},
    "BK-SDM-Base, Segmind's small-sd": DISTILLED,
    "BK-SDM-Small": MIDLESS,
    "BK-SDM-Tiny, Segmind's tiny-sd": THREE_LEVELS,
    "BK-SDM-v2-Tiny": THREE_LEVELS | OPEN_CLIP,
    "SDXS-512-DreamShaper": THREE_LEVELS | {"unet_attention": (False, True, True)},
}


def described(shapes: dict[str, tuple[int, ...]]) -> StoredTensors:
    """Tensors of a file that nobody reads."""

    def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(accumulate(reversed((*shape[1:], 1)), lambda a, b: a * b))[::-1]

    return {
        name: StoredTensor(name, Path("model.safetensors"), "float32", shape, 0, strides(shape))
        for name, shape in shapes.items()
    }


def shapes_of(spec: UNetSpec) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = UNet(UNetConfig(**msgspec.structs.asdict(spec)))
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def single_file(model: str) -> dict[str, tuple[int, ...]]:
    names = dict(compvis_shapes(replace(Sizes(), **FILES[model])))
    return {name: shape for name, shape in names.items() if name.startswith("model.diffusion_model.")}


@pytest.mark.parametrize("model", CONFIGS)
def test_a_published_config_makes_diffusers_network(model: str) -> None:
    with torch.device("meta"):
        theirs = UNet2DConditionModel.from_config(CONFIGS[model])
    spec = read_unet_config(model, CONFIGS[model])
    assert shapes_of(spec) == {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    heads = [block.attentions[0].transformer_blocks[0].attn2.heads for block in theirs.down_blocks[1:3]]
    assert list(spec.attention_heads[1:3]) == heads


@pytest.mark.parametrize("model", FILES)
def test_a_single_file_is_recognised_by_its_shapes(model: str) -> None:
    tensors = compvis_unet(described(single_file(model)))
    spec = infer_unet(model, tensors)
    assert spec == read_unet_config(model, CONFIGS[model])
    check_fit(model, "UNet", tensors, shapes_of(spec))


@pytest.mark.parametrize("model", ["SD 1.5 inpainting", "instruct-pix2pix", "SD 2.1 base"])
def test_names_of_a_single_file_are_mapped_as_diffusers_does(model: str) -> None:
    """Which knows no others of these models."""
    shapes = single_file(model)
    theirs = convert_ldm_unet_checkpoint({n: torch.empty(s, device="meta") for n, s in shapes.items()}, CONFIGS[model])
    ours = compvis_unet(described(shapes))
    assert {n: t.shape for n, t in ours.items()} == {n: tuple(t.shape) for n, t in theirs.items()}


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("SD 1.5", {"mid_block_only_cross_attention": False}),
        ("SD 1.5", {"resnet_out_scale_factor": None}),
        ("SD 1.5", {"only_cross_attention": True, "mid_block_only_cross_attention": False}),
        ("BK-SDM-v2-Tiny", {"only_cross_attention": True}),
    ],
)
def test_settings_that_change_nothing_or_hold_at_all_levels_are_read_as_diffusers_does(
    model: str, changes: dict[str, Any]
) -> None:
    config = CONFIGS[model] | changes
    with torch.device("meta"):
        theirs = UNet2DConditionModel.from_config(config)
    spec = read_unet_config(model, config)
    assert shapes_of(spec) == {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert spec.only_cross_attention == (True,) * len(spec.block_out_channels) * bool(
        config.get("only_cross_attention")
    )


def test_attention_that_looks_at_the_context_alone_is_recognised_by_its_width() -> None:
    spec = read_unet_config("", CONFIGS["SDXS-512-0.9"])
    assert spec.only_cross_attention == (True, False, False)
    assert infer_unet("", described(shapes_of(spec))) == spec


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"up_block_types": [CROSS_UP, CROSS_UP, CROSS_UP, PLAIN_UP]}, "has up_block_types ["),
        ({"mid_block_type": "UNetMidBlock2D"}, "has mid_block_type 'UNetMidBlock2D', not 'UNetMidBlock2DCrossAttn'"),
        ({"only_cross_attention": True, "mid_block_only_cross_attention": True}, "mid_block_only_cross_attention True"),
        ({"only_cross_attention": True}, "has only_cross_attention True in the middle"),
        ({"out_channels": 8}, "has out_channels 8, not 4"),
        ({"resnet_out_scale_factor": 0.5}, "has resnet_out_scale_factor 0.5"),
        ({"in_channels": 5}, "is a depth-to-image model (its U-Net takes 5 channels"),
        ({"in_channels": 7}, "is an upscaler (its U-Net takes 7 channels, not 4 (text to image), 8 (instruct-pix2pix)"),
    ],
)
def test_refuses_what_it_cannot_build(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        read_unet_config("model", SD1 | changes)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"only_cross_attention": [True]},
        {"time_cond_proj_dim": 257},
        {"time_cond_proj_dim": 2},
        {"time_cond_proj_dim": 10**9},
        {"layers_per_block": [2, 2, 2, 2]},
        {"attention_head_dim": [8, 8]},
        {"attention_head_dim": 7},
    ],
)
def test_refuses_a_config_that_makes_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        read_unet_config("model", SD1 | changes)


def test_refuses_an_embedding_of_guidance_that_no_model_has() -> None:
    """In one line, and before anything is as large as it says."""
    shapes = shapes_of(read_unet_config("", CONFIGS["LCM_Dreamshaper_v7"]))
    name = "time_embedding.cond_proj.weight"
    with pytest.raises(UnsupportedModelError, match="an unknown kind of U-Net: it embeds guidance in 10001 numbers"):
        infer_unet("model", described(shapes | {name: (320, 10001)}))
    with pytest.raises(TensorMismatchError, match=r"time_embedding\.cond_proj\.weight is \[7, 256\], not \[320, 256\]"):
        tensors = described(shapes | {name: (7, 256)})
        check_fit("model", "UNet", tensors, shapes_of(infer_unet("model", tensors)))
