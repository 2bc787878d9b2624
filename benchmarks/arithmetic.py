"""What 8-bit arithmetic saves and costs: time and memory, the error of each network, and how alike pictures are.

    python benchmarks/arithmetic.py [BUNDLE] [--size 512x512] [--steps N] [--memory MODE] [--arithmetic int8]
                                    [--repeats 5] [--pictures 100] [--output results.json]

BUNDLE has 8-bit graphs (`export --weights int8`). `--arithmetic` is compared with exact arithmetic in one run: int8, or
auto for the graphs that their certificates allow. README.md beside this file says what each figure means. Linux only.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from differences import compare_networks, compare_pictures, record
from fresh_process import StageError, run_script
from landscapes import WORDING_SEED, draw_all, drawer, measure_prompts
from machine import machine_facts
from memory import DEFAULT_STEPS as STEPS_OF_A_PEAK
from pocket_diffusion import PocketDiffusionError
from pocket_diffusion.bundle import read_manifest
from pocket_diffusion.model.arithmetic import EXACT, INT8
from pocket_diffusion.model.budget import AUTO
from pocket_diffusion.model.memory import MODES
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_models.landscapes.captions import held_out_prompts
from pocket_models.landscapes.probes import Probes
from report import (
    headline,
    markdown_table,
    not_negative,
    positive,
    progress,
    publish,
    seconds_text,
    summarise,
    workload_parser,
)
from stages import STAGES, WHOLE, Workload, parse_workload

TIMED_STAGES = ("guided step", "unguided evaluation", "encode image", "decode latents", WHOLE)
PEAKS = {"peak_rss_bytes": "peak RSS", "peak_anonymous_bytes": "peak anonymous"}
PICTURES, PICTURES_OF_OTHERS = 100, 4
"""Held-out prompts that are drawn unless told otherwise: of the embedded model, which draws quickly, and of others."""


def in_both(workload: Workload) -> dict[str, Workload]:
    """Return the workload in exact arithmetic and in its own, by the arithmetic's name."""
    return {EXACT: replace(workload, arithmetic=EXACT), workload.arithmetic: workload}


def measure_errors(workload: Workload) -> dict[str, dict[str, Any]]:
    """Return by role how far each 8-bit network is off, and what its certificate says of that; see `compare_networks`.

    The inputs are those of the exact networks while they draw the workload's picture, in mode `balanced`.
    """
    exact, in_8_bits = in_both(replace(workload, memory="balanced")).values()
    progress(f"errors, over a picture of {workload.steps} steps")
    recording = record(exact)
    with in_8_bits.load_pipeline() as pipeline:
        arithmetic = pipeline.components.arithmetic
        errors = compare_networks(recording, pipeline, arithmetic.int8)
    for role, found in errors.items():
        certificate = arithmetic.certificates[role]
        found["certificate"] = {"relative_error": certificate.relative_error, "bound": certificate.bound}
    return errors


