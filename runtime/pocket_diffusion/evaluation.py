"""How alike pictures are, and how sure a mean is. The measures are scikit-image's and SciPy's: the extra `[evaluate]`.

from pocket_diffusion.evaluation import estimate, likeness

pairs = [likeness(exact, other) for exact, other in zip(exact_pictures, other_pictures)]
print(estimate([pair.ssim for pair in pairs]))  # the mean, and between what it is with 95 % confidence
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.extras import need

IDENTICAL_PSNR = 100.0
"""dB; stands for all that is as near or nearer: of equal pictures, the ratio is infinite, which no mean bears."""
CONFIDENCE = 0.95
_SMALLEST_SIDE = 11
"""Pixels: the window of the SSIM, a Gaussian of 1.5 pixels that is cut off at 3.5 deviations."""
_RESAMPLES = 9999
_AT_ONCE = 64
"""Resamples, so that memory does not grow with these."""
_ROUNDING = 1e-9
"""Relative; values that differ by less are equal."""


class Likeness(NamedTuple):
    """How alike two pictures are."""

    psnr_db: float
    """Peak signal-to-noise ratio over all channels, at most `IDENTICAL_PSNR`."""
    ssim: float
    """Structural similarity as Wang et al. (2004) compute it, mean of the channels; 1 is equal."""


class Estimate(NamedTuple):
    """The mean of a sample, and the interval that has the true mean with 95 % confidence."""

    mean: float
    low: float | None
    """None of a single value, which tells nothing of the spread."""
    high: float | None
    size: int
    """Of the sample."""


def likeness(picture: Image.Image, other: Image.Image) -> Likeness:
    """Compare two RGB pictures of one size.

    Raises:
        InvalidRequestError: they have two sizes, or are smaller than the window of the SSIM.
        ExtraMissingError: scikit-image is not installed.

    """
    if picture.size != other.size or min(picture.size) < _SMALLEST_SIDE:
        sizes = " and ".join(f"{width}x{height}" for width, height in (picture.size, other.size))
        raise InvalidRequestError(
            f"pictures of {sizes} cannot be compared; resize both to one size, from {_SMALLEST_SIDE}x{_SMALLEST_SIDE}"
        )
    metrics = need("skimage.metrics", "evaluate", "pictures are compared by scikit-image")
    one, two = (np.asarray(each.convert("RGB")) for each in (picture, other))
    is_equal = np.array_equal(one, two)  # of which scikit-image would warn
    psnr = IDENTICAL_PSNR if is_equal else float(metrics.peak_signal_noise_ratio(one, two, data_range=255))
    ssim = metrics.structural_similarity(
        one, two, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return Likeness(min(psnr, IDENTICAL_PSNR), float(ssim))


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of a sample with its 95 % confidence interval: SciPy's bootstrap, BCa (Efron 1987).

    The same values give the same interval. Of a paired comparison, the values are the differences of the pairs.

    Raises:
        InvalidRequestError: there are no values.
        ExtraMissingError: SciPy is not installed.

    """
    if not values:
        raise InvalidRequestError("there is nothing to take the mean of; give one value or more")
    sample = np.asarray(values, np.float64)
    mean = float(sample.mean())
    if len(sample) == 1:
        return Estimate(mean, None, None, 1)
    if np.ptp(sample) <= _ROUNDING * np.abs(sample).max():
        return Estimate(mean, mean, mean, len(sample))
    stats = need("scipy.stats", "evaluate", "confidence intervals are SciPy's")
    found = stats.bootstrap(
        (sample,), np.mean, n_resamples=_RESAMPLES, batch=_AT_ONCE, confidence_level=CONFIDENCE, rng=0
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high), len(sample))
