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
