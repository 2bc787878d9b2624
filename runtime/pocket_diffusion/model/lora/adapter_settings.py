"""What PEFT and diffusers write beside a LoRA's tensors: alpha, which is not among the tensors then."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

DIFFUSERS_KEY = "lora_adapter_metadata"
"""Where diffusers puts the settings into a safetensors file's metadata, each with its network's name in front."""


class AdapterSettings(msgspec.Struct, frozen=True):
    """PEFT's `LoraConfig`, as far as the weights' scale depends on it."""

    lora_alpha: float
    alpha_pattern: dict[str, float] = {}
    """By the end of a layer's name."""
    use_rslora: bool = False
    """Alpha is divided by the rank's root (Kalajdzievski 2023)."""

    def alpha(self, module: str, rank: int) -> float:
        """Return a layer's alpha, to be divided by the rank."""
        own = (a for end, a in self.alpha_pattern.items() if module == end or module.endswith(f".{end}"))
        return next(own, self.lora_alpha) * (math.sqrt(rank) if self.use_rslora else 1)


def settings_of_diffusers(metadata: Mapping[str, str]) -> dict[str, AdapterSettings]:
    """Return the settings by network that a safetensors file's metadata has.

    Raises:
        msgspec.DecodeError: they are not of that form.

    """
    text = metadata.get(DIFFUSERS_KEY)
    by_network: dict[str, dict[str, Any]] = {}
    for name, value in ({} if text is None else msgspec.json.decode(text, type=dict[str, Any])).items():
        network, _, field = name.partition(".")
        by_network.setdefault(network, {})[field] = value
    return {
        network: msgspec.convert(fields, AdapterSettings)
        for network, fields in by_network.items()
        if fields.get("lora_alpha") is not None
    }


def settings_of_peft(text: bytes) -> AdapterSettings:
    """Return the settings of PEFT's `adapter_config.json`.

    Raises:
        msgspec.DecodeError: they are not of that form.

    """
    return msgspec.json.decode(text, type=AdapterSettings)
