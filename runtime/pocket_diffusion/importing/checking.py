"""What can be known of an imported bundle without PyTorch: that it computes, and how exact its 8-bit graphs are."""

import msgspec
import numpy as np

from pocket_diffusion.bundle import Bundle, sha256_of
from pocket_diffusion.calibration import PROMPTS, calibrate
from pocket_diffusion.certificate import Certificate
from pocket_diffusion.errors import CheckpointError, InferenceError
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.components import Components
from pocket_diffusion.pipeline import Pipeline

_SIDE = 64
"""Of the picture that every network computes once for: in pixels."""
_STEPS = 4
"""Of the picture that 8-bit graphs are measured on, over the whole range of timesteps."""


def check_evaluations(bundle: Bundle, name: str) -> None:
    """Compute once with each network, exactly.

    Raises:
        CheckpointError: a result is not finite; `name` is blamed.
        OperatorUnavailableError: this ONNX Runtime is too old for the graphs.

    """
    components = Components(bundle, provider="cpu", threads=None, budget=MemoryBudget.parse("balanced"))
    side = max(_SIDE, bundle.manifest.latents.downscale * 8)
    try:
        with Pipeline(components) as pipeline:
            context = pipeline.encode_prompt(PROMPTS[0])
            shape = (1, bundle.manifest.latents.channels, *[side // bundle.manifest.latents.downscale] * 2)
            latents = np.random.default_rng(0).standard_normal(shape, np.float32)
            noise = pipeline.predict_noise(latents, 500, context)
            picture = pipeline.decode_latents(latents)
            encoded = pipeline.encode_image(picture.clip(-1, 1))
    except InferenceError as error:
        raise CheckpointError(f"{name} cannot be drawn with: {error}") from None
    results = {"text encoder": context, "U-Net": noise, "VAE's decoder": picture, "VAE's encoder": encoded}
    for network, result in results.items():
        if not np.isfinite(result).all():
            raise CheckpointError(f"{name} cannot be drawn with: its {network} gives NaN or infinity; fetch it again")


def certify(bundle: Bundle) -> None:
    """Measure the 8-bit graphs on a picture that the exact ones draw, and write that into their certificates.

    Each layer's form is the template's.
    """
    drawn = calibrate(bundle, prompts=PROMPTS[:1], steps=_STEPS, encode=True)
    manifest = bundle.manifest
    for role, int8 in manifest.int8_graphs.items():
        component = manifest.in_int8([role]).component(role)
        errors = drawn.errors(role, component, drawn.evaluations[role])
        template = msgspec.json.decode(bundle.path(int8.certificate).read_bytes(), type=Certificate)
        certificate = msgspec.structs.replace(
            template,
            graph_sha256=sha256_of(bundle.path(int8.graph)),
            weights_sha256=manifest.files[component.weights].sha256,
            relative_error=float(np.median(errors)),
            largest_error=max(errors),
            evaluations=len(errors),
            psnr_db=drawn.psnr(role, component),
            what=f"{drawn.what}; the layers' forms are those of all imported checkpoints",
        )
        bundle.path(int8.certificate).write_bytes(msgspec.json.format(msgspec.json.encode(certificate)) + b"\n")
