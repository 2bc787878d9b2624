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
    # A generator for each, so that another sky leaves the land as it was.
    for_spots, for_light, for_sky, for_land, for_things, for_weather = np.random.default_rng(seed).spawn(6)
    spots = draw_spots(scene, for_spots)
    light = draw_light(scene, spots, for_light)
    canvas = Canvas()
    paint_sky(canvas, scene, light, for_sky)
    ground = paint_land(canvas, scene, light, spots, for_land)
    paint_things(canvas, scene, light, spots, ground, for_things)
    paint_weather(canvas, scene, light, for_weather)
    return canvas.reduced()
