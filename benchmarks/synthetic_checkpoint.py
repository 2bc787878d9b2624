"""Write a checkpoint with Stable Diffusion 1.5's true layout and size, but seeded random weights.

    python benchmarks/synthetic_checkpoint.py OUTPUT.ckpt | OUTPUT.safetensors [--seed N] [--half]

The names and shapes are those of `v1-5-pruned-emaonly` in CompVis' form, with what else such files hold (schedule
buffers, `position_ids`, Lightning's leftovers in a .ckpt). They are spelled out here block by block and not derived
from this project's own modules, so that loading such a file proves something. Weights are scaled by their fan-in, so
that activations stay finite through all layers.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What SD 1.5 is made of; smaller values make small checkpoints of the same layout."""

    unet_widths: tuple[int, ...] = (320, 640, 1280, 1280)
    unet_layers: int = 2
    unet_attention: tuple[bool, ...] = (True, True, True, False)
    unet_channels: int = 4
    """Of the latents and of what is shown beside them."""
    unet_guidance: int | None = None
    """The width of the guidance scale's embedding, of models that have learnt guidance."""
    unet_linear: bool = False
    """Linear projections into and out of the attention, as in Stable Diffusion 2."""
    unet_middle: bool = True
    unet_gaps: bool = False
    """Distilled U-Nets with one layer a level, numbered as diffusers' conversion script does: three to a level."""
    context: int = 768
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)
    vae_layers: int = 2
    vocabulary: int = 49408
    text_layers: int = 12
    text_inner: int = 3072
    open_clip: bool = False
    """The text encoder under OpenCLIP's names, as in Stable Diffusion 2; has one layer more, which is not used."""


def compvis_shapes(sizes: Sizes) -> Shapes:
    """Yield the name and shape of every parameter."""
    for name, shape in _unet(sizes):
        yield f"model.diffusion_model.{name}", shape
    for name, shape in _vae(sizes):
        yield f"first_stage_model.{name}", shape
    if sizes.open_clip:
        for name, shape in _open_clip(sizes):
            yield f"cond_stage_model.model.{name}", shape
        return
    for name, shape in _text_encoder(sizes):
        yield f"cond_stage_model.transformer.text_model.{name}", shape


