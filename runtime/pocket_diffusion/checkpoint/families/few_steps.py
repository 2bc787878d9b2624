"""Distillations that were merged into a model of any family: its folder's scheduler names them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

FEW_STEPS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # LCM-LoRA (Luo et al. 2023, arXiv:2311.05556)
        "LCMScheduler": {"steps": 4, "guidance_scale": 1.0, "sampler": "lcm"},
        # Trajectory consistency (Zheng et al. 2024) and Hyper-SD (Ren et al. 2024); the sampler's own eta is TCD's 0.3.
        "TCDScheduler": {"steps": 4, "guidance_scale": 1.0, "sampler": "tcd"},
    }
)
"""Fields of `Defaults` by the class of the scheduler."""
