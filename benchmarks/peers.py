"""The runtime beside plain ONNX Runtime, OpenVINO and diffusers: the same picture from the same weights, by turns.

    python benchmarks/peers.py BUNDLE CHECKPOINT [--int8 BUNDLE] [--size 512x512] [--steps 20] [--rounds 2]
                               [--output results.json]

CHECKPOINT is what BUNDLE was exported from, and --int8's bundle too. The peers' files are written on the first run
(prepare_peers.py). Exits with 1 where a system failed or drew another picture than the others. README.md beside this
file says what each figure means.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from agreement import AGREEMENT, Drawn, agreement_texts, compare, worst_agreements
from draw import draw_fresh
from fresh_process import StageError
from machine import PACKAGES, machine_facts
from pocket_diffusion import PocketDiffusionError
from report import (
    bundle_parser,
    headline,
    markdown_table,
    positive,
    progress,
    publish,
    seconds_text,
    summarise,
)
from stages import Workload, evaluation_inputs, parse_workload
from systems import SYSTEMS, version

REFERENCE = "ours-balanced"
HOW_TO_INSTALL = 'pip install "pocket-diffusion[peers]"'
FIGURES = (
    "first_step_begins",
    "first_step_ends",
    "step",
    "decode",
    "picture",
    "peak_rss_bytes",
    "peak_anonymous_bytes",
    "bytes_on_disk",
)
_HEADER = ("first step begins", "ends", "step", "decode", "whole picture", "peak RSS", "anonymous", "on disk")


def prepare(
    workload: Workload, checkpoint: Path, names: Iterable[str], cache: Path, tiny_vae: Path | None = None
) -> Path:
    """Return the folder with the peers' files, written now where they are missing; those of a tiny VAE too, if given.

    Raises:
        StageError: they could not be written.

    """
    places = [checkpoint] if tiny_vae is None else [checkpoint, tiny_vae]
    files = [file for place in places for file in _files(place)]
    source = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    weights = workload.load_pipeline().bundle.manifest.weights
    tools = [version(name) for name in ("torch", "diffusers", "transformers", "onnxscript", "openvino", "nncf")]
    key = hashlib.sha256(json.dumps([source, weights, tools]).encode()).hexdigest()
    folder = cache / f"{checkpoint.stem}-{weights}-{key[:12]}"
    kinds = dict.fromkeys(SYSTEMS[name].files for name in names)
    missing = [kind for kind in kinds if kind is not None and not (folder / kind).exists()]
    if missing:
        progress(f"writing the peers' files ({', '.join(missing)}), once; minutes for Stable Diffusion's size")
        script = Path(__file__).with_name("prepare_peers.py")
        command = [sys.executable, str(script), str(workload.folder), str(checkpoint), str(folder), *missing]
        command += [] if tiny_vae is None else ["--tiny-vae", str(tiny_vae)]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
            raise StageError("the peers' files could not be written")
    return folder


class Comparison:
    """The rounds of one run, and what they showed so far."""

    def __init__(
        self, figures: dict[str, Any], workload: Workload, names: Sequence[str], folder: Path, int8: str | None
    ) -> None:
        """Compare the systems `names`, the first of which is the reference.

        The peers' files are in `folder`; those of our systems that multiply in 8 bits draw from the bundle `int8`.
        """
        self.figures = {
            **figures,
            "reference": names[0],
            "drawings": [],
            "failures": {},
            "precisions": {},
            "measurements": {},
        }
        self.workload = workload
        self.names = names
        self.folder = folder
        self.int8 = int8
        self.inputs = evaluation_inputs(workload)

    @property
    def faults(self) -> list[str]:
        """What must not be overlooked: a line for each system that failed or drew another picture."""
        lines = [f"{name}: {message}" for name, message in self.figures["failures"].items()]
        lines += [
            f"{name} does not agree with {self.names[0]}: "
            + ", ".join(
                f"{what} {figure}"
                for what, figure in zip(AGREEMENT, agreement_texts(found, SYSTEMS[name].tolerance), strict=True)
            )
            for name, found in worst_agreements(self.figures["drawings"]).items()
            if not found["agrees"]
        ]
        return lines

    def estimate(self, rounds: int) -> float:
        """Return roughly how many seconds the rounds take, from one step of one system.

        Raises:
            StageError: not even that could be drawn.

        """
        probe = draw_fresh(REFERENCE, replace(self.workload, steps=1, memory="balanced", arithmetic="exact"))
        steps = self.workload.steps * probe["step"]
        picture = (probe["first_step_begins"] + steps + probe["decode"]) / SYSTEMS[REFERENCE].cost
        return rounds * sum(SYSTEMS[name].cost * picture for name in self.names)

    def run_round(self) -> None:
        """Draw once with each system that has not failed, and compare.

        Raises:
            StageError: the reference failed, without which nothing can be compared.

        """
        with tempfile.TemporaryDirectory() as arrays:
            np.savez(Path(arrays, "inputs.npz"), **self.inputs)
            reference = None
            for name in self.names:
                if name in self.figures["failures"]:
                    continue
                try:
                    drawing, drawn = self._draw(name, Path(arrays))
                except StageError as error:
                    if reference is None:
                        raise
                    progress(str(error))
                    self.figures["failures"][name] = str(error)
                    continue
                reference = reference or drawn
                agreement = compare(drawn, reference, SYSTEMS[name].tolerance)
                self.figures["drawings"].append({"system": name, **drawing, "agreement": agreement})
                self._sum_up()

    def _draw(self, name: str, arrays: Path) -> tuple[dict[str, Any], Drawn]:
        system = SYSTEMS[name]
        files = None if system.files is None else self.folder / system.files
        workload = replace(
            self.workload,
            bundle=self.int8 if system.arithmetic == "int8" else self.workload.bundle,
            memory=system.memory,
            arithmetic=system.arithmetic,
        )
        figures = draw_fresh(name, workload, files=files, arrays=arrays)
        self.figures["precisions"][name] = figures["precision"]
        size = sum(path.stat().st_size for path in _files(files or workload.folder))
        progress(f"{name}: step {seconds_text(figures['step'])} s, picture {seconds_text(figures['picture'])} s")
        return {**figures, "bytes_on_disk": size}, Drawn.read(arrays / f"{name}.npz")

    def _sum_up(self) -> None:
        for name in SYSTEMS:
            drawings = [drawing for drawing in self.figures["drawings"] if drawing["system"] == name]
            if drawings:
                self.figures["measurements"][name] = {
                    figure: summarise([drawing[figure] for drawing in drawings]) for figure in FIGURES
                }


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: medians and errors of each system, ratios of ours to each peer, and who agrees."""
    medians = {
        name: [measured[figure]["median"] for figure in FIGURES] for name, measured in figures["measurements"].items()
    }
    worst = worst_agreements(figures["drawings"])
    texts = [
        [
            f"{name} ({figures['precisions'][name]})",
            *(_text(figure, value) for figure, value in zip(FIGURES, values, strict=True)),
            *("–" if name == figures["reference"] else f"{worst[name][part]:.1e}" for part in ("unet", "decoder")),
        ]
        for name, values in medians.items()
    ]
    header = ["median, s and MB (10⁶ bytes)", *_HEADER, "U-Net off by", "decoder off by"]
    parts = [headline(figures), markdown_table(header, texts)]
    ours = [name for name in medians if SYSTEMS[name].files is None]
    ratios = [
        [f"{name} / {peer}", *(f"{a / b:.2f}" for a, b in zip(medians[name], medians[peer], strict=True))]
        for peer in medians
        if peer not in ours
        for name in ours
    ]
    if ratios:
        parts.append(markdown_table(["ratio of medians", *_HEADER], ratios))
    rows = [
        [
            name,
            *agreement_texts(found, SYSTEMS[name].tolerance),
            "yes" if found["agrees"] else "NO",
            SYSTEMS[name].tolerance.reason,
        ]
        for name, found in worst.items()
        if name != figures["reference"]
    ]
    if rows:
        header = [f"against {figures['reference']}", *AGREEMENT, "agrees", "reason for the limits"]
        parts.append(markdown_table(header, rows))
    parts += [f"{name} is absent: {how}" for name, how in figures["absent"].items()]
    return parts


