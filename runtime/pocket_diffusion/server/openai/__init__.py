"""OpenAI's images API, so that its clients draw here by changing their `base_url`."""

from pocket_diffusion.server.openai import models, pictures

ROUTES = [*pictures.ROUTES, *models.ROUTES]

__all__ = ["ROUTES"]
