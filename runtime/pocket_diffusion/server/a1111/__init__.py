"""The API of AUTOMATIC1111's web UI, as far as its clients use it to draw."""

from pocket_diffusion.server.a1111 import catalogue, extras, generation, options

ROUTES = [*generation.ROUTES, *options.ROUTES, *catalogue.ROUTES, *extras.ROUTES]

__all__ = ["ROUTES"]