def systems(text: str) -> list[str]:
    """Read names of systems; the reference comes first, if it is among them, and the others as they are named."""
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(SYSTEMS)}")
    return sorted(names, key=lambda name: name != REFERENCE)


def _files(place: Path) -> list[Path]:
    """Return a file, or all files in a folder."""
    return [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())


def _text(figure: str, value: float) -> str:
    return f"{value / 1e6:.0f}" if "bytes" in figure else seconds_text(value)


def main() -> None:
    """Run from the command line."""
    parser = bundle_parser(__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="what the bundle was exported from")
    parser.add_argument("--steps", type=positive, default=20, help="of each picture (default: 20)")
    parser.add_argument("--rounds", type=positive, default=2, help="in each, every system draws once (default: 2)")
    parser.add_argument(
        "--int8",
        metavar="BUNDLE",
        help="the same checkpoint exported with --weights int8: adds the systems ours-…-int8",
    )
    parser.add_argument("--systems", type=systems, help=f"default: {','.join(SYSTEMS)}")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(__file__).parent / "work" / "peers",
        help="where the peers' files are kept (default: benchmarks/work/peers)",
    )
    parser.set_defaults(provider="cpu", memory="auto", arithmetic="exact")
    arguments, workload = parse_workload(parser)
    if not arguments.checkpoint.exists():
        parser.error(f"there is no {arguments.checkpoint}; give what the bundle was exported from")
    in_int8 = [name for name, system in SYSTEMS.items() if system.arithmetic == "int8"]
    if arguments.systems is None:
        arguments.systems = systems(",".join(name for name in SYSTEMS if arguments.int8 or name not in in_int8))
    elif not arguments.int8 and set(arguments.systems) & set(in_int8):
        parser.error(f"{', '.join(in_int8)} draw from a bundle exported with --weights int8; give it with --int8")
    figures: dict[str, Any] = {
        "benchmark": "peers",
        "machine": machine_facts(dict.fromkeys([*PACKAGES, *(p for s in SYSTEMS.values() for p in s.packages)])),
        **workload.facts(varied=("memory", "arithmetic")),
        "tolerances": {name: asdict(SYSTEMS[name].tolerance) for name in arguments.systems},
    }
    if figures["bundle"]["weights"] == "int8":
        parser.error("the peers have no weights like those of an int8 bundle; give one with fp16 or fp32 weights")
    if arguments.int8:
        try:
            figures["int8_bundle"] = replace(workload, bundle=arguments.int8, arithmetic="int8").facts()["bundle"]
        except PocketDiffusionError as error:
            parser.error(str(error))
    raise SystemExit(run(figures, workload, arguments))


