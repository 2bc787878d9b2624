"""How long until there is a picture: many steps and few, with caches and without, the whole VAE and a tiny one.

    python benchmarks/seconds.py BUNDLE CHECKPOINT [--int8 BUNDLE] [--tiny-vae FOLDER] [--ways NAME,…]
                                 [--systems NAME,…] [--size 512x512] [--rounds 3] [--output results.json]

Every system draws in every way, in a fresh process each time, by turns: once from the start of the process, and once
more with all that is loaded. With --tiny-vae, a diffusers folder of one that BUNDLE (and --int8's) were given by
`pocket-diffusion add`, each way is drawn with the tiny VAE too. Weights may be random: their values change no time. The
difference that a way makes to the picture is for models that draw something: caches.py and samplers.py measure it.
"""

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from draw import draw_fresh
from fresh_process import StageError
from machine import PACKAGES, machine_facts
from peers import HOW_TO_INSTALL, prepare
from report import bundle_parser, headline, markdown_table, positive, progress, publish, seconds_text, summarise
from stages import Workload, parse_workload
from systems import SYSTEMS

FIGURES = ("picture", "again", "first_step_begins", "step", "decode", "peak_rss_bytes", "peak_anonymous_bytes")
OWN, TINY = "own", "tiny"
SYSTEMS_COMPARED = ("ours-fast-int8", "ours-balanced-int8", "ours-fast", "openvino", "diffusers")


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way from noise to a picture: what a kind of model is drawn with."""

    title: str
    steps: int
    sampler: str
    scheduler: str | None = None
    guidance_scale: float = 1.0
    cache: str | None = None
    """Only the runtime has these."""

    def workload(self, workload: Workload, vae: str) -> Workload:
        """Return the work of drawing one picture so."""
        settings = {name: value for name, value in asdict(self).items() if name != "title"}
        return replace(workload, **settings, vae=None if vae == OWN else vae)


_TWENTY = Way(title="DPM++ 2M, 20 steps", steps=20, sampler="dpmpp_2m", scheduler="trailing", guidance_scale=7.5)
WAYS = {
    "dpmpp": _TWENTY,
    "dpmpp-reuse": replace(_TWENTY, title=f"{_TWENTY.title}, cache reuse", cache="reuse"),
    "dpmpp-deep": replace(_TWENTY, title=f"{_TWENTY.title}, cache deep", cache="deep"),
    "lcm": Way(title="LCM, 4 steps", steps=4, sampler="lcm"),
    "turbo": Way(title="Turbo, 1 step", steps=1, sampler="euler", scheduler="trailing"),
}
"""By the names that --ways takes. All are drawn with the networks of one bundle, whichever model they were made for."""

_VARIED = ("steps", "memory", "arithmetic", "sampler", "scheduler", "guidance_scale", "cache", "vae")

Measurement = tuple[str, str, str]
"""A system, a way and a VAE, by their names."""


def plan(systems: list[str], ways: list[str], vaes: list[str]) -> list[Measurement]:
    """Return what is drawn in each round; peers have no caches."""
    return [
        (system, way, vae)
        for way in ways
        for vae in vaes
        for system in systems
        if WAYS[way].cache is None or SYSTEMS[system].files is None
    ]


def measure(workload: Workload, measurement: Measurement, files: Path, int8: str | None) -> dict[str, Any]:
    """Draw twice in a fresh process; return the figures.

    Raises:
        StageError: the process failed.

    """
    name, way, vae = measurement
    system = SYSTEMS[name]
    work = replace(WAYS[way].workload(workload, vae), memory=system.memory, arithmetic=system.arithmetic)
    if system.arithmetic == "int8":
        work = replace(work, bundle=int8)
    own_files = None if system.files is None else files / system.files
    return draw_fresh(name, work, files=own_files, again=True)


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: medians of each way and system, and ratios to each peer."""
    rows, ratios = [], []
    medians = {
        tuple(one["measurement"]): {figure: one["figures"][figure]["median"] for figure in FIGURES}
        for one in figures["measurements"]
    }
    for (system, way, vae), found in medians.items():
        values = [f"{x / 1e6:.0f}" if "bytes" in figure else seconds_text(x) for figure, x in found.items()]
        rows.append([f"{WAYS[way].title}, {vae} VAE: {system} ({figures['precisions'][system]})", *values])
        for (peer, their_way, their_vae), theirs in medians.items():
            uncached = "dpmpp" if WAYS[way].cache else way
            if SYSTEMS[system].files is None and SYSTEMS[peer].files and (their_way, their_vae) == (uncached, vae):
                shares = [f"{found[figure] / theirs[figure]:.2f}" for figure in FIGURES]
                ratios.append([f"{WAYS[way].title}, {vae} VAE: {system} / {peer}", *shares])
    header = ["from start", "loaded", "first step begins", "step", "decode", "peak RSS", "anonymous"]
    parts = [headline(figures), markdown_table(["median, s and MB (10⁶ bytes)", *header], rows)]
    if ratios:
        parts.append(markdown_table(["ratio of medians", *header], ratios))
    parts += [f"{name} failed: {why}" for name, why in figures["failures"].items()]
    parts += [f"{name} is absent: {how}" for name, how in figures["absent"].items()]
    return parts


