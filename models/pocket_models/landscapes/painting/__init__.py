"""Paints a scene: flat art, 128x128, a pure function of the scene and a seed."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pocket_models.landscapes.painting.canvas import SIZE, Canvas
from pocket_models.landscapes.painting.land import paint_land
from pocket_models.landscapes.painting.palette import draw_light
from pocket_models.landscapes.painting.sky import paint_sky, paint_weather
from pocket_models.landscapes.painting.spots import draw_spots
from pocket_models.landscapes.painting.things import paint_things
from pocket_models.landscapes.scenes import Scene

__all__ = ["SIZE", "paint"]


def paint(scene: Scene, seed: int) -> Image.Image:
    """Paint ``scene`` as an RGB picture of 128x128; the seed decides positions, shapes and hues."""
    generator = np.random.default_rng(seed)
    spots = draw_spots(scene, generator)
    light = draw_light(scene, spots, generator)
    canvas = Canvas()
    paint_sky(canvas, scene, light, generator)
    ground = paint_land(canvas, scene, light, spots, generator)
    paint_things(canvas, scene, light, spots, ground, generator)
    paint_weather(canvas, scene, light, generator)
    return canvas.reduced()
