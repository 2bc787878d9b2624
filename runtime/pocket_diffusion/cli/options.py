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


class Interval(click.ParamType[tuple[float, float]]):
    """Two numbers such as 0.2:0.8."""

    name = "A:B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:  # noqa: ANN401 - click's own
        """Return both; whether they make an interval is for the order's own check."""
        try:
            begin, end = str(value).split(":")
            return float(begin), float(end)
        except ValueError:
            self.fail(f"{value!r} is not two numbers such as 0.2:0.8", param, ctx)


cache_option = click.option(
    "--cache",
    metavar="METHOD[:N]",
    help="Evaluate the model in full at every N-th step alone: faster, nearly the same picture. reuse goes on in the "
    "last direction between; deep computes the U-Net's last layer alone.  [N: 3]",
)

model_option = click.option(
    "-m", "--model", type=click.Path(path_type=Path), help="Bundle to draw with.  [default: the embedded one]"
)

models_option = click.option(
    "--models",
    "models_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of bundles: clients choose one by the name of its folder. --model, or else the first, is the default.",
)

output_folder_option = click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder in which all pictures are kept.  [default: none are kept for long]",
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


def machine_options(command: Function, usual_threads: str = "one a core") -> Function:
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
        click.option("--threads", type=int, help=f"CPU threads.  [default: {usual_threads}]"),
        click.option(
            "--provider", type=click.Choice(PROVIDERS), default="auto", show_default=True, help="What computes."
        ),
    ):  # the last one first, as decorators are
        command = option(command)
    return command


def order_options(command: Function) -> Function:
    """Add how a picture is drawn, as an order's fields, but for those that no two pictures share."""
    for option in (
        cache_option,
        click.option(
            "--token-downsampling",
            type=int,
            default=1,
            metavar="N",
            help="Let self-attention look at every N-th token of every N-th row: faster, another picture.  "
            "[default: 1]",
        ),
        click.option(
            "--clip-skip", type=int, default=1, help="2 reads the text encoder's last layer but one.  [default: 1]"
        ),
        click.option(
            "--image-guidance",
            "image_guidance_scale",
            type=float,
            help="How strictly to keep a picture that the prompt changes (InstructPix2Pix), from 1.  "
            "[default: the bundle's]",
        ),
        click.option(
            "--guidance-interval", type=Interval(), help="Guide a part of the way alone, such as 0.2:0.8: faster."
        ),
        click.option(
            "--guidance-rescale", type=float, default=0.0, help="Reduce the contrast that guidance adds, 0 to 1."
        ),
        click.option(
            "--guidance",
            "guidance_scale",
            type=float,
            help="How strictly to follow the prompt.  [default: the bundle's]",
        ),
        click.option("--s-noise", type=float, default=1.0, help="What that noise is multiplied by.  [default: 1]"),
        click.option("--eta", type=float, help="Fresh noise that the sampler adds, 0 to 1.  [default: the sampler's]"),
        click.option("--scheduler", help="How the noise levels are spaced; the same list has them."),
        click.option("--sampler", help="How noise becomes a picture; `pocket-diffusion samplers` lists all."),
        click.option("--steps", type=int, help="More steps, finer pictures.  [default: the bundle's]"),
        click.option("--height", type=int, help="Pixels, a multiple of 8.  [default: the bundle's]"),
        click.option("--width", type=int, help="Pixels, a multiple of 8.  [default: the bundle's]"),
        click.option("-n", "--negative", "negative_prompt", default="", help="What not to draw."),
    ):  # the last one first, as decorators are
        command = option(command)
    return command


def adapter_options(command: Function) -> Function:
    """Add what changes a model, as `Pipeline.load` takes it: `loras` and `embeddings`."""
    for option in (
        click.option(
            "--embedding",
            "embeddings",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="FILE",
            help="Textual inversion: its name is a word for the prompt. Repeatable.",
        ),
        click.option(
            "--lora",
            "loras",
            multiple=True,
            metavar="FILE[:SCALE]",
            help="LoRA to change the weights with; FILE:A:B has A for the U-Net, B for the text encoder. Repeatable.",
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