def measure_seconds(workload: Workload, repeats: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the seconds of each stage by arithmetic, which take turns on pipelines that are loaded."""
    seconds: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        ways = [(name, way, stack.enter_context(way.load_pipeline())) for name, way in in_both(workload).items()]
        for _, way, pipeline in ways:
            STAGES[WHOLE](pipeline, replace(way, steps=1))()  # loads what the memory mode keeps
        for stage in TIMED_STAGES:
            for _, way, pipeline in ways:
                STAGES[stage](pipeline, replace(way, steps=1))()  # does not count
            calls = {name: STAGES[stage](pipeline, way) for name, way, pipeline in ways}
            taken = time_by_turns(calls, repeats)
            seconds[stage] = {name: {"seconds": ran, **summarise(ran)} for name, ran in taken.items()}
            medians = ", ".join(f"{name} {seconds_text(row['median'])} s" for name, row in seconds[stage].items())
            progress(f"{stage}, {workload.memory}: {medians}")
    return seconds


def time_by_turns(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds that each call took each time."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_memory(workload: Workload) -> dict[str, dict[str, int]]:
    """Return the peaks of a whole picture by arithmetic, each in a fresh process, in bytes.

    Raises:
        StageError: a process failed, or was killed for using too much.

    """
    progress(f"memory, {workload.memory}")
    return {
        name: run_script("peak_memory.py", WHOLE, replace(way, steps=STEPS_OF_A_PEAK).as_json())
        for name, way in in_both(workload).items()
    }


def measure_pictures(workload: Workload, count: int) -> dict[str, Any]:
    """Return how alike the pictures of held-out prompts are, and what the probes find in those of the embedded model.

    Sampler and guidance are the bundle's own. Pictures of one prompt have one seed.
    """
    prompts = held_out_prompts(count, WORDING_SEED)
    pictures = {}
    for name, way in in_both(workload).items():
        with way.load_pipeline() as pipeline:
            pictures[name] = draw_all(
                drawer(pipeline),
                [prompt.text for prompt in prompts],
                f"pictures, {name}",
                width=way.width,
                height=way.height,
                steps=way.steps,
            )
    ratios = compare_pictures(*pictures.values())
    figures: dict[str, Any] = {"psnr_db": {"median": statistics.median(ratios), "lowest": min(ratios), "each": ratios}}
    if is_embedded_model(workload):
        probes = Probes.load()
        figures["shown"] = {name: measure_prompts(prompts, probes.read(drawn)) for name, drawn in pictures.items()}
    return figures


def is_embedded_model(workload: Workload) -> bool:
    """Tell whether a bundle was made from the embedded model's weights."""
    ours, theirs = (read_manifest(folder).provenance for folder in (DEFAULT_BUNDLE, workload.folder))
    return ours.source_sha256 == theirs.source_sha256


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: what was run on what, then errors, seconds, memory and pictures."""
    names = figures["arithmetics"]
    rows = [
        [
            role,
            *(f"{found[figure]:.1e}" for figure in ("relative_error", "largest_error")),
            *(f"{found['certificate'][figure]:.1e}" for figure in ("relative_error", "bound")),
        ]
        for role, found in figures["networks"].items()
    ]
    header = [f"{names[1]} off by", "median", "largest", "by its certificate", "bound"]
    parts = [headline(figures), markdown_table(header, rows)]

    rows = []
    for mode, stages in figures["seconds"].items():
        for stage, ways in stages.items():
            exact, in_8_bits = (ways[name]["median"] for name in names)
            rows.append([f"{stage}, {mode}", seconds_text(exact), seconds_text(in_8_bits), f"{in_8_bits / exact:.2f}"])
    parts.append(markdown_table(["median, s", *names, "ratio"], rows))

    rows = [
        [f"{title}, {mode}", *(f"{ways[name][figure] / 1e6:.0f}" for name in names)]
        for mode, ways in figures["memory"].items()
        for figure, title in PEAKS.items()
    ]
    parts.append(markdown_table(["whole picture, MB (10⁶ bytes)", *names], rows))

    if pictures := figures["pictures"]:
        rows = [
            [f"PSNR against {EXACT}, {which}", "–", f"{pictures['psnr_db'][which]:.1f} dB"]
            for which in ("median", "lowest")
        ]
        if "shown" in pictures:
            rows += [
                [what, *(f"{100 * pictures['shown'][name][what]['share']:.1f} %" for name in names)]
                for what in ("all attributes", "pictures with all that was asked")
            ]
        count = len(pictures["psnr_db"]["each"])
        parts.append(markdown_table([f"{count} held-out prompts, {figures['workload']['steps']} steps", *names], rows))
    return parts


def main() -> None:
    """Run from the command line."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=None)
    parser.set_defaults(arithmetic=INT8)
    parser.add_argument("--repeats", type=positive, default=5, help="of each stage (default: 5)")
    parser.add_argument(
        "--pictures",
        type=not_negative,
        help=f"held-out prompts to draw (default: {PICTURES} of the embedded model, {PICTURES_OF_OTHERS} of others)",
    )
    arguments, workload = parse_workload(parser)
    if workload.arithmetic == EXACT:
        parser.error(f"--arithmetic {arguments.arithmetic} is {EXACT} here, which there is nothing to compare with")
    modes = MODES if arguments.memory == AUTO else (workload.memory,)
    in_modes = {mode: replace(workload, memory=mode) for mode in modes}
    count = arguments.pictures
    if count is None:
        count = PICTURES if is_embedded_model(workload) else PICTURES_OF_OTHERS
    figures: dict[str, Any] = {
        "benchmark": "arithmetic",
        "machine": machine_facts(),
        **workload.facts(varied=("memory", "arithmetic")),
        "arithmetics": list(in_both(workload)),
    }
    try:
        figures["networks"] = measure_errors(workload)
        figures["seconds"] = {mode: measure_seconds(way, arguments.repeats) for mode, way in in_modes.items()}
        figures["memory"] = {mode: measure_memory(way) for mode, way in in_modes.items()}
        figures["pictures"] = measure_pictures(workload, count) if count else None
    except (PocketDiffusionError, StageError) as error:
        raise SystemExit(str(error)) from None
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
