"""What a Ray cluster costs: the same batch in one process, and on a cluster of one core on this machine.

    python benchmarks/fleet.py [BUNDLE] [--size 64x64] [--pictures 100] [--output results.json]

Both are timed from their first picture to their last, so that starting is told apart. Processor time is that of all
processes that take part, Ray's own too; it says on a busy machine what time says on an idle one.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from machine import machine_facts
from pocket_diffusion import Order
from pocket_diffusion.batch import Batch
from report import bundle_parser, markdown_table, positive, publish

SMALLEST = (64, 64)


def main() -> None:
    """Measure, and print a table."""
    parser = bundle_parser(str(__doc__))
    parser.add_argument("--pictures", type=positive, default=100)
    options = parser.parse_args()
    width, height = options.size or SMALLEST
    usual = Order(prompt="", width=width, height=height)
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text("".join(f"a lake {number}\n" for number in range(options.pictures)))
        common = {"model": options.bundle, "usual": usual, "threads": options.threads or 1}
        one = measured(Batch(prompts, Path(folder) / "one", processes=1, **common))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": common["threads"]})
        try:
            many = measured(Batch(prompts, Path(folder) / "ray", processes=1, ray=cluster.address, **common))
        finally:
            cluster.shutdown()
    overhead = {name: many[name] / one[name] - 1 for name in ("seconds", "processor_seconds")}
    rows = [
        [name, f"{figures['start']:.1f} s", f"{figures['seconds']:.3f} s", f"{figures['processor_seconds']:.3f} s"]
        for name, figures in (("one process", one), ("Ray", many))
    ]
    rows.append(["overhead", "", *(f"{100 * each:+.1f} %" for each in overhead.values())])
    table = markdown_table(["", "until the first picture", "a picture", "processor, a picture"], rows)
    publish({"machine": machine_facts(), "one": one, "ray": many, "overhead": overhead}, [table], options.output)


def measured(batch: Batch) -> dict[str, float]:
    """Draw a batch; return the time until its first picture, and that of each further one."""
    begun = time.perf_counter()
    with batch:
        records = batch.draw()
        next(records)
        first, processor = time.perf_counter(), processor_seconds()
        pictures = 0
        for record in records:
            pictures += 1
            if pictures == batch.rows - 1:  # while all processes are there
                last, processor = time.perf_counter(), processor_seconds() - processor
            if record.error is not None:
                raise SystemExit(record.error)
    return {
        "start": first - begun,
        "seconds": (last - first) / pictures,
        "processor_seconds": processor / pictures,
    }


def processor_seconds() -> float:
    """Return what this process and all that it began have taken of the processors."""
    stats = {int(fields[0]): fields for fields in _stats()}
    family = {os.getpid()}
    while more := {pid for pid, fields in stats.items() if int(fields[2]) in family} - family:
        family |= more
    return sum(int(stats[pid][12]) + int(stats[pid][13]) for pid in family) / os.sysconf("SC_CLK_TCK")


def _stats() -> Iterator[list[Any]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        yield [text.split(" ", 1)[0], *text.rpartition(")")[2].split()]


if __name__ == "__main__":
    main()
