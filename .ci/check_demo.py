"""Check that `make demo` drew a sunset, or at least neither a blank nor noise."""

import sys

import numpy as np
from PIL import Image

picture = Image.open(sys.argv[1])
assert "snowy mountains" in picture.info["parameters"], picture.info
pixels = np.asarray(picture.convert("RGB"), np.float64)
assert pixels.shape == (128, 128, 3), pixels.shape
assert pixels.std() > 20, f"nearly blank: spread {pixels.std():.1f}"
# Flat art changes little from pixel to pixel; noise changes everywhere.
roughness = np.abs(np.diff(pixels, axis=1)).mean()
assert roughness < 15, f"noise: {roughness:.1f} from pixel to pixel"
red, blue = pixels[:40, :, 0].mean(), pixels[:40, :, 2].mean()
assert red > blue - 30, f"the sky is no sunset: red {red:.0f}, blue {blue:.0f}"
print(f"demo.png: spread {pixels.std():.1f}, roughness {roughness:.1f}, sky red {red:.0f} blue {blue:.0f}")
