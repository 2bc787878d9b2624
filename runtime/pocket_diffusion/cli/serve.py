"""`pocket-diffusion serve`: a page and APIs to draw with, over HTTP."""

import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from pocket_diffusion.cli.options import (
    cache_option,
    command,
    folder_options,
    machine_options,
    model_option,
    models_option,
    output_folder_option,
)
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.pipeline import Pipeline

_TOKEN_VARIABLE = "POCKET_DIFFUSION_TOKEN"  # noqa: S105 - a name, not a token


@command("", "-m sd15 --port 8080", "--host 0.0.0.0 --token SECRET", "--models bundles")
@model_option
@models_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option(
    "--token", envvar=_TOKEN_VARIABLE, help=f"What clients must know.  [default: nothing, or ${_TOKEN_VARIABLE}]"
)
@click.option("--insecure", is_flag=True, help="Let everyone draw who can reach --host, without a token.")
@click.option(
    "--allow-host", "allowed_hosts", multiple=True, help="A name that this machine is reached by; repeatable."
)
@click.option(
    "--allow-origin",
    "allowed_origins",
    multiple=True,
    metavar="URL",
    help="A site whose pages may use the APIs, such as https://lite.koboldai.net; repeatable. "
    "* is every site, null local files; both need --token.",
)
@output_folder_option
@click.option("--queue", type=click.IntRange(1, 10_000), help="How many drawings may wait.  [default: 256]")
@click.option(
    "--keep", type=click.IntRange(1, 100_000), help="How many pictures are kept to be fetched.  [default: 256]"
)
@cache_option
@folder_options
@machine_options
def serve(
    *,
    model: Path | None,
    models_folder: Path | None,
    host: str,
    port: int,
    token: str | None,
    insecure: bool,
    allowed_hosts: tuple[str, ...],
    allowed_origins: tuple[str, ...],
    output: Path | None,
    queue: int | None,
    keep: int | None,
    cache: str | None,
    provider: str,
    threads: int | None,
    vae: str | None,
    memory: str,
    arithmetic: str,
    lora_folder: Path | None,
    embedding_folder: Path | None,
) -> None:
    """Serve a page to draw on, the APIs of OpenAI, AUTOMATIC1111 and ComfyUI, and tools for assistants (MCP).

    Ctrl-C stops it; what is being drawn then is cancelled.
    """
    from pocket_diffusion.server import Limits, Models, create_app
    from pocket_diffusion.server.run import Server, hosts_of, is_loopback, listen, url_of

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    limits = {name: value for name, value in (("queue", queue), ("pictures", keep)) if value is not None}
    load = partial(
        Pipeline.load,
        provider=provider,
        threads=threads,
        vae=vae,
        memory=memory,
        arithmetic=arithmetic,
        lora_folder=lora_folder,
        embedding_folder=embedding_folder,
    )
    models = Models(load(model)) if models_folder is None else Models.of_folder(models_folder, load, model)
    with listen(host, port) as listener:
        if token is None and not insecure and not is_loopback(listener):
            raise InvalidRequestError(
                f"on {host} anyone in the network could draw; give a --token that they need (or ${_TOKEN_VARIABLE}), "
                "or allow it with --insecure"
            )
        hosts = hosts_of(listener, allowed_hosts)
        app = create_app(
            models,
            token=token,
            hosts=hosts,
            origins=allowed_origins,
            limits=Limits(**limits),
            cache=cache,
            output=output,
        )

        def announce() -> None:
            click.echo(f"{_shown(models.names)} at {url_of(listener)}  (Ctrl-C stops it)")
            if token:
                click.echo("a browser asks for a name and a password: any name, and the token", err=True)

        def take_leave() -> None:
            click.echo("stopping", err=True)

        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again once it has stopped
            Server(app, listener, announce, take_leave).run()


def _shown(names: Sequence[str]) -> str:
    return f"{names[0]} draws" if len(names) == 1 else f"{names[0]}, and {len(names) - 1} more on request, draw"
