"""Our networks against diffusers and transformers, on the same seeded weights."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from pocket_models import VAE, TextEncoder, TextEncoderConfig, UNet, UNetConfig, VAEConfig

# Two float32 implementations of the same sums differ only in their order of addition.
RELATIVE = 1e-5

TEXT = TextEncoderConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4
)
UNET = UNetConfig(
    block_out_channels=(32, 64, 64),
    attention_levels=(True, True, False),
    attention_heads=(4, 8, 8),
    cross_attention_dim=64,
    norm_num_groups=16,
)
VAE_ = VAEConfig(block_out_channels=(16, 32, 32, 48), layers_per_block=1, norm_num_groups=8)


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def published_text_state(model: CLIPTextModel) -> dict[str, torch.Tensor]:
    # transformers 5 dropped the published prefix from its attributes, but still writes it into files.
    return {
        name if name.startswith("text_model.") else f"text_model.{name}": tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith("position_ids")
    }


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_text_encoder_equals_transformers(act: str) -> None:
    torch.manual_seed(0)
    config = TextEncoderConfig(**{**TEXT.__dict__, "hidden_act": act})
    theirs = CLIPTextModel(CLIPTextConfig(**config.to_diffusers())).eval()
    ours = TextEncoder(config).eval()
    ours.load_state_dict(published_text_state(theirs))
    ids = torch.randint(0, 1000, (2, 77))
    with torch.no_grad():
        published = theirs(ids, output_hidden_states=True)
        assert relative_error(ours(ids), published.last_hidden_state) < RELATIVE
        layers = ours.text_model(ids)
        # The first hidden state is the embeddings.
        for layer, hidden in zip(layers, published.hidden_states[1:], strict=True):
            assert relative_error(layer, getattr(theirs, "text_model", theirs).final_layer_norm(hidden)) < RELATIVE


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (9, 13)], ids=["even", "odd at every level"])
def test_unet_equals_diffusers(linear: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    config = UNetConfig(**{**UNET.__dict__, "use_linear_projection": linear})
    theirs = UNet2DConditionModel.from_config(config.to_diffusers()).eval()
    ours = UNet(config).eval()
    ours.load_state_dict(theirs.state_dict())
    latents, context = torch.randn(2, 4, *size), torch.randn(2, 77, 64)
    with torch.no_grad():
        for t in (1, 981):
            timestep = torch.tensor([t, t])
            assert relative_error(ours(latents, timestep, context), theirs(latents, t, context).sample) < RELATIVE


def test_vae_equals_diffusers() -> None:
    torch.manual_seed(2)
    theirs = AutoencoderKL.from_config(VAE_.to_diffusers()).eval()
    ours = VAE(VAE_).eval()
    ours.load_state_dict(theirs.state_dict())
    picture, latents = torch.rand(2, 3, 72, 48) * 2 - 1, torch.randn(2, 4, 5, 7)
    with torch.no_grad():
        assert relative_error(ours.encode(picture), theirs.encode(picture).latent_dist.parameters) < RELATIVE
        assert relative_error(ours.decode(latents), theirs.decode(latents).sample) < RELATIVE


def test_defaults_are_stable_diffusion_1() -> None:
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in model.parameters())
            for model in (TextEncoder(TextEncoderConfig()), UNet(UNetConfig()), VAE(VAEConfig()))
        ]
    # The published parameter counts of SD 1.5's text encoder, U-Net and VAE.
    assert sizes == [123_060_480, 859_520_964, 83_653_863]