def run(figures: dict[str, Any], workload: Workload, arguments: argparse.Namespace) -> int:
    """Measure, report, and return the exit status; Ctrl-C ends the rounds and keeps what was measured."""
    absent = {name: SYSTEMS[name].absent() for name in arguments.systems}
    how = {name: f"{', '.join(lacking)} not installed; {HOW_TO_INSTALL}" for name, lacking in absent.items() if lacking}
    for name, text in how.items():
        progress(f"{name} is absent: {text}")
    names = [name for name in arguments.systems if name not in how]
    if not names:
        return 1
    try:
        folder = prepare(workload, arguments.checkpoint, names, arguments.cache)
        comparison = Comparison({**figures, "absent": how}, workload, names, folder, arguments.int8)
        minutes = comparison.estimate(arguments.rounds) / 60
    except StageError as error:
        progress(str(error))
        return 1
    progress(f"{arguments.rounds} rounds of {', '.join(names)}: about {minutes:.1f} min")
    status = 0
    try:
        for number in range(1, arguments.rounds + 1):
            progress(f"round {number} of {arguments.rounds}")
            comparison.run_round()
    except StageError as error:
        progress(str(error))
        status = 1
    except KeyboardInterrupt:
        progress("interrupted; what was measured until now follows")
        status = 130
    publish(comparison.figures, tables(comparison.figures), arguments.output)
    for fault in comparison.faults:
        progress(fault)
    return status or int(bool(comparison.faults))


if __name__ == "__main__":
    main()
