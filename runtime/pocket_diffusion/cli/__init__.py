"""The command line: one file a command, each imported only when it is called.

Other distributions and extras add commands through the entry-point group `pocket_diffusion.commands`
(`export` is one: it lives in pocket_export and needs PyTorch).
"""

import importlib
import os
import sys
import warnings
from contextlib import suppress
from importlib.metadata import entry_points
from keyword import iskeyword
from typing import NoReturn

import click

from pocket_diffusion.errors import PocketDiffusionError
from pocket_diffusion.interrupts import EXIT_CODE, MESSAGE, Interrupt, end_at_once, handled_by
from pocket_diffusion.text import one_line
from pocket_diffusion.version import __version__

_COMMANDS = ("generate", "batch", "import", "add", "samplers", "serve", "mcp", "inspect", "verify", "doctor")
_DEBUG = "POCKET_DIFFUSION_DEBUG"


class LazyGroup(click.Group):
    """Imports a command when it is asked for, so that `--version` does not wait for NumPy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, the most used first."""
        return [_COMMANDS[0], *sorted(_plugins()), *_COMMANDS[1:]]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command by its name."""
        if cmd_name in _COMMANDS:
            name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
            with handled_by(end_at_once):
                module = importlib.import_module(f"pocket_diffusion.cli.{name}")
            command: click.Command = getattr(module, name)
            return command
        plugin = _plugins().get(cmd_name)
        with handled_by(end_at_once):
            return plugin.load() if plugin else None


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pocket-diffusion")
@click.pass_context
def cli(context: click.Context) -> None:
    """Stable Diffusion on small machines, without PyTorch.

    A first picture, from the model that comes along: pocket-diffusion generate "a lake at sunset"
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Run the command line; every error that is no bug ends in one line and an exit code."""
    warnings.showwarning = _show_warning
    if hasattr(sys.stdout, "reconfigure"):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show must not end the work
    interrupt = Interrupt()
    fault: BaseException | None = None
    try:
        with handled_by(interrupt):
            cli.main(standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get(_DEBUG) == "1" and not isinstance(error, click.ClickException):
            raise
        fault = KeyboardInterrupt() if interrupt.came else error
    fault = _output_fault() or fault
    if fault is not None:
        _fail(*_told(fault))


def _told(error: BaseException) -> tuple[str, int]:
    """Return the line that tells of an error, and the exit code."""
    match error:
        case click.UsageError():
            return f"{error.format_message()} (see `{_command_path(error)} --help`)", 2
        case click.ClickException():
            return error.format_message(), error.exit_code
        case PocketDiffusionError():
            return str(error), error.exit_code
        case KeyboardInterrupt() | click.Abort():
            return MESSAGE, EXIT_CODE
        case BrokenPipeError():  # whoever read our output has gone; say no more
            return "", 1
        case OSError(filename=None):  # of no file that has a name: what was printed
            return f"the output cannot be written: {error.strerror}; make room, or have it written elsewhere", 2
    return f"unexpected {type(error).__name__}: {error} (this is a bug; {_DEBUG}=1 shows where)", 1


def _output_fault() -> OSError | None:
    """Return why what was printed cannot be written, if so; the interpreter would complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def _plugins() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in entry_points(group="pocket_diffusion.commands")}


def _command_path(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else "pocket-diffusion"


def _fail(message: str, exit_code: int) -> NoReturn:
    if message:
        with suppress(OSError):  # there is nobody left to tell
            click.echo(f"error: {one_line(message)}", err=True)
    sys.exit(exit_code)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"warning: {one_line(str(message))}", err=True)
