"""The autoencoder where a graphics card has no room for a whole picture."""

from typing import Any

import numpy as np
import pytest

from pocket_diffusion.bundle import Bundle
from pocket_diffusion.errors import OutOfMemoryError
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.components import Arrays, Components
from pocket_diffusion.model.vae import VAE
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

LATENTS = np.random.default_rng(0).standard_normal((1, 4, 80, 96), np.float32)


class Decoder:
    """A decoder that shows three channels as they are, with memory for so many latents."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.ran: list[tuple[int, int]] = []

    def run(self, *_: str, latents: np.ndarray) -> Arrays:
        self.ran.append((latents.shape[2], latents.shape[3]))
        if latents[0, 0].size > self.room:
            raise OutOfMemoryError("vae_decoder failed; use --memory low")
        return {"picture": latents[:, :3].repeat(8, 2).repeat(8, 3)}

    def close(self) -> None:
        pass


def vae(provider: Any, memory: str, decoder: Decoder) -> VAE:  # noqa: ANN401 - a literal
    bundle = Bundle.open(DEFAULT_BUNDLE)
    budget = MemoryBudget.parse(memory)
    components = Components(bundle, provider=provider, threads=None, budget=budget, open_network=lambda _: decoder)
    return VAE(components, bundle.manifest.latents)


def test_a_graphics_card_takes_large_pictures_whole() -> None:
    decoder = Decoder(room=80 * 96)
    vae("cuda", "fast", decoder).decode(LATENTS)
    assert decoder.ran == [(80, 96)]


def test_what_does_not_fit_as_a_whole_is_taken_in_tiles(caplog: pytest.LogCaptureFixture) -> None:
    tiled = vae("cuda", "balanced", Decoder(room=72 * 80)).decode(LATENTS)
    decoder = Decoder(room=72 * 80)
    np.testing.assert_array_equal(vae("cuda", "fast", decoder).decode(LATENTS), tiled)
    assert decoder.ran[0] == (80, 96)
    assert max(height * width for height, width in decoder.ran[1:]) <= 72 * 80
    assert "it is run in tiles instead" in caplog.text


@pytest.mark.parametrize(
    ("provider", "memory", "runs"), [("cuda", "fast", 2), ("cuda", "balanced", 1), ("cpu", "fast", 1)]
)
def test_where_tiles_do_not_help_the_error_is_told(provider: str, memory: str, runs: int) -> None:
    decoder = Decoder(room=10)
    with pytest.raises(OutOfMemoryError):
        vae(provider, memory, decoder).decode(LATENTS)
    assert len(decoder.ran) == runs
