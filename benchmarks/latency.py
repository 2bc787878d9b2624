"""How long each stage of drawing a picture takes, and the whole picture.

    python benchmarks/latency.py [BUNDLE] [--size 512x512] [--steps N] [--repeats N] [--output results.json]

README.md beside this file says what each figure means.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from machine import describe, machine_facts
from report import (
    markdown_table,
    not_negative,
    positive,
    progress,
    publish,
    seconds_text,
    summarise,
    workload_parser,
)
from stages import STAGES, StageError, Workload, open_session, run_script

from pocket_diffusion import PocketDiffusionError
from pocket_diffusion.bundle import COMPONENTS

Seconds = dict[str, list[float]]
Timings = dict[str, list[dict[str, float]]]

TIMED_STAGES = ("encode prompt", "guided step", "decode latents")
LOADED, FRESH = "whole picture, loaded pipeline", "whole picture, fresh process"


def measure(name: str, call: Callable[[], object], *, warmup: int, repeats: int) -> list[float]:
    """Return the seconds of `repeats` calls, after `warmup` calls that do not count."""
    seconds = []
    for left in reversed(range(warmup + repeats)):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 1:
            progress(f"{name}: {seconds_text(seconds[0])} s the first time, {left} more to go")
    return seconds[warmup:]


def measure_stages(workload: Workload, *, warmup: int, repeats: int) -> Seconds:
    """Measure the loading of each component, and each stage on a loaded one."""
    pipeline = workload.load_pipeline()
    calls = {f"load {component}": partial(open_session, pipeline, component) for component in COMPONENTS}
    calls |= {name: STAGES[name](pipeline, workload) for name in TIMED_STAGES}
    return {name: measure(name, call, warmup=warmup, repeats=repeats) for name, call in calls.items()}


def measure_pictures(workload: Workload, pictures: int) -> tuple[Seconds, Timings]:
    """Draw whole pictures with one pipeline, the first of which loads and does not count; then each in a new process.

    Returns:
        The seconds of each picture, and what `Result.timings` says of it.

    """
    draws = {
        LOADED: STAGES["whole picture"](workload.load_pipeline(), workload),
        FRESH: partial(run_script, "stages.py", "whole picture", workload),
    }
    timings: Timings = {name: [] for name in draws}
    seconds = {
        LOADED: measure(LOADED, lambda: timings[LOADED].append(draws[LOADED]()), warmup=1, repeats=pictures),
        FRESH: measure(FRESH, lambda: timings[FRESH].append(draws[FRESH]()), warmup=0, repeats=pictures),
    }
    return seconds, {name: ran[-pictures:] for name, ran in timings.items()}


def expected_seconds(seconds: Seconds, steps: int) -> float:
    """Estimate a picture from its stages."""
    encode, step, decode = (statistics.median(seconds[name]) for name in TIMED_STAGES)
    return encode + steps * step + decode


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: what was run on what, seconds by stage, and where a picture's time goes."""
    bundle, workload = figures["bundle"], figures["workload"]
    headline = (
        f"{bundle['name']} ({bundle['weights']} weights, for {bundle['target']}), {workload['width']}×"
        f"{workload['height']}, {workload['steps']} steps, {workload['provider']}, "
        f"threads {workload['threads'] or 'automatic'}; {describe(figures['machine'])}"
    )
    spread = ("median", "min", "lower_quartile", "upper_quartile", "max")
    rows = [
        [name, *(seconds_text(row[figure]) for figure in spread), str(len(row["seconds"]))]
        for name, row in figures["measurements"].items()
    ]
    by_stage = markdown_table(["seconds", "median", "min", "25 %", "75 %", "max", "runs"], rows)
    parts = ("load", "encode", "denoise", "decode", "total")
    rows = [
        [name, *(seconds_text(statistics.median(timing[part] for timing in ran)) for part in parts)]
        for name, ran in figures["timings"].items()
    ]
    return [headline, by_stage, markdown_table(["median of Result.timings, s", *parts], rows)]


def parse_arguments() -> tuple[argparse.Namespace, Workload]:
    """Read the command line; what is wrong with it ends the program with status 2."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=None)
    parser.add_argument("--repeats", type=positive, default=5, help="of loading and of each stage (default: 5)")
    parser.add_argument("--warmup", type=not_negative, default=1, help="runs before these (default: 1)")
    parser.add_argument("--pictures", type=positive, default=3, help="whole pictures, each way (default: 3)")
    arguments = parser.parse_args()
    try:
        return arguments, Workload.resolve(arguments)
    except PocketDiffusionError as error:
        parser.error(str(error))


def main() -> None:
    """Run from the command line."""
    arguments, workload = parse_arguments()
    figures = {"benchmark": "latency", "machine": machine_facts(), **workload.facts()}
    seconds = measure_stages(workload, warmup=arguments.warmup, repeats=arguments.repeats)
    picture = expected_seconds(seconds, workload.steps)
    runs = 1 + 2 * arguments.pictures
    progress(f"whole pictures: {runs} of about {seconds_text(picture)} s, {seconds_text(runs * picture)} s in all")
    try:
        whole, timings = measure_pictures(workload, arguments.pictures)
    except StageError as error:
        raise SystemExit(str(error)) from None
    figures["measurements"] = {name: {"seconds": ran, **summarise(ran)} for name, ran in (seconds | whole).items()}
    figures["timings"] = timings
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
