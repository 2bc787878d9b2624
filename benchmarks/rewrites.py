"""What each of the exporter's graph rewrites is worth: a component with all of them, and without each, by turns.

    python benchmarks/rewrites.py CHECKPOINT [--component unet] [--rounds N] [--output results/rewrites.json]

The component is traced anew for each variant, which takes memory and a while; the graphs go to a temporary folder.
Weights are mapped and cast in the graph, as in mode `balanced`, and the inputs are those of the default picture.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from machine import describe, machine_facts
from pocket_diffusion.bundle import Component
from pocket_diffusion.errors import TokenizerNotFoundError
from pocket_diffusion.machine.session import GraphSession
from pocket_export.checkpoint import Checkpoint, read_checkpoint
from pocket_export.parts import PARTS, Part
from pocket_export.rewrite import share_guidance
from pocket_export.targets import recipe
from pocket_export.trace import trace
from report import markdown_table, output_path, positive, progress, publish, seconds_text, summarise

NOTHING, ATTENTION = "nothing", "fused attention"
RECIPE = recipe("cpu", "fp16")
TOLERANCE = 1e-2
"""Relative: weights in float16 are the largest difference among the variants."""

Run = Callable[[], NDArray[np.float32]]


def write_variant(part: Part, left_out: str, folder: Path) -> Component:
    """Trace a part and write its graph, with all rewrites but one."""
    model = trace(part, fuse_attention=left_out != ATTENTION)
    for rewrite in RECIPE.rewrites:
        if rewrite.__name__ != left_out:
            model = rewrite(model)
    component = Component(
        graph=f"{part.name}.onnx",
        weights=f"{part.name}.weights",
        inputs=part.inputs,
        outputs=part.outputs,
        parameters=part.parameters,
        parity=(),
    )
    folder.mkdir()
    ir.save(model, folder / component.graph, external_data=component.weights, size_threshold_bytes=1024)
    return component


def open_variant(part: Part, component: Component, folder: Path, *, shared: bool) -> Run:
    """Load a variant; `shared` guidance gives it one picture's latents for all contexts."""
    drawn = part.example(part.usual_sizes | {"batch": 1})
    inputs = {spec.name: x.numpy() for spec, x in zip(part.inputs, drawn, strict=True)}
    if not shared:
        contexts = max(len(x) for x in inputs.values())
        inputs = {name: np.repeat(x, contexts // len(x), axis=0) for name, x in inputs.items()}
    session = GraphSession(folder, part.name, component, "cpu")
    return lambda: session.run(**inputs)[component.outputs[0].name]


def measure(part: Part, *, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each variant's runs by what it leaves out; a first run of each does not count.

    Raises:
        SystemExit: the variants do not compute the same.

    """
    seconds: dict[str, list[float]] = {
        name: [] for name in (NOTHING, ATTENTION, *(rewrite.__name__ for rewrite in RECIPE.rewrites))
    }
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as work:
        for name in seconds:
            progress(f"{part.name} without {name}")
            folder = Path(work) / name
            component = write_variant(part, name, folder)
            runs[name] = open_variant(part, component, folder, shared=name != share_guidance.__name__)
        reference = runs[NOTHING]()
        for name, run in runs.items():
            error = np.linalg.norm(run() - reference) / np.linalg.norm(reference)
            if not error < TOLERANCE:
                raise SystemExit(f"{part.name} without {name} is off by {error:.1e}, more than {TOLERANCE:.0e}")
        for i in range(rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
            progress(f"round {i + 1} of {rounds}")
    return seconds


def table(component: str, variants: dict[str, dict[str, Any]]) -> str:
    """Return the medians, and what they are of the time with all rewrites."""
    best = variants[NOTHING]["median"]
    rows = [
        [f"without {name}", seconds_text(row["median"]), f"{row['median'] / best:.2f}"]
        for name, row in variants.items()
    ]
    return markdown_table([component, "seconds", "of all rewrites' time"], rows)


def read(source: str, tokenizer: Path | None) -> Checkpoint:
    """Read a checkpoint with its own tokenizer, or else with this one."""
    try:
        return read_checkpoint(source, None)
    except TokenizerNotFoundError:
        return read_checkpoint(source, tokenizer)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="as for `pocket-diffusion export`")
    parser.add_argument("--tokenizer", type=Path, help="if the checkpoint has none")
    names = [make.__name__ for make in PARTS]
    parser.add_argument("--component", choices=names, action="append", help="default: unet and vae_decoder")
    parser.add_argument("--rounds", type=positive, default=3, help="runs of each variant (default: 3)")
    parser.add_argument("--output", type=output_path, metavar="FILE.json", help="write all figures there too")
    arguments = parser.parse_args()
    checkpoint = read(arguments.checkpoint, arguments.tokenizer)
    figures: dict[str, Any] = {"benchmark": "rewrites", "machine": machine_facts(), "components": {}}
    for name in arguments.component or ["unet", "vae_decoder"]:
        part = next(make for make in PARTS if make.__name__ == name)(checkpoint)
        seconds = measure(part, rounds=arguments.rounds)
        figures["components"][name] = {
            left_out: {"seconds": ran, **summarise(ran)} for left_out, ran in seconds.items()
        }
    tables = [table(name, variants) for name, variants in figures["components"].items()]
    publish(figures, [describe(figures["machine"]), *tables], arguments.output)


if __name__ == "__main__":
    main()
