"""How long until there is a picture: many steps and few, with caches and without, the whole VAE and a tiny one.

    python benchmarks/seconds.py [FOLDER] [--ways NAME,…] [--systems NAME,…] [--vaes own,tiny] [--size 512x512]
                                 [--rounds 3] [--once] [--output results.json] [--resume]

Every system draws in every way, in a fresh process each time, by turns: once from the start of the process, and once
more with all that is loaded. FOLDER has the models' checkpoints and bundles, or gets them now, with random weights
(random_models.py): their values change no time. How far 8-bit arithmetic and caches take a picture from the exact one
is measured on the embedded model, where it can draw in that way.
"""

import argparse
import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from differences import compare_pictures
from draw import draw_fresh
from fresh_process import StageError
from landscapes import FIRST_SEED
from machine import PACKAGES, describe, machine_facts
from peers import HOW_TO_INSTALL, prepare
from pocket_diffusion import Pipeline
from pocket_models.landscapes.captions import held_out_prompts
from random_models import MODELS, TAESD, int8_bundle, prepare_models
from report import add_measuring, markdown_table, positive, progress, publish, seconds_text, summarise
from stages import Workload
from systems import SYSTEMS

HERE = Path(__file__).parent
FIGURES = ("picture", "again", "first_step_begins", "step", "decode", "peak_rss_bytes", "peak_anonymous_bytes")
OWN, TINY = "own", "tiny"
VAES = {OWN: "its own VAE", TINY: "tiny VAE"}
SYSTEMS_COMPARED = ("ours-fast-int8", "ours-balanced-int8", "ours-fast", "openvino", "diffusers")


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way from noise to a picture: a model, and what it is drawn with."""

    title: str
    model: str
    steps: int
    sampler: str
    scheduler: str | None = None
    guidance_scale: float = 1.0
    cache: str | None = None
    """Only the runtime has these."""
    uncached: str | None = None
    """The way that is the same without the cache."""
    distilled: bool = False
    """It takes a model that has learnt it, which the embedded one has not."""

    @property
    def options(self) -> dict[str, Any]:
        """How it is drawn, in the words of `Workload` and `Pipeline.generate`."""
        names = ("steps", "sampler", "scheduler", "guidance_scale", "cache")
        return {name: getattr(self, name) for name in names}


_TWENTY = Way(
    title="DPM++ 2M, 20 steps",
    model="sd15",
    steps=20,
    sampler="dpmpp_2m",
    scheduler="trailing",
    guidance_scale=7.5,
)
WAYS = {
    "dpmpp": _TWENTY,
    "dpmpp-reuse": replace(_TWENTY, title="20 steps, cache reuse", cache="reuse", uncached="dpmpp"),
    "dpmpp-deep": replace(_TWENTY, title="20 steps, cache deep", cache="deep", uncached="dpmpp"),
    "small": replace(_TWENTY, title="small-sd, 20 steps", model="small-sd", distilled=True),
    "lcm": Way(title="LCM-LoRA, 4 steps", model="sd15", steps=4, sampler="lcm", distilled=True),
    "turbo": Way(
        title="SD-Turbo, 1 step", model="sd-turbo", steps=1, sampler="euler", scheduler="trailing", distilled=True
    ),
}
"""By the names that --ways takes."""

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


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the models are, and what of a picture is the same in all ways."""

    folder: Path
    peers: dict[str, Path]
    """The folder of the peers' files of each model."""
    size: tuple[int, int]
    threads: int | None

    def workload(self, way: Way, vae: str, system: str) -> Workload:
        """Return the work of drawing one picture so."""
        arithmetic = SYSTEMS[system].arithmetic
        bundle = self.folder / way.model
        return Workload(
            bundle=str(int8_bundle(bundle) if arithmetic == "int8" else bundle),
            width=self.size[0],
            height=self.size[1],
            provider="cpu",
            threads=self.threads,
            memory=SYSTEMS[system].memory,
            arithmetic=arithmetic,
            vae=None if vae == OWN else vae,
            **way.options,
        )

    def measure(self, measurement: Measurement, *, again: bool) -> dict[str, Any]:
        """Draw in a fresh process, twice with `again`; return the figures; a step is the mean one with a cache.

        Raises:
            StageError: the process failed.

        """
        system, name, vae = measurement
        way, files = WAYS[name], SYSTEMS[system].files
        own_files = None if files is None else self.peers[way.model] / files
        figures = draw_fresh(system, self.workload(way, vae, system), files=own_files, again=again)
        if way.cache is not None:
            figures["step"] = statistics.mean(figures["steps"])  # most of which evaluate nothing
        return figures


