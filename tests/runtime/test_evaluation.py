"""How alike pictures are, and how sure a mean is."""

import numpy as np
import pytest
from PIL import Image

from pocket_diffusion import InvalidRequestError
from pocket_diffusion.errors import ExtraMissingError
from pocket_diffusion.evaluation import IDENTICAL_PSNR, Estimate, estimate, likeness


def noisy(by: int) -> Image.Image:
    """A grey picture, half of whose numbers are larger by so many levels."""
    levels = np.full((32, 32, 3), 100, np.uint8)
    levels[::2] += np.uint8(by)
    return Image.fromarray(levels)


def test_the_psnr_is_that_of_255_levels() -> None:
    pytest.importorskip("skimage")
    found = likeness(noisy(0), noisy(10))
    assert found.psnr_db == pytest.approx(10 * np.log10(255**2 / 50))
    assert 0 < found.ssim < 1


def test_equal_pictures_are_wholly_alike() -> None:
    pytest.importorskip("skimage")
    assert likeness(noisy(10), noisy(10)) == (IDENTICAL_PSNR, 1.0)


@pytest.mark.parametrize("size", [(32, 31), (8, 8)])
def test_pictures_of_two_sizes_or_too_small_ones_are_refused(size: tuple[int, int]) -> None:
    small = Image.new("RGB", size)
    with pytest.raises(InvalidRequestError, match=f"pictures of .*{size[0]}x{size[1]}.* cannot be compared; resize"):
        likeness(noisy(0) if size[0] == 32 else small, small)


def test_the_interval_of_a_mean_is_about_that_of_the_normal_distribution() -> None:
    """Of 200 values, mean ± 1.96 standard errors; the bootstrap has a chance of its own, a few hundredths of one."""
    pytest.importorskip("scipy")
    values = np.random.default_rng(0).normal(3, 2, 200)
    error = values.std(ddof=1) / 200**0.5
    found = estimate(list(values))
    assert found == estimate(list(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.size == 200
    assert [found.low, found.high] == pytest.approx(
        [found.mean - 1.96 * error, found.mean + 1.96 * error], abs=error / 5
    )


def test_equal_values_are_sure_and_a_single_one_says_nothing() -> None:
    assert estimate([0.1] * 3) == Estimate(pytest.approx(0.1), pytest.approx(0.1), pytest.approx(0.1), 3)
    assert estimate([2.0]) == Estimate(2.0, None, None, 1)
    with pytest.raises(InvalidRequestError, match="nothing to take the mean of"):
        estimate([])


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skimage.metrics", None)
    with pytest.raises(ExtraMissingError, match=r'pip install "pocket-diffusion\[evaluate\]"'):
        likeness(noisy(0), noisy(1))
