"""Bundles of models whose U-Nets take more than Stable Diffusion's, made of the embedded one."""

from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from pocket_diffusion.bundle import GUIDANCE, IMAGE_LATENTS, MASK, MASKED_LATENTS, Bundle, Manifest, TensorSpec
from pocket_diffusion.machine.session import GraphSession
from pocket_diffusion.model.components import Arrays, Components
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

INPUTS = {
    GUIDANCE: TensorSpec(name=GUIDANCE, dtype="float32", shape=("batch",)),
    MASK: TensorSpec(name=MASK, dtype="float32", shape=("batch", 1, "height", "width")),
    MASKED_LATENTS: TensorSpec(name=MASKED_LATENTS, dtype="float32", shape=("batch", 4, "height", "width")),
    IMAGE_LATENTS: TensorSpec(name=IMAGE_LATENTS, dtype="float32", shape=("batch", 4, "height", "width")),
}
SELF_GUIDED, REPAINTING, INSTRUCTED = (GUIDANCE,), (MASK, MASKED_LATENTS), (IMAGE_LATENTS,)
"""What each kind of U-Net takes beside latents, timestep and context."""


def with_inputs(manifest: Manifest, names: tuple[str, ...]) -> Manifest:
    """Return the manifest of a model whose U-Net takes these inputs, too."""
    inputs = (*manifest.unet.inputs, *(INPUTS[name] for name in names))
    return msgspec.structs.replace(manifest, unet=msgspec.structs.replace(manifest.unet, inputs=inputs))


@dataclass
class Sibling:
    """A bundle whose U-Net is the embedded one, which ignores what else it is given and notes it."""

    bundle: Bundle
    names: tuple[str, ...]
    seen: list[dict[str, np.ndarray]] = field(default_factory=list)
    """The inputs of each run."""


def make_sibling(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> Sibling:
    """Have all bundles from now on be this one."""
    plain = Bundle.open(DEFAULT_BUNDLE)
    sibling = Sibling(Bundle(plain.root, with_inputs(plain.manifest, names)), names)
    open_session = Components.open_session

    class UNet:
        def __init__(self) -> None:
            self.session = GraphSession(plain.root, "unet", plain.manifest.unet, "cpu")

        def run(self, *_: str, **inputs: np.ndarray) -> Arrays:
            sibling.seen.append(inputs)
            assert {name for name in inputs if name in INPUTS} == set(names)
            return self.session.run(**{name: array for name, array in inputs.items() if name not in INPUTS})

        def close(self) -> None:
            self.session.close()

    def opened(components: Components, role: str) -> object:
        return UNet() if role == "unet" else open_session(components, role)

    monkeypatch.setattr(Components, "open_session", opened)
    return sibling
