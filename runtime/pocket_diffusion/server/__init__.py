"""Drawing over HTTP: a page for people, a REST API, other programs' APIs (OpenAI, AUTOMATIC1111, ComfyUI), and MCP.

from pocket_diffusion import Pipeline
from pocket_diffusion.server import create_app

app = create_app(Pipeline.load())  # an ASGI application, to be served or mounted
"""

from pocket_diffusion.errors import ServerUnavailableError

try:
    from pocket_diffusion.server.app import create_app
    from pocket_diffusion.server.limits import Limits
    from pocket_diffusion.server.models import Models
except ModuleNotFoundError as error:
    raise ServerUnavailableError(
        f'the server needs {error.name}, which is not installed; run `pip install "pocket-diffusion[server]"`'
    ) from None

__all__ = ["Limits", "Models", "create_app"]