def prepare_place(arguments: argparse.Namespace, systems: list[str]) -> Place:
    """Write the models and the peers' files where they are missing.

    Raises:
        StageError: they could not be written.

    """
    folder: Path = arguments.folder
    names = list(dict.fromkeys(WAYS[way].model for way in arguments.ways))
    tiny_vae = folder / TAESD if TINY in arguments.vaes else None
    int8 = any(SYSTEMS[system].arithmetic == "int8" for system in systems)
    prepare_models(folder, names, int8=int8, tiny_vae=tiny_vae is not None)
    place = Place(folder=folder, peers={}, size=arguments.size or (512, 512), threads=arguments.threads)
    for name in names:
        some = next(WAYS[way] for way in arguments.ways if WAYS[way].model == name)
        checkpoint = folder / MODELS[name].checkpoint
        plain = place.workload(some, OWN, "ours-fast")
        place.peers[name] = prepare(plain, checkpoint, systems, arguments.cache, tiny_vae)
    return place


def alike(systems: list[str], ways: list[str], count: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return how alike pictures are to the exact uncached ones: PSNR in dB, by way and arithmetic.

    The embedded model draws held-out prompts; ways that need a distilled model are left out.
    """
    drawn_by_it = [way for way in ways if not WAYS[way].distilled]
    if not drawn_by_it:
        return {}
    arithmetics = dict.fromkeys(SYSTEMS[name].arithmetic for name in systems if SYSTEMS[name].files is None)
    prompts = held_out_prompts(count, 1)
    drawn = {}
    for arithmetic in dict.fromkeys(["exact", *arithmetics]):
        with Pipeline.load(arithmetic=arithmetic) as pipeline:
            for way in dict.fromkeys([*drawn_by_it, *(WAYS[name].uncached or name for name in drawn_by_it)]):
                drawn[way, arithmetic] = [
                    pipeline.generate(prompt.text, seed=FIRST_SEED + i, **WAYS[way].options).images[0]
                    for i, prompt in enumerate(tqdm(prompts, f"{way}, {arithmetic}, embedded model"))
                ]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for way in drawn_by_it:
        for arithmetic in arithmetics:
            if WAYS[way].uncached is not None or arithmetic != "exact":
                reference = drawn[WAYS[way].uncached or way, "exact"]
                psnr = compare_pictures(reference, drawn[way, arithmetic])
                found.setdefault(way, {})[arithmetic] = {"median": statistics.median(psnr), "worst": min(psnr)}
    return found


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: medians of each way and system, and ratios to each peer."""
    rows, ratios = [], []
    medians = {
        tuple(one["measurement"]): {name: found and found["median"] for name, found in one["figures"].items()}
        for one in figures["measurements"]
    }
    for (system, way, vae), found in medians.items():
        title = f"{WAYS[way].title}, {VAES[vae]}: {system}"
        values = [_text(figure, found[figure]) for figure in FIGURES]
        psnr = figures["alike"].get(way, {}).get(SYSTEMS[system].arithmetic) if SYSTEMS[system].files is None else None
        off = "–" if psnr is None else f"{psnr['median']:.1f} ({psnr['worst']:.1f})"
        rows.append([f"{title} ({figures['precisions'][system]})", *values, off])
        for (peer, their_way, their_vae), theirs in medians.items():
            same = (their_way, their_vae) == (WAYS[way].uncached or way, vae)
            if SYSTEMS[system].files is None and SYSTEMS[peer].files and same:
                shares = [
                    f"{found[figure] / theirs[figure]:.2f}" if found[figure] and theirs[figure] else "–"
                    for figure in FIGURES
                ]
                ratios.append([f"{title} / {peer}", *shares])
    header = ["from start", "loaded", "first step begins", "step", "decode", "peak RSS", "anonymous"]
    parts = [f"{figures['workload']['width']}×{figures['workload']['height']}; {describe(figures['machine'])}"]
    parts.append(markdown_table(["median, s and MB (10⁶ bytes)", *header, "PSNR, dB (least)"], rows))
    if ratios:
        parts.append(markdown_table(["ratio of medians", *header], ratios))
    parts += [f"{name} failed: {why}" for name, why in figures["failures"].items()]
    parts += [f"{name} is absent: {how}" for name, how in figures["absent"].items()]
    return parts


def _text(figure: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value / 1e6:.0f}" if "bytes" in figure else seconds_text(value)


class Rounds:
    """What was drawn so far."""

    def __init__(self, figures: dict[str, Any], before: dict[str, Any] | None) -> None:
        """Begin, or go on from the figures of an earlier run."""
        self.figures = figures
        self.drawn: dict[Measurement, list[dict[str, Any]]] = {}
        if before is not None:
            for name in ("ways", "precisions", "alike"):
                figures[name] = before[name] | figures[name]
            self.drawn = {tuple(one["measurement"]): one["drawings"] for one in before["measurements"]}
        self._sum_up()

    def run(self, place: Place, measurements: list[Measurement], *, again: bool) -> None:
        """Draw each once; those that failed before are left out."""
        for measurement in measurements:
            key = " ".join(measurement)
            if key in self.figures["failures"]:
                continue
            try:
                found = place.measure(measurement, again=again)
            except StageError as error:
                progress(f"{key}: {error}")
                self.figures["failures"][key] = str(error)
                continue
            self.figures["precisions"][measurement[0]] = found["precision"]
            self.drawn.setdefault(measurement, []).append(found)
            loaded = f", {found['again']:.2f} s loaded" if again else ""
            progress(f"{key}: {found['picture']:.2f} s from the start{loaded}")
            self._sum_up()

    def _sum_up(self) -> None:
        self.figures["measurements"] = [
            {
                "measurement": measurement,
                "figures": {
                    name: summarise(values) if (values := [one[name] for one in found if name in one]) else None
                    for name in FIGURES
                },
                "drawings": found,
            }
            for measurement, found in sorted(self.drawn.items(), key=lambda one: _order(one[0]))
        ]


def _order(measurement: Measurement) -> tuple[int, ...]:
    tables_of_names = (SYSTEMS, WAYS, VAES)
    system, way, vae = (list(table).index(name) for table, name in zip(tables_of_names, measurement, strict=True))
    return way, vae, system


def run(figures: dict[str, Any], arguments: argparse.Namespace, before: dict[str, Any] | None) -> int:
    """Measure, report, and return the exit status; Ctrl-C ends the rounds and keeps what was measured."""
    absent = {name: SYSTEMS[name].absent() for name in arguments.systems}
    figures["absent"] = {
        name: f"{', '.join(lacking)} not installed; {HOW_TO_INSTALL}" for name, lacking in absent.items() if lacking
    }
    systems = [name for name in arguments.systems if name not in figures["absent"]]
    rounds = Rounds(figures, before)
    status = 0
    try:
        place = prepare_place(arguments, systems)
        for number in range(1, arguments.rounds + 1):
            progress(f"round {number} of {arguments.rounds}")
            rounds.run(place, plan(systems, arguments.ways, arguments.vaes), again=not arguments.once)
        figures["alike"] |= alike(systems, arguments.ways, arguments.count)
        status = 1 if figures["failures"] else 0
    except StageError as error:
        progress(str(error))
        status = 1
    except KeyboardInterrupt:
        progress("interrupted; what was measured until now follows")
        status = 130
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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", nargs="?", metavar="FOLDER", type=Path, default=HERE / "work", help="of models (default: work)"
    )
    add_measuring(parser)
    for name, known, default in (
        ("ways", WAYS, list(WAYS)),
        ("systems", SYSTEMS, list(SYSTEMS_COMPARED)),
        ("vaes", VAES, list(VAES)),
    ):
        usual = ",".join(default)
        parser.add_argument(
            f"--{name}", type=lambda text, known=known: _names(known, text), default=default, help=f"default: {usual}"
        )
    parser.add_argument("--rounds", type=positive, default=3, help="in each, all is drawn once (default: 3)")
    parser.add_argument("--once", action="store_true", help="draw from the start of a process alone")
    parser.add_argument("--count", type=positive, default=12, help="prompts of the embedded model (default: 12)")
    parser.add_argument("--cache", type=Path, default=HERE / "work" / "peers", help="of peers' files")
    parser.add_argument("--resume", action="store_true", help="add to what --output has, from this very machine")
    arguments = parser.parse_args()
    facts = machine_facts(dict.fromkeys([*PACKAGES, *(p for s in SYSTEMS.values() for p in s.packages)]))
    width, height = arguments.size or (512, 512)
    figures: dict[str, Any] = {
        "benchmark": "seconds",
        "machine": facts,
        "workload": {"width": width, "height": height, "threads": arguments.threads},
        "ways": {name: asdict(WAYS[name]) for name in arguments.ways},
        "precisions": {},
        "failures": {},
        "alike": {},
    }
    before = None
    if arguments.resume:
        try:
            before = json.loads(arguments.output.read_text())
            alike_facts = [facts["cpu"], facts["packages"], figures["workload"]]
            if [before["machine"]["cpu"], before["machine"]["packages"], before["workload"]] != alike_facts:
                parser.error(f"{arguments.output} was measured on another machine, with other packages or another size")
        except (AttributeError, OSError, ValueError, KeyError, TypeError):
            parser.error("--resume adds to a results file of this benchmark; name it with --output")
    raise SystemExit(run(figures, arguments, before))


if __name__ == "__main__":
    main()
