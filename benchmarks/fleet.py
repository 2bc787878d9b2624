"""What a Ray cluster costs: the same batch in processes of this machine, and on a cluster of nodes on it.

    python benchmarks/fleet.py [BUNDLE] [--size 64x64] [--nodes 1] [--pictures 100] [--rounds 3] [--output F.json]

README.md beside this file says what each figure means. Exit 1 if the cluster draws other pictures.
"""

import os
import statistics
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray.cluster_utils import Cluster

from machine import machine_facts
from pocket_diffusion import Order
from pocket_diffusion.batch import Batch
from pocket_diffusion.machine.cpu import cores
from report import headline, markdown_table, positive, progress, publish, workload_parser
from stages import Workload, parse_workload

_DRAWS = "ray::MapWorker"
"""How Ray calls the processes that draw."""
_WHOLE = (1_000, 10_000, 1_000_000)
"""Pictures of batches whose time is computed."""


def main() -> None:
    """Measure, and print a table."""
    parser = workload_parser(str(__doc__).partition("\n")[0], default_steps=None)
    parser.add_argument("--nodes", type=positive, nargs="+", default=[1], help="of one process each (default: 1)")
    parser.add_argument("--pictures", type=positive, default=100, help="of a round (default: 100)")
    parser.add_argument("--rounds", type=positive, default=3, help="of both in turn (default: 3)")
    options, workload = parse_workload(parser)
    if options.pictures < 4:
        parser.error("four pictures are the fewest of which a middle half can be timed; give more --pictures")
    workload = replace(workload, threads=options.threads or 1)
    figures: dict[str, Any] = {"benchmark": "fleet", "machine": machine_facts(), **workload.facts()}
    figures["pictures"] = options.pictures
    figures["measurements"] = [
        {"nodes": nodes, "rounds": (rounds := measure(workload, nodes, options)), "overhead": overheads(rounds)}
        for nodes in options.nodes
    ]
    publish(figures, [headline(figures), table(figures["measurements"])], options.output)


def measure(workload: Workload, nodes: int, options: Namespace) -> list[dict[str, dict[str, float]]]:
    """Draw by turns in processes of this machine and on as many nodes; return the figures of each round."""
    asked = {name: getattr(workload, name) for name in ("width", "height", "steps", "sampler")}
    common = {
        "model": workload.bundle,
        "usual": Order(prompt="", **asked),
        "processes": nodes,
        **{name: getattr(workload, name) for name in ("threads", "provider", "memory", "arithmetic")},
    }
    rounds = []
    with TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text("".join(f"a lake {number}\n" for number in range(options.pictures)))
        for number in range(options.rounds):
            progress(f"round {number + 1} of {options.rounds}: processes, then nodes, {nodes} of each")
            alone, pictures = measured(Batch(prompts, Path(folder) / f"alone-{number}", **common), nodes)
            with cluster_of(nodes, common["threads"]) as address:
                fleet, others = measured(Batch(prompts, Path(folder) / f"ray-{number}", ray=address, **common), nodes)
            if others != pictures:
                raise SystemExit("the cluster drew other pictures than the processes of this machine")
            del alone["rays_share"]  # of processes that draw, too
            rounds.append({"alone": alone, "ray": fleet})
            progress(f"seconds a picture: {alone['seconds']:.4f} and {fleet['seconds']:.4f}; {fleet['rays_share']:.3f}")
    return rounds


@contextmanager
def cluster_of(nodes: int, cores: int) -> Iterator[str]:
    """Have nodes on this machine, each with the cores of one process; yield the cluster's address."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cores})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=cores)
        yield cluster.address
    finally:
        cluster.shutdown()


def measured(batch: Batch, processes: int) -> tuple[dict[str, float], dict[int, str | None]]:
    """Draw a batch; return its figures, and the hash of each picture.

    The figures are the seconds until its first picture; those of each further one, in the middle half of the batch,
    when all processes draw; and the part of as many cores, if there are, that all takes that does not draw.
    """
    begin, end = batch.rows // 4, batch.rows * 3 // 4
    pictures: dict[int, str | None] = {}
    start = time.perf_counter()
    first = 0.0
    moments = []
    with batch:
        for record in batch.draw():
            if record.error is not None:
                raise SystemExit(record.error)
            pictures[record.row] = record.sha256
            if len(pictures) == 1:
                first = time.perf_counter() - start
            if len(pictures) in (begin, end):
                moments.append((time.perf_counter(), rays_seconds()))
    (begun, before), (ended, after) = moments
    return {
        "start": first,
        "seconds": (ended - begun) / (end - begin),
        "rays_share": (after - before) / (ended - begun) / min(processes, cores()),
    }, pictures


def overheads(rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Return what Ray takes more than processes of this machine, as parts of theirs: medians of the rounds."""
    ratios = [one["ray"]["seconds"] / one["alone"]["seconds"] for one in rounds]
    found = {
        "seconds": statistics.median(ratios) - 1,
        "rays_share": statistics.median(one["ray"]["rays_share"] for one in rounds),
    }
    for pictures in _WHOLE:
        found[f"{pictures} pictures"] = statistics.median(
            whole(one["ray"], pictures) / whole(one["alone"], pictures) - 1 for one in rounds
        )
    return found


def whole(figures: dict[str, float], pictures: int) -> float:
    """Return the seconds of a batch of so many pictures."""
    return figures["start"] + figures["seconds"] * (pictures - 1)


def table(measurements: list[dict[str, Any]]) -> str:
    """Return the report."""
    rows = []
    for measured in measurements:
        for kind, name in (("alone", "processes"), ("ray", "nodes")):
            start, seconds = (
                statistics.median(one[kind][figure] for one in measured["rounds"]) for figure in ("start", "seconds")
            )
            rows.append([f"{name}: {measured['nodes']}", f"{start:.1f} s", f"{seconds:.4f} s", "", ""])
        overhead = [f"{100 * measured['overhead'][name]:+.1f} %" for name in ("seconds", f"{_WHOLE[0]} pictures")]
        rows.append(["overhead", "", *overhead, f"{100 * measured['overhead']['rays_share']:.1f} %"])
    header = ["", "until the first picture", "a picture", f"{_WHOLE[0]:,} pictures in all", "Ray's part of the cores"]
    return markdown_table(header, rows)


def rays_seconds() -> float:
    """Return what this process and all that it began have taken of the processors, but for those that draw on Ray."""
    stats = {int(fields[0]): fields for fields in _stats()}
    family = {os.getpid()}
    while more := {pid for pid, fields in stats.items() if int(fields[3]) in family} - family:
        family |= more
    return sum(
        int(stats[pid][13]) + int(stats[pid][14]) for pid in family if not stats[pid][1].startswith(_DRAWS)
    ) / os.sysconf("SC_CLK_TCK")


def _stats() -> Iterator[list[Any]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text, command = path.read_text(), path.with_name("cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        yield [text.split(" ", 1)[0], command, *text.rpartition(")")[2].split()]


if __name__ == "__main__":
    main()
