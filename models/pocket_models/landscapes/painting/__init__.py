"""Paints a scene: flat art, 128x128, a pure function of the scene and a seed."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pocket_models.landscapes.painting.canvas import SIZE, Canvas
from pocket_models.landscapes.painting.land import paint_land
from pocket_models.landscapes.painting.palette import draw_light
from pocket_models.landscapes.painting.sky import paint_sky
from pocket_models.landscapes.painting.things import paint_thing
from pocket_models.landscapes.scenes import Scene

__all__ = ["SIZE", "paint"]


def paint(scene: Scene, seed: int) -> Image.Image:
    """Paint ``scene`` as an RGB picture of 128x128; the seed decides positions, shapes and hues."""
    generator = np.random.default_rng(seed)
    light = draw_light(scene.time, generator)
    canvas = Canvas()
    # A balloon and the sun may not share a place, so the sky says where it left room.
    free_sky = paint_sky(canvas, scene, light, generator)
    ground = paint_land(canvas, scene, light, generator)
    if scene.thing is not None:
        paint_thing(canvas, scene.thing, light, free_sky if scene.thing == "balloon" else ground, generator)
    return canvas.reduced()
