"""What clients of AUTOMATIC1111's API have in common: a server with a token, and pictures in Base64."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.server import create_app

TOKEN = "open sesame"
QUICK = {"width": 64, "height": 64, "steps": 2}
"""In place of what clients ask for by default, which would take long."""


@contextmanager
def webui(*, token: str | None = TOKEN) -> Iterator[TestClient]:
    """Serve the embedded model; the client gives the token as the password of Basic auth, as those of the web UI do."""
    with TestClient(create_app(Pipeline.load(provider="cpu", arithmetic="exact"), token=token)) as client:
        if token is not None:
            client.auth = ("anyone", token)
        yield client


def decoded(text: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(text, validate=True)))


def encoded(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
