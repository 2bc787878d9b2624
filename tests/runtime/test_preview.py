"""The rough picture of latents, against maps that are known and against the embedded model's own decoder."""

import numpy as np
import pytest
from PIL import Image

from pocket_diffusion import Pipeline
from pocket_diffusion.images import to_array
from pocket_diffusion.preview import LatentPreview


def test_a_linear_encoder_is_undone() -> None:
    mix = np.random.default_rng(0).normal(0, 1, (3, 4)).astype("f4")

    def encode(picture: np.ndarray) -> np.ndarray:
        height, width = (side // 8 for side in picture.shape[2:])
        areas = picture.reshape(1, 3, height, 8, width, 8).mean((3, 5))
        return np.einsum("nchw,cd->ndhw", areas, mix) + 0.5

    colours = Image.fromarray(np.random.default_rng(1).integers(0, 256, (5, 7, 3), "u1"))
    latents = encode(to_array(colours.resize((56, 40), Image.Resampling.NEAREST), 56, 40))
    found = np.asarray(LatentPreview.fit(encode).picture(latents), float)
    # The swatches themselves are rounded to 8 bits, as the result is.
    assert np.abs(found - np.asarray(colours, float)).max() <= 1


@pytest.mark.parametrize("prompt", ["a lake under snowy mountains at sunset", "a beach at noon"])
def test_it_looks_like_the_picture(pipeline: Pipeline, prompt: str) -> None:
    preview = LatentPreview.fit(pipeline.encode_image)
    result = pipeline.generate(prompt, seed=3, width=128, height=128)
    rough = np.asarray(preview.picture(result.latents[:1]), float)
    assert rough.shape == (16, 16, 3)
    true = np.asarray(result.images[0].resize((16, 16), Image.Resampling.BOX), float)
    of_nothing = np.abs(true - true.mean((0, 1))).mean()
    assert np.abs(rough - true).mean() < of_nothing / 2
