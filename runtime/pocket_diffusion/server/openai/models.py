"""Which models there are, as OpenAI's clients ask for them."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


async def models(request: Request) -> Response:
    """Name all models, the default one first."""
    return JSONResponse({"object": "list", "data": [_model(name) for name in request.app.state.models.names]})


async def model(request: Request) -> Response:
    """Tell of one model."""
    name = request.path_params["id"]
    if name not in request.app.state.models.names:
        raise HTTPException(404, "there is no such model; `/v1/models` names those that are here")
    return JSONResponse(_model(name))


ROUTES = [
    Route("/v1/models", models),
    Route("/v1/models/{id:path}", model),
]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "pocket-diffusion"}
