"""A canvas measured in final pixels, painted at twice the size so that edges come out smooth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128
_SCALE = 2

Colour = NDArray[np.float64]
"""Red, green and blue, 0..1: float64 [3]."""

Point = tuple[float, float]

_ROWS, _COLUMNS = np.mgrid[0 : SIZE * _SCALE, 0 : SIZE * _SCALE].astype(np.float32) / _SCALE


def colour(code: str) -> Colour:
    """Turn a six-digit hexadecimal code into a colour."""
    return np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """Mix two colours; ``share`` is how much of the second."""
    return first * (1 - share) + second * share


class Canvas:
    """A 128x128 picture in the making; coordinates are final pixels, x to the right, y down."""

    def __init__(self) -> None:
        """Start black."""
        self._image = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE))
        self._draw = ImageDraw.Draw(self._image)

    def gradient(self, stops: Sequence[Colour], bottom: float) -> None:
        """Fill from the top to ``bottom`` (and beyond) with colours blending evenly from stop to stop."""
        rows = np.clip(np.arange(SIZE * _SCALE) / (bottom * _SCALE), 0, 1) * (len(stops) - 1)
        table = np.stack(stops)
        column = np.stack([np.interp(rows, np.arange(len(stops)), table[:, i]) for i in range(3)], axis=1)
        pixels = np.repeat(_to_bytes(column)[:, None], SIZE * _SCALE, axis=1)
        self._image.paste(Image.fromarray(pixels))

    def glow(self, centre: Point, radius: float, tint: Colour, strength: float) -> None:
        """Blend a soft round light into what is there; ``strength`` is its share at the centre."""
        squared = (_COLUMNS - centre[0]) ** 2 + (_ROWS - centre[1]) ** 2
        self._shine(strength * np.exp(-squared / (2 * radius**2)), tint)

    def arch(self, centre: Point, radius: float, width: float, tint: Colour, strength: float) -> None:
        """Blend a soft band along a circle into what is there."""
        distance = np.hypot(_COLUMNS - centre[0], _ROWS - centre[1])
        self._shine(strength * np.exp(-(((distance - radius) / width) ** 2)), tint)

    def curtain(self, heights: NDArray[np.float64], fall: float, tint: Colour, strength: float) -> None:
        """Blend a hanging light into what is there: bright at a curve, fading ``fall`` pixels up, soon below it."""
        curve = np.interp(_COLUMNS[0], np.arange(len(heights)), heights)
        above = (curve - _ROWS) / np.where(curve > _ROWS, fall, -fall / 5)
        self._shine(strength * np.exp(-above), tint)

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        """Fill a polygon."""
        self._draw.polygon([(x * _SCALE, y * _SCALE) for x, y in points], fill=_to_tuple(fill))

    def ellipse(self, centre: Point, radii: Point, fill: Colour) -> None:
        """Fill an ellipse."""
        (x, y), (rx, ry) = centre, radii
        box = [(x - rx) * _SCALE, (y - ry) * _SCALE, (x + rx) * _SCALE, (y + ry) * _SCALE]
        self._draw.ellipse(box, fill=_to_tuple(fill))

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        """Fill a rectangle, however thin; ``right`` and ``bottom`` are outside it."""
        left, top = left * _SCALE, top * _SCALE
        corners = [left, top, max(left, right * _SCALE - 1), max(top, bottom * _SCALE - 1)]
        self._draw.rectangle(corners, fill=_to_tuple(fill))

    def stroke(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """Draw a line through points."""
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self._draw.line(scaled, fill=_to_tuple(fill), width=max(1, round(width * _SCALE)), joint="curve")

    def below(self, heights: NDArray[np.float64], fill: Colour) -> None:
        """Fill everything under a curve given as y at SIZE + 1 evenly spaced x."""
        curve = [(float(x), float(y)) for x, y in enumerate(heights)]
        self.polygon([*curve, (SIZE, SIZE), (0, SIZE)], fill)

    def mirror(self, waterline: float, bottom: float, tint: Colour, share: float) -> None:
        """Reflect what is above ``waterline`` into the rows down to ``bottom``, tinted by ``share``."""
        line, end = round(waterline * _SCALE), round(bottom * _SCALE)
        pixels = np.asarray(self._image)
        # A reflection seen at a low angle is squeezed: it reaches past what the band's own height would show.
        source = np.clip(line - 1 - np.round(np.arange(end - line) * 1.35).astype(int), 0, None)
        reflected = pixels[source] / 255 * (1 - share) + tint * share
        self._image.paste(Image.fromarray(_to_bytes(reflected)), (0, line))

    def reduced(self) -> Image.Image:
        """Return the finished picture, RGB, 128x128, its edges two pixels soft.

        Four numbers for 64 pixels cannot say where a sharp edge runs; a soft one comes back from the VAE as it was.
        """
        softened = self._image.filter(ImageFilter.GaussianBlur(0.65 * _SCALE))
        return softened.resize((SIZE, SIZE), Image.Resampling.BOX)

    def _shine(self, share: NDArray[np.float32], tint: Colour) -> None:
        light = Image.new("RGB", self._image.size, _to_tuple(tint))
        self._image.paste(light, mask=Image.fromarray(_to_bytes(share)))


def _to_bytes(values: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return levels


def _to_tuple(fill: Colour) -> tuple[int, int, int]:
    red, green, blue = _to_bytes(fill).tolist()
    return red, green, blue
