"""CompVis' names of layers, as LoRA keys have them, against the rules by which checkpoints are read."""

import torch

from pocket_diffusion.checkpoint.key_mapping import compvis_unet
from pocket_diffusion.model.lora.keys import Keys
from pocket_models import UNet, UNetConfig


def test_every_layer_of_the_unet_is_found_by_its_compvis_name() -> None:
    with torch.device("meta"):
        published = [name for name in UNet(UNetConfig()).state_dict() if name.endswith(".weight")]
    keys = Keys({"unet": published, "text_encoder": []})
    spelled = {
        module: spelling for spelling, (_, module) in keys._modules.items() if spelling.startswith("diffusion_model.")
    }
    assert len(spelled) == len(published)
    compvis = {f"model.{spelling}.weight": f"{module}.weight" for module, spelling in spelled.items()}
    assert compvis_unet(compvis) == {name: name for name in published}


# What LCM-LoRA changes (Luo et al. 2023; the targets of diffusers' train_lcm_distill_lora_sd_wds.py): all but the first
# and last convolutions, the timestep's embedding and the norms.
DISTILLED = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip


def test_every_layer_of_a_distillation_is_found_in_each_style() -> None:
    with torch.device("meta"):
        published = [name for name in UNet(UNetConfig()).state_dict() if name.endswith(".weight")]
    keys = Keys({"unet": published, "text_encoder": []})
    modules = [name.removesuffix(".weight") for name in published]
    changed = [module for module in modules if module.endswith(DISTILLED)]
    assert len(changed) == 278
    for module in changed:
        kohya = f"lora_unet_{module.replace('.', '_')}"
        for key, part in (
            (f"{kohya}.lora_down.weight", "down"),
            (f"{kohya}.lora_up.weight", "up"),
            (f"{kohya}.alpha", "alpha"),
            (f"unet.{module}.lora_A.weight", "down"),
            (f"unet.{module}.lora_B.weight", "up"),
            (f"base_model.model.{module}.lora_A.weight", "down"),
            (f"base_model.model.{module}.lora_B.weight", "up"),
        ):
            assert keys.read(key) == ("unet", module, part), key
