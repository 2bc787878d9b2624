"""Options that several commands share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from pocket_diffusion.bundle import WeightStorage
from pocket_diffusion.checkpoint.noise_schedule import Prediction
from pocket_diffusion.machine.session import PROVIDERS
from pocket_diffusion.model.arithmetic import ARITHMETICS
from pocket_diffusion.model.budget import AUTO
from pocket_diffusion.model.memory import MODES
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

Function = TypeVar("Function", bound=Callable[..., None])

cache_option = click.option(
    "--cache",
    metavar="METHOD[:N]",
    help="Evaluate the model in full at every N-th step alone: faster, nearly the same picture. reuse goes on in the "
    "last direction between; deep computes the U-Net's last layer alone.  [N: 3]",
)

model_option = click.option(
    "-m", "--model", type=click.Path(path_type=Path), help="Bundle to draw with.  [default: the embedded one]"
)


class CommandWithExamples(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, examples: Sequence[str], **options: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **options)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, a line each, however narrow the terminal is: lines are copied from there."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{ctx.command_path} {example}".rstrip() + "\n")


def command(*examples: str, name: str | None = None) -> Callable[[Callable[..., None]], CommandWithExamples]:
    """Make a function a command; `examples` are what may follow its name."""
    return click.command(name, cls=CommandWithExamples, examples=examples)


bundle_argument = click.argument("bundle", type=click.Path(path_type=Path), default=DEFAULT_BUNDLE)


def machine_options(command: Function) -> Function:
    """Add what the work is done with: `provider`, `threads`, `vae`, `memory`, `arithmetic`, as `Pipeline.load`'s."""
    for option in (
        click.option(
            "--arithmetic",
            type=click.Choice(ARITHMETICS),
            default=AUTO,
            show_default=True,
            help="Products in float32, or in 8 bits: faster, and nearly the same picture.",
        ),
        click.option(
            "--memory",
            default=AUTO,
            show_default=True,
            help=f"What to trade for memory: {', '.join((AUTO, *MODES))}; "
            "or a limit to keep to, such as 1500MB or 2GiB.",
        ),
        click.option(
            "--vae",
            metavar="tiny",
            help="Encode and decode with the bundle's tiny VAE: faster, and nearly the same picture.",
        ),
        click.option("--threads", type=int, help="CPU threads.  [default: one a core]"),
        click.option(
            "--provider", type=click.Choice(PROVIDERS), default="auto", show_default=True, help="What computes."
        ),
    ):  # the last one first, as decorators are
        command = option(command)
    return command


def folder_options(command: Function) -> Function:
    """Add where prompts find what they name: `lora_folder` and `embedding_folder`, as `Pipeline.load` takes them."""
    for name, what in (
        ("--embedding-folder", "Embeddings (textual inversion); prompts use them by their names."),
        ("--lora-folder", "LoRAs, which prompts may name: <lora:name:0.8>."),
    ):
        command = click.option(name, type=click.Path(path_type=Path), metavar="DIR", help=what)(command)
    return command


def checkpoint_options(command: Function) -> Function:
    """Add how a checkpoint becomes a bundle, as `export` and `import_checkpoint` take it, and `quiet`."""
    for option in (
        click.option("--quiet", is_flag=True, help="No progress."),
        click.option("--force", is_flag=True, help="Replace an existing bundle."),
        click.option(
            "--lora",
            "loras",
            multiple=True,
            metavar="FILE[:SCALE]",
            help="LoRA to add to the weights for good; repeatable.",
        ),
        click.option(
            "--prediction",
            type=click.Choice(get_args(Prediction)),
            help="What the model predicts.  [default: what SOURCE says]",
        ),
        click.option(
            "--vae",
            type=click.Path(path_type=Path, exists=True),
            help="File or diffusers folder with a VAE, in place of SOURCE's.",
        ),
        click.option(
            "--tiny-vae",
            type=click.Path(path_type=Path),
            metavar="SOURCE",
            help="Tiny VAE (TAESD), a file or folder, to lie with the bundle for --vae tiny and for previews.",
        ),
        click.option(
            "--tokenizer",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="Folder with vocab.json and merges.txt.  [default: SOURCE's, or CLIP's]",
        ),
        click.option(
            "--weights",
            type=click.Choice(get_args(WeightStorage)),
            default="fp16",
            show_default=True,
            help="How weights are stored.",
        ),
    ):  # the last one first, as decorators are
        command = option(command)
    return command
