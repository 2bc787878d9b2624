"""`pocket-diffusion mcp`: tools to draw with, for assistants that start a program and talk to it."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from pocket_diffusion.cli.options import (
    cache_option,
    command,
    folder_options,
    machine_options,
    model_option,
    models_option,
    output_folder_option,
)
from pocket_diffusion.errors import ServerUnavailableError
from pocket_diffusion.interrupts import end_at_once, handled_by
from pocket_diffusion.pipeline import Pipeline


@command("", "--models bundles --output pictures")
@model_option
@models_option
@output_folder_option
@cache_option
@folder_options
@machine_options
def mcp(
    *,
    model: Path | None,
    models_folder: Path | None,
    output: Path | None,
    cache: str | None,
    **machine: Any,  # noqa: ANN401 - the options of `Pipeline.load`
) -> None:
    """Give an assistant tools to draw (MCP over stdin and stdout).

    The assistant starts this command itself, once it is in its settings. `serve` has the same tools over HTTP.
    """
    from pocket_diffusion.server import Models, create_app

    try:
        from pocket_diffusion.server.mcp.stdio import serve
    except ModuleNotFoundError as error:
        raise ServerUnavailableError(
            f'assistants need {error.name}, which is not installed; run `pip install "pocket-diffusion[mcp]"`'
        ) from None

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")

    def load(path: Path | None) -> Pipeline:
        return Pipeline.load(path, **machine)

    models = Models(load(model)) if models_folder is None else Models.of_folder(models_folder, load, model)
    app = create_app(models, cache=cache, output=output)
    with handled_by(end_at_once):  # a thread waits for the next message, which would have to come first
        asyncio.run(serve(app))
