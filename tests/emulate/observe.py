"""What this CPU makes of a bundle, kept for a comparison with others: `python observe.py BUNDLE OUT.npz`.

Runs where `emulate.py` sends it: on the machine itself, and on each emulated CPU.
"""

import sys
from pathlib import Path

import numpy as np

from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.machine.cpu import products_are_right
from pocket_diffusion.model.arithmetic import EXACT, INT8, ArithmeticChoice, choose_arithmetic
from pocket_diffusion.model.budget import AUTO, MemoryBudget
from pocket_diffusion.model.components import Components
from pocket_diffusion.model.memory import MODES
from pocket_diffusion.stages import Stages

PROMPT, SEED, STEPS, TIMESTEP = "a lake at sunset", 1, 1, 500
SIDE = 64
"""Pixels: few enough for any bundle under emulation."""


def predict(stages: Stages) -> np.ndarray:
    """Return the U-Net's prediction `[1, 4, h, w]` for seeded latents under the prompt."""
    spec = stages.bundle.manifest.latents
    shape = (1, spec.channels, SIDE // spec.downscale, SIDE // spec.downscale)
    latents = np.random.default_rng(SEED).standard_normal(shape, np.float32)
    return stages.predict_noise(latents, TIMESTEP, stages.encode_prompt(PROMPT))


def observe(path: Path) -> dict[str, np.ndarray]:
    """Draw and predict in every memory mode; the names are those that `verdicts.Observation` reads."""
    bundle = Bundle.open(path)
    found = {
        "products_right": np.array(products_are_right()),
        "auto": np.array(choose_arithmetic(AUTO, bundle, "cpu").int8, np.str_),
    }
    for mode in MODES:
        with Pipeline.load(path, provider="cpu", memory=mode, arithmetic=EXACT) as pipeline:
            drawn = pipeline.generate(PROMPT, width=SIDE, height=SIDE, steps=STEPS, seed=SEED)
            found[f"picture {mode}"] = np.asarray(drawn.images[0])
            found[f"exact {mode}"] = predict(pipeline)
    if "unet" in bundle.manifest.int8_graphs and found["products_right"]:
        # Not by way of `Pipeline.load`, which refuses 8 bits where they would be right but slow.
        choice = ArithmeticChoice(INT8, {"unet": bundle.certificate("unet")})
        for mode in MODES:
            budget = MemoryBudget.parse(mode)
            with Stages(Components(bundle, provider="cpu", threads=None, budget=budget, arithmetic=choice)) as stages:
                found[f"int8 {mode}"] = predict(stages)
    return found


if __name__ == "__main__":
    np.savez(sys.argv[2], allow_pickle=False, **observe(Path(sys.argv[1])))
