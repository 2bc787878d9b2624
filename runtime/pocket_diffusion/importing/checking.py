"""What can be known of an imported bundle without PyTorch: that it computes, and how exact its 8-bit graphs are."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import (
    GUIDANCE,
    IMAGE_LATENTS,
    MASK,
    MASKED_LATENTS,
    Bundle,
    Component,
    Int8Graph,
    sha256_of,
)
from pocket_diffusion.calibration import PROMPTS, Calibration, calibrate
from pocket_diffusion.certificate import Certificate
from pocket_diffusion.errors import CheckpointError, InferenceError
from pocket_diffusion.machine.cpu import products_are_right
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.components import Components
from pocket_diffusion.pipeline import Pipeline

Latents = NDArray[np.float32]

_SIDE = 8
"""Of the picture for which every network computes once: in latents."""
_STEPS = 3
"""Of the picture that 8-bit graphs are measured on, over the whole range of timesteps."""


def check_evaluations(bundle: Bundle, name: str) -> None:
    """Compute once with each network.

    Raises:
        CheckpointError: a result is not finite; `name` is blamed.
        OperatorUnavailableError: this ONNX Runtime is too old for the graphs.

    """
    components = Components(bundle, provider="cpu", threads=None, budget=MemoryBudget.parse("low"))
    try:
        with Pipeline(components) as pipeline:
            context = pipeline.encode_prompt(PROMPTS[0])
            shape = (1, bundle.manifest.latents.channels, _SIDE, _SIDE)
            latents = np.random.default_rng(0).standard_normal(shape, np.float32)
            noise = pipeline.predict_noise(latents, 500, context, **_shown(bundle.manifest.unet, latents))
            picture = pipeline.decode_latents(latents)
            encoded = pipeline.encode_image(picture.clip(-1, 1))
    except InferenceError as error:
        raise CheckpointError(f"{name} cannot be drawn with: {error}") from None
    results = {"text_encoder": context, "unet": noise, "vae_decoder": picture, "vae_encoder": encoded}
    for role, result in results.items():
        _check_finite(role, name, result)


def _shown(unet: Component, latents: Latents) -> dict[str, Any]:
    """Return what a U-Net takes beside latents, timestep and context, for no picture in particular."""
    batch, _, *sides = latents.shape
    shown = {
        GUIDANCE: np.ones(batch, np.float32),
        MASK: np.ones((batch, 1, *sides), np.float32),
        MASKED_LATENTS: latents,
        IMAGE_LATENTS: latents,
    }
    return {name: array for name, array in shown.items() if unet.needs(name)}


def certify(bundle: Bundle, weights_errors: Mapping[str, float], name: str) -> None:
    """Measure the 8-bit graphs on a picture that the exact ones draw, and write that into their certificates.

    Each layer's form is the template's; `weights_errors` has what rounding changed of its weights. Where this CPU
    multiplies bytes wrong, the template's figures stay, which the certificate says.

    Raises:
        CheckpointError: a network cannot be drawn with; `name` is blamed.
        OperatorUnavailableError: this ONNX Runtime is too old for the graphs.

    """
    drawn = None
    if products_are_right():
        # Guidance doubles the time, but for a model that has learnt it.
        scale = None if bundle.manifest.guides_itself else 1.0
        drawn = calibrate(bundle, PROMPTS[:1], _STEPS, guidance_scale=scale, memory="low", encode=True)
        for role, evaluations in drawn.evaluations.items():
            _check_finite(role, name, *(output for one in evaluations for output in one.outputs.values()))
    else:
        check_evaluations(bundle, name)
    for role, int8 in bundle.manifest.int8_graphs.items():
        template = msgspec.json.decode(bundle.path(int8.certificate).read_bytes(), type=Certificate)
        layers = (
            msgspec.structs.replace(layer, storage_error=weights_errors.get(layer.name)) for layer in template.layers
        )
        certificate = msgspec.structs.replace(
            template,
            graph_sha256=sha256_of(bundle.path(int8.graph)),
            weights_sha256=bundle.manifest.files[bundle.manifest.component(role).weights].sha256,
            layers=tuple(layers),
            what=f"{template.what}, of random weights: the CPU that imported it multiplies bytes wrong",
        )
        if drawn is not None:
            certificate = _measure(certificate, drawn, role, int8, name)
        bundle.path(int8.certificate).write_bytes(msgspec.json.format(msgspec.json.encode(certificate)) + b"\n")


def _measure(certificate: Certificate, drawn: Calibration, role: str, int8: Int8Graph, name: str) -> Certificate:
    component = msgspec.structs.replace(drawn.bundle.manifest.component(role), graph=int8.graph)
    errors = drawn.errors(role, component, drawn.evaluations[role])
    _check_finite(role, name, np.array(errors))
    unguided = "" if drawn.guidance_scale is None else ", not guided"
    return msgspec.structs.replace(
        certificate,
        relative_error=float(np.median(errors)),
        largest_error=max(errors),
        evaluations=len(errors),
        psnr_db=drawn.psnr(role, component),
        what=f"{drawn.what}{unguided}; the layers' forms are those of all imported checkpoints",
    )


def _check_finite(role: str, name: str, *results: NDArray[np.generic]) -> None:
    if not all(np.isfinite(result).all() for result in results):
        raise CheckpointError(f"{name} cannot be drawn with: its {role} gives NaN or infinity; fetch it again")