def run(figures: dict[str, Any], workload: Workload, arguments: argparse.Namespace) -> int:
    """Measure, report, and return the exit status; Ctrl-C ends the rounds and keeps what was measured."""
    absent = {name: SYSTEMS[name].absent() for name in arguments.systems}
    figures["absent"] = {
        name: f"{', '.join(lacking)} not installed; {HOW_TO_INSTALL}" for name, lacking in absent.items() if lacking
    }
    names = [name for name in arguments.systems if name not in figures["absent"]]
    vaes = [OWN] if arguments.tiny_vae is None else [OWN, TINY]
    drawn: dict[Measurement, list[dict[str, Any]]] = {}
    status = 0
    try:
        files = prepare(workload, arguments.checkpoint, names, arguments.cache, arguments.tiny_vae)
        for number in range(1, arguments.rounds + 1):
            progress(f"round {number} of {arguments.rounds}")
            for measurement in plan(names, arguments.ways, vaes):
                key = " ".join(measurement)
                if key in figures["failures"]:
                    continue
                try:
                    found = measure(workload, measurement, files, arguments.int8)
                except StageError as error:
                    progress(f"{key}: {error}")
                    figures["failures"][key], status = str(error), 1
                    continue
                figures["precisions"][measurement[0]] = found["precision"]
                drawn.setdefault(measurement, []).append(found)
                progress(f"{key}: {found['picture']:.2f} s from the start, {found['again']:.2f} s loaded")
    except StageError as error:
        progress(str(error))
        status = 1
    except KeyboardInterrupt:
        progress("interrupted; what was measured until now follows")
        status = 130
    figures["measurements"] = [
        {
            "measurement": measurement,
            "figures": {figure: summarise([one[figure] for one in found]) for figure in FIGURES},
            "drawings": found,
        }
        for measurement, found in drawn.items()
    ]
    publish(figures, tables(figures), arguments.output)
    return status


def _names(known: dict[str, Any], text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return names


def main() -> None:
    """Run from the command line."""
    parser = bundle_parser(__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="what the bundle was made from")
    parser.add_argument("--int8", metavar="BUNDLE", help="the same with --weights int8: adds the systems ours-…-int8")
    parser.add_argument("--tiny-vae", metavar="FOLDER", type=Path, help="a diffusers folder of one, which BUNDLE has")
    parser.add_argument("--ways", type=lambda text: _names(WAYS, text), default=list(WAYS), help=", ".join(WAYS))
    parser.add_argument("--systems", type=lambda text: _names(SYSTEMS, text), help=", ".join(SYSTEMS_COMPARED))
    parser.add_argument("--rounds", type=positive, default=3, help="in each, all is drawn once (default: 3)")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent / "work" / "peers", help="of peers' files")
    parser.set_defaults(provider="cpu", memory="auto", arithmetic="exact", steps=None)
    arguments, workload = parse_workload(parser)
    for place in (arguments.checkpoint, arguments.tiny_vae):
        if place is not None and not place.exists():
            parser.error(f"there is no {place}")
    in_int8 = {name for name, system in SYSTEMS.items() if system.arithmetic == "int8"}
    if arguments.systems is None:
        arguments.systems = [name for name in SYSTEMS_COMPARED if arguments.int8 or name not in in_int8]
    elif not arguments.int8 and in_int8.intersection(arguments.systems):
        parser.error(f"{', '.join(sorted(in_int8))} draw from a bundle with int8 weights; give it with --int8")
    figures: dict[str, Any] = {
        "benchmark": "seconds",
        "machine": machine_facts(dict.fromkeys([*PACKAGES, *(p for s in SYSTEMS.values() for p in s.packages)])),
        **workload.facts(varied=_VARIED),
        "ways": {name: asdict(WAYS[name]) for name in arguments.ways},
        "precisions": {},
        "failures": {},
    }
    raise SystemExit(run(figures, workload, arguments))


if __name__ == "__main__":
    main()
