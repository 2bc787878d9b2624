"""Stable Diffusion's networks as plain PyTorch modules: no files and no ONNX.

Parameter names are those under which diffusers and transformers publish their weights, so that a
diffusers folder loads without renaming and a trained model is saved as its `state_dict()`.
"""

from pocket_models.clip import TextEncoder
from pocket_models.config import TextEncoderConfig, UNetConfig, VAEConfig
from pocket_models.unet import UNet
from pocket_models.vae import VAE

__all__ = ["VAE", "TextEncoder", "TextEncoderConfig", "UNet", "UNetConfig", "VAEConfig"]