def synthetic_state_dict(sizes: Sizes, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Return seeded weights for every parameter, and the buffers that SD 1.5's file has beside them."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: _weight(name, shape, generator).to(dtype) for name, shape in compvis_shapes(sizes)}
    if sizes.open_clip:
        state["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
        state["cond_stage_model.model.attn_mask"] = torch.full((77, 77), float("-inf")).triu(1)
    else:
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    state |= {"betas": betas, "alphas_cumprod": torch.cumprod(1 - betas, 0)}
    state["model_ema.decay"], state["model_ema.num_updates"] = torch.tensor(0.9999), torch.tensor(470000)
    return state


def save_checkpoint(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write a .safetensors, or a .ckpt as PyTorch Lightning does."""
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(
            {"epoch": 12, "global_step": 470000, "pytorch-lightning_version": "1.4.2", "state_dict": state}, path
        )


def _weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape, generator=generator)
    if name.endswith(".bias"):
        return values * 0.02
    if len(shape) == 1:  # norms
        return 1 + values * 0.1
    if "embedding" in name:
        return values * 0.02
    return values / math.sqrt(math.prod(shape[1:]))


def _layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _unet(sizes: Sizes) -> Shapes:
    first = sizes.unet_widths[0]
    yield from _layer("time_embed.0", 4 * first, first)
    yield from _layer("time_embed.2", 4 * first, 4 * first)
    if sizes.unet_guidance is not None:
        yield from _layer("time_embed.cond_proj", first, sizes.unet_guidance, bias=False)
    yield from _layer("input_blocks.0.0", first, sizes.unet_channels, 3, 3)
    number, width, skips = 1, first, [first]
    gap = int(sizes.unet_gaps)
    for level, wider in enumerate(sizes.unet_widths):
        for _ in range(sizes.unet_layers):
            yield from _unet_resnet(f"input_blocks.{number}.0", width, wider, sizes)
            if sizes.unet_attention[level]:
                yield from _unet_attention(f"input_blocks.{number}.1", wider, sizes)
            number, width = number + 1 + gap, wider
            skips.append(width)
        if level < len(sizes.unet_widths) - 1:
            yield from _layer(f"input_blocks.{number}.0.op", width, width, 3, 3)
            number += 1
            skips.append(width)
    if sizes.unet_middle:
        yield from _unet_resnet("middle_block.0", width, width, sizes)
        yield from _unet_attention("middle_block.1", width, sizes)
        yield from _unet_resnet("middle_block.2", width, width, sizes)
    number = 0
    for level, narrower in reversed(list(enumerate(sizes.unet_widths))):
        attention = sizes.unet_attention[level]
        for layer in range(sizes.unet_layers + 1):
            block = f"output_blocks.{number}"
            yield from _unet_resnet(f"{block}.0", width + skips.pop(), narrower, sizes)
            width = narrower
            # The script does not expect attention at the coarsest level, and leaves its name as it is.
            left = sizes.unet_gaps and level == len(sizes.unet_widths) - 1
            if attention:
                yield from _unet_attention(f"up_blocks.0.attentions.{layer}" if left else f"{block}.1", width, sizes)
            number += 1
            if layer == sizes.unet_layers and gap:
                block = f"output_blocks.{number}"
                number += 1
            if layer == sizes.unet_layers and level:
                yield from _layer(f"{block}.{2 if attention and not left else 1}.conv", width, width, 3, 3)
    yield from _layer("out.0", first)
    yield from _layer("out.2", 4, first, 3, 3)


def _unet_resnet(name: str, width: int, wider: int, sizes: Sizes) -> Shapes:
    yield from _layer(f"{name}.in_layers.0", width)
    yield from _layer(f"{name}.in_layers.2", wider, width, 3, 3)
    yield from _layer(f"{name}.emb_layers.1", wider, 4 * sizes.unet_widths[0])
    yield from _layer(f"{name}.out_layers.0", wider)
    yield from _layer(f"{name}.out_layers.3", wider, wider, 3, 3)
    if width != wider:
        yield from _layer(f"{name}.skip_connection", wider, width, 1, 1)


def _unet_attention(name: str, width: int, sizes: Sizes) -> Shapes:
    yield from _layer(f"{name}.norm", width)
    kernel = () if sizes.unet_linear else (1, 1)
    yield from _layer(f"{name}.proj_in", width, width, *kernel)
    block = f"{name}.transformer_blocks.0"
    for attention, source in (("attn1", width), ("attn2", sizes.context)):
        yield from _layer(f"{block}.{attention}.to_q", width, width, bias=False)
        yield from _layer(f"{block}.{attention}.to_k", width, source, bias=False)
        yield from _layer(f"{block}.{attention}.to_v", width, source, bias=False)
        yield from _layer(f"{block}.{attention}.to_out.0", width, width)
    yield from _layer(f"{block}.ff.net.0.proj", 8 * width, width)
    yield from _layer(f"{block}.ff.net.2", width, 4 * width)
    for norm in ("norm1", "norm2", "norm3"):
        yield from _layer(f"{block}.{norm}", width)
    yield from _layer(f"{name}.proj_out", width, width, *kernel)


def _vae(sizes: Sizes) -> Shapes:
    widths, last = sizes.vae_widths, len(sizes.vae_widths) - 1
    width = widths[0]
    yield from _layer("encoder.conv_in", width, 3, 3, 3)
    for level, wider in enumerate(widths):
        for layer in range(sizes.vae_layers):
            yield from _vae_resnet(f"encoder.down.{level}.block.{layer}", width, wider)
            width = wider
        if level < last:
            yield from _layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from _vae_middle("encoder", width)
    yield from _layer("encoder.norm_out", width)
    yield from _layer("encoder.conv_out", 8, width, 3, 3)
    yield from _layer("quant_conv", 8, 8, 1, 1)
    yield from _layer("post_quant_conv", 4, 4, 1, 1)
    yield from _layer("decoder.conv_in", width, 4, 3, 3)
    yield from _vae_middle("decoder", width)
    for level, narrower in reversed(list(enumerate(widths))):
        for layer in range(sizes.vae_layers + 1):
            yield from _vae_resnet(f"decoder.up.{level}.block.{layer}", width, narrower)
            width = narrower
        if level:
            yield from _layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from _layer("decoder.norm_out", width)
    yield from _layer("decoder.conv_out", 3, width, 3, 3)


def _vae_middle(half: str, width: int) -> Shapes:
    yield from _vae_resnet(f"{half}.mid.block_1", width, width)
    yield from _layer(f"{half}.mid.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from _layer(f"{half}.mid.attn_1.{part}", width, width, 1, 1)
    yield from _vae_resnet(f"{half}.mid.block_2", width, width)


def _vae_resnet(name: str, width: int, wider: int) -> Shapes:
    yield from _layer(f"{name}.norm1", width)
    yield from _layer(f"{name}.conv1", wider, width, 3, 3)
    yield from _layer(f"{name}.norm2", wider)
    yield from _layer(f"{name}.conv2", wider, wider, 3, 3)
    if width != wider:
        yield from _layer(f"{name}.nin_shortcut", wider, width, 1, 1)


def _text_encoder(sizes: Sizes) -> Shapes:
    width = sizes.context
    yield "embeddings.token_embedding.weight", (sizes.vocabulary, width)
    yield "embeddings.position_embedding.weight", (77, width)
    for i in range(sizes.text_layers):
        layer = f"encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _layer(f"{layer}.self_attn.{part}", width, width)
        yield from _layer(f"{layer}.layer_norm1", width)
        yield from _layer(f"{layer}.mlp.fc1", sizes.text_inner, width)
        yield from _layer(f"{layer}.mlp.fc2", width, sizes.text_inner)
        yield from _layer(f"{layer}.layer_norm2", width)
    yield from _layer("final_layer_norm", width)


def _open_clip(sizes: Sizes) -> Shapes:
    width = sizes.context
    yield "positional_embedding", (77, width)
    yield "text_projection", (width, width)
    yield from _layer("token_embedding", sizes.vocabulary, width, bias=False)
    for i in (*range(sizes.text_layers), 23):  # the true one has 24 in all
        layer = f"transformer.resblocks.{i}"
        yield from _layer(f"{layer}.ln_1", width)
        yield f"{layer}.attn.in_proj_weight", (3 * width, width)
        yield f"{layer}.attn.in_proj_bias", (3 * width,)
        yield from _layer(f"{layer}.attn.out_proj", width, width)
        yield from _layer(f"{layer}.ln_2", width)
        yield from _layer(f"{layer}.mlp.c_fc", sizes.text_inner, width)
        yield from _layer(f"{layer}.mlp.c_proj", width, sizes.text_inner)
    yield from _layer("ln_final", width)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="a .ckpt or .safetensors file to write (4.3 GB; 2.1 GB with --half)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", action="store_true", help="store float16")
    arguments = parser.parse_args()
    if arguments.output.suffix not in (".ckpt", ".safetensors"):
        parser.error("OUTPUT must end in .ckpt or .safetensors")
    state = synthetic_state_dict(Sizes(), arguments.seed, torch.float16 if arguments.half else torch.float32)
    save_checkpoint(state, arguments.output)
    sys.stdout.write(f"{arguments.output}: {len(state)} tensors, {arguments.output.stat().st_size / 1e9:.2f} GB\n")


if __name__ == "__main__":
    main()
