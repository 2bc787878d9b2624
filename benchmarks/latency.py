"""How long each stage of drawing a picture takes, and the whole picture.

    python benchmarks/latency.py [BUNDLE] [--size 512x512] [--steps N] [--repeats N] [--output results.json]

README.md beside this file says what each figure means.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from fresh_process import StageError, run_script
from machine import machine_facts
from pocket_diffusion import PocketDiffusionError
from pocket_diffusion.bundle import COMPONENTS
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
from stages import (
    STAGES,
    Workload,
    parse_workload,
    whole_picture,
)

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
            more = f"; {left} more, about {seconds_text(left * seconds[0])} s" if left else ""
            progress(f"{name}: {seconds_text(seconds[0])} s{more}")
    return seconds[warmup:]


def measure_loaded(workload: Workload, *, warmup: int, repeats: int, pictures: int) -> tuple[Seconds, Timings]:
    """Measure the loading of each component, then, on a loaded pipeline, each stage and whole pictures.

    Returns:
        The seconds of each call, and what `Result.timings` says of the pictures.

    """
    pipeline = workload.load_pipeline()
    calls = {f"load {component}": partial(pipeline.components.open_session, component) for component in COMPONENTS}
    calls |= {name: STAGES[name](pipeline, workload) for name in TIMED_STAGES}
    seconds = {name: measure(name, call, warmup=warmup, repeats=repeats) for name, call in calls.items()}
    announce_pictures(seconds, workload.steps, runs=2 * pictures)
    whole_picture(pipeline, replace(workload, steps=1))()  # loads what the memory mode keeps
    drawn, timings = measure_pictures(LOADED, whole_picture(pipeline, workload), pictures)
    return seconds | drawn, timings


def measure_fresh(workload: Workload, *, pictures: int) -> tuple[Seconds, Timings]:
    """Measure whole pictures again, each from the start of a new process to its end.

    Raises:
        StageError: such a process failed.

    """
    return measure_pictures(FRESH, partial(run_script, "stages.py", workload.as_json()), pictures)


def measure_pictures(name: str, draw: Callable[[], dict[str, float]], pictures: int) -> tuple[Seconds, Timings]:
    """Measure what draws a picture and returns its timings; everything is warm, or is not meant to be."""
    timings: list[dict[str, float]] = []
    seconds = measure(name, lambda: timings.append(draw()), warmup=0, repeats=pictures)
    return {name: seconds}, {name: timings}


def announce_pictures(seconds: Seconds, steps: int, *, runs: int) -> None:
    """Tell how long the whole pictures will take, from what their stages took."""
    encode, step, decode = (statistics.median(seconds[name]) for name in TIMED_STAGES)
    picture = encode + steps * step + decode
    progress(f"whole pictures: {runs} of about {seconds_text(picture)} s, {seconds_text(runs * picture)} s in all")


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: what was run on what, seconds by stage, and where a picture's time goes."""
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
    return [headline(figures), by_stage, markdown_table(["median of Result.timings, s", *parts], rows)]


def main() -> None:
    """Run from the command line."""
    parser = workload_parser(__doc__.partition("\n")[0], default_steps=None)
    parser.add_argument("--repeats", type=positive, default=5, help="of loading and of each stage (default: 5)")
    parser.add_argument("--warmup", type=not_negative, default=1, help="runs before these (default: 1)")
    parser.add_argument("--pictures", type=positive, default=3, help="whole pictures, each way (default: 3)")
    arguments, workload = parse_workload(parser)
    figures = {"benchmark": "latency", "machine": machine_facts(), **workload.facts()}
    try:
        loaded, loaded_timings = measure_loaded(
            workload, warmup=arguments.warmup, repeats=arguments.repeats, pictures=arguments.pictures
        )
        fresh, fresh_timings = measure_fresh(workload, pictures=arguments.pictures)
    except (PocketDiffusionError, StageError) as error:
        raise SystemExit(str(error)) from None
    figures["measurements"] = {name: {"seconds": ran, **summarise(ran)} for name, ran in (loaded | fresh).items()}
    figures["timings"] = loaded_timings | fresh_timings
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
