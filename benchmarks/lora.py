"""What a LoRA of every attention layer adds: to loading, to a step, and to memory, in each memory mode.

    python benchmarks/lora.py [BUNDLE] [--rank 16] [--runs 5] [--output results.json]

README.md beside this file says what each figure means. Linux only.
"""

import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from fresh_process import StageError, run_script
from machine import machine_facts
from peak_memory import AnonymousMemoryWatch, peaks
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.model.lora import CHANGEABLE
from pocket_diffusion.model.memory import MODES
from report import headline, markdown_table, positive, progress, publish, seconds_text, workload_parser
from stages import Workload, parse_workload

PREFIXES = {"text_encoder": "lora_te", "unet": "lora_unet"}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
FIGURES = ("load_seconds", "open_seconds", "step_seconds", "peak_anonymous_bytes")
STEPS = 3


def write_lora(bundle: Bundle, rank: int, path: Path) -> int:
    """Write a LoRA in kohya's style, as float16, of every attention layer; return how many layers there are."""
    generator, tensors = np.random.default_rng(0), {}
    for component in CHANGEABLE:
        for name, layer in bundle.layers(component).layers.items():
            module = name.removesuffix(".weight")
            if module.endswith(ATTENTION) and module != name:
                key = f"{PREFIXES[component]}_{module.replace('.', '_')}"
                outputs, inputs = layer.shape
                for part, shape in (("down", (rank, inputs)), ("up", (outputs, rank))):
                    tensors[f"{key}.lora_{part}.weight"] = (generator.normal(size=shape) * 0.01).astype(np.float16)
    save_file(tensors, path)
    return len(tensors) // 2


def measure(workload: Workload, lora: Path, runs: int) -> dict[str, list[dict[str, float]]]:
    """Return the figures of each run, by memory mode, without and with the LoRA; the runs take turns.

    Raises:
        StageError: a process failed.

    """
    todo = {
        f"{mode}, {what}": (replace(workload, memory=mode), path)
        for mode in MODES
        for what, path in (("plain", ""), ("LoRA", str(lora)))
    }
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in todo}
    for number in range(1, runs + 1):
        for name, (work, path) in todo.items():
            figures[name].append(run_script("lora.py", "measure", work.as_json(), path))
            progress(f"run {number} of {runs}, {name}")
    return figures


def measure_here(workload: Workload, lora: str) -> dict[str, float]:
    """Load the networks that LoRAs change in this process, predict a few times, and return what that took."""
    with AnonymousMemoryWatch() as anonymous:
        began = time.perf_counter()
        pipeline = workload.load_pipeline()
        pipeline.set_loras([lora] if lora else [])
        loaded = time.perf_counter()
        context = pipeline.encode_prompt("a lake")
        latents = np.zeros((1, pipeline.bundle.manifest.latents.channels, *_latents(workload, pipeline)), np.float32)
        before = pipeline.components.seconds_loading
        steps = []
        for _ in range(STEPS):
            start = time.perf_counter()
            pipeline.predict_noise(latents, 500, context)
            steps.append(time.perf_counter() - start)
        opened = pipeline.components.seconds_loading
        steps[0] -= opened - before
    return {
        "load_seconds": loaded - began,
        "open_seconds": opened,
        "step_seconds": statistics.median(steps),
        **peaks(anonymous),
    }


def _latents(workload: Workload, pipeline: Any) -> tuple[int, int]:  # noqa: ANN401 - a pipeline
    downscale = pipeline.bundle.manifest.latents.downscale
    return workload.height // downscale, workload.width // downscale


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: what was run on what, and medians by memory mode."""
    rows = []
    for name, runs in figures["measurements"].items():
        *seconds, size = (statistics.median(run[figure] for run in runs) for figure in FIGURES)
        rows.append([name, *map(seconds_text, seconds), f"{size / 1e6:.0f}"])
    header = ["median", "Pipeline.load, s", "open networks, s", "U-Net, s", "peak anonymous, MB"]
    return [headline(figures), f"rank {figures['rank']}, {figures['layers']} layers", markdown_table(header, rows)]


def main() -> None:
    """Run from the command line."""
    if sys.argv[1:2] == ["measure"]:
        json.dump(measure_here(Workload(**json.loads(sys.argv[2])), sys.argv[3]), sys.stdout)
        return
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=1)
    parser.add_argument("--rank", type=positive, default=16, help="of the LoRA (default: 16)")
    parser.add_argument("--runs", type=positive, default=5, help="of each mode (default: 5)")
    arguments, workload = parse_workload(parser)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "attention.safetensors"
        bundle = workload.load_pipeline().bundle
        layers = write_lora(bundle, arguments.rank, path)
        facts = {"machine": machine_facts(), **workload.facts(varied=("memory",))}
        figures = {"benchmark": "lora", **facts, "rank": arguments.rank, "layers": layers}
        try:
            figures["measurements"] = measure(workload, path, arguments.runs)
        except StageError as error:
            raise SystemExit(str(error)) from None
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
