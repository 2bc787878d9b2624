"""Large pictures in tiles: every latent covered, no weight lost, no seam."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocket_diffusion import Pipeline
from pocket_diffusion.model.tiles import OVERLAP, blend, fades, in_tiles, largest_run, spans

lengths = st.integers(8, 512)
tiles = st.integers(2 * OVERLAP, 128)


@given(lengths, tiles)
def test_spans_cover_a_side_and_overlap_enough(length: int, tile: int) -> None:
    found = spans(length, tile)
    sizes = {size for _, size in found}
    assert len(sizes) == 1
    assert max(sizes) <= tile or len(found) == 1
    assert found[0][0] == 0
    assert sum(found[-1]) == length
    for (start, size), (following, _) in itertools.pairwise(found):
        assert start + size - following >= OVERLAP


def test_tiles_are_as_few_as_can_be_and_no_larger_than_that_takes() -> None:
    assert spans(64, 64) == [(0, 64)]
    assert spans(64, 36) == [(0, 36), (28, 36)]
    assert spans(128, 72) == [(0, 68), (60, 68)]


@settings(max_examples=30)
@given(lengths, tiles, st.sampled_from([1, 8]))
def test_weights_sum_to_one_everywhere(length: int, tile: int, scale: int) -> None:
    covering = spans(length, tile)
    total = np.zeros(length * scale)
    for (start, size), weight in zip(covering, fades(covering, scale), strict=True):
        total[start * scale : (start + size) * scale] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (33, 57), (8, 90), (64, 36)])
def test_a_function_that_sees_one_latent_at_a_time_is_reproduced(height: int, width: int) -> None:
    latents = noise(1, 4, height, width)
    enlarged = latents[:, :3].repeat(8, 2).repeat(8, 3)
    made = blend(lambda tile: tile[:, :3].repeat(8, 2).repeat(8, 3), latents, 3, tile=24, outward=8)
    np.testing.assert_allclose(made, enlarged, atol=1e-5)
    reduced = blend(lambda tile: tile[:, :, ::8, ::8], enlarged, 3, tile=24, inward=8)
    np.testing.assert_allclose(reduced, latents[:, :3], atol=1e-5)


def test_a_function_that_sees_a_few_latents_around_is_reproduced_but_next_to_where_tiles_begin() -> None:
    def blur(array: np.ndarray) -> np.ndarray:
        padded = np.pad(array, ((0, 0), (0, 0), (1, 1), (1, 1)))
        height, width = array.shape[2:]
        return sum(padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9

    latents = noise(1, 4, 64, 64)
    error = np.abs(blend(blur, latents, 4, tile=36) - blur(latents)).max(axis=(0, 1))
    at_edges = [27, 28, 35, 36]
    assert np.delete(np.delete(error, at_edges, 0), at_edges, 1).max() < 1e-5
    # Where a tile begins, its weight is half a latent's share of the overlap, and the blur's error at most a third.
    assert error.max() < 0.5 / OVERLAP * np.abs(latents).max()


def test_colours_of_their_own_are_taken_from_tiles() -> None:
    gradient = np.linspace(-1, 1, 64, dtype=np.float32) * np.ones((1, 3, 64, 1), np.float32)

    def shift(array: np.ndarray) -> np.ndarray:
        """As a normalisation does: what a tile is on the whole goes into all of it."""
        return array + (0.3 if array.shape == (1, 3, 36, 36) and array.mean() > 0 else 0)

    shifted = np.abs(blend(shift, gradient, 3, tile=36) - gradient)
    corrected = np.abs(in_tiles(shift, gradient, tile=36) - gradient)
    assert shifted.max() > 0.29
    assert corrected.max() < 0.1


def test_a_picture_that_is_small_enough_is_taken_whole() -> None:
    seen = []
    in_tiles(lambda array: seen.append(array.shape) or array, noise(1, 4, 36, 20), tile=36)
    assert seen == [(1, 4, 36, 20)]


def test_no_tile_is_larger_than_allowed() -> None:
    seen = []
    in_tiles(lambda array: seen.append(array.shape) or array, noise(1, 4, 100, 90), tile=36)
    assert len(seen) == 13  # twelve tiles, and the whole at a lower resolution
    assert max(height * width for *_, height, width in seen) <= 36 * 36 * 1.1


@given(lengths, lengths, tiles)
def test_the_largest_run_is_foretold(height: int, width: int, tile: int) -> None:
    seen = []

    def note(array: np.ndarray) -> np.ndarray:
        seen.append(array.shape[2] * array.shape[3])
        return array

    in_tiles(note, np.zeros((1, 1, height, width), np.float32), tile=tile)
    assert max(seen) == largest_run(height, width, tile)


@pytest.fixture(scope="module")
def landscape(pipeline: Pipeline) -> np.ndarray:
    """Latents `[1, 4, 48, 48]` of nine small landscapes side by side."""
    small = pipeline.generate("mountains at sunset", width=128, height=128, steps=6, seed=1, count=9).latents
    return small.reshape(3, 3, 4, 16, 16).transpose(2, 0, 3, 1, 4).reshape(1, 4, 48, 48)


def test_the_error_at_the_seams_is_like_that_elsewhere(pipeline: Pipeline, landscape: np.ndarray) -> None:
    scale = np.float32(pipeline.bundle.manifest.latents.scaling_factor)
    decoder = pipeline.components.open_session("vae_decoder")

    def decode(latents: np.ndarray) -> np.ndarray:
        return decoder.run(latents=latents)["picture"]

    whole = decode(landscape / scale)
    error = (in_tiles(decode, landscape / scale, tile=28, outward=8) - whole) ** 2
    assert 10 * np.log10(4 / error.mean()) > 26  # PSNR in dB; a shift by one pixel is at 20 or less
    (first, size), (second, _) = spans(48, 28)
    seams = np.zeros(error.shape[2:], bool)
    seams[second * 8 : (first + size) * 8] = seams[:, second * 8 : (first + size) * 8] = True
    assert np.sqrt(error[..., seams].mean() / error[..., ~seams].mean()) < 1.5


def test_the_mode_decides_about_tiles(pipeline: Pipeline, landscape: np.ndarray) -> None:
    low = Pipeline.load(provider="cpu", memory="low", arithmetic="exact")
    whole, tiled = pipeline.decode_latents(landscape), low.decode_latents(landscape)
    assert 0 < np.abs(whole - tiled).mean() < 0.1
    latents = low.encode_image(whole.clip(-1, 1))
    assert latents.shape == landscape.shape
    assert np.corrcoef(latents.ravel(), pipeline.encode_image(whole.clip(-1, 1)).ravel())[0, 1] > 0.98


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_arrays_of_other_precisions_are_tiled_too(kind: type) -> None:
    low = Pipeline.load(provider="cpu", memory="low", arithmetic="exact")
    latents = noise(1, 4, 8, 40).astype(kind)
    picture = low.decode_latents(latents)
    assert (picture.shape, picture.dtype) == ((1, 3, 64, 320), np.float32)
    assert low.encode_image(picture.astype(kind)).shape == latents.shape
