"""Readers of what strangers send, given changed inputs: `python -m fuzz [READER ...]`; exit 1 if one is hurt.

What hurts is kept in `tests/fuzz/corpus`, and `make test` fails until the reader stands it.
"""

import argparse
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fuzz.campaign import Campaign
from fuzz.targets import TARGETS, Target
from machine import machine_facts
from report import markdown_table, output_path, positive, progress, publish

_SECONDS = 60
"""Of each reader, where nothing else is asked for."""
_HEADER = ("reader", "inputs", "a second", "refused", "slowest, s", "memory, MB", "hurt")


def fuzz(target: Target, seed: int, inputs: int | None, seconds: int | None) -> dict[str, Any]:
    """Give a reader what is kept and what is new, keep one input of each fault, and return the figures."""
    progress(f"{target.name}: {target.reader.__doc__}")
    campaign, hurt, kinds = Campaign(target, seed), 0, set()
    for finding in itertools.chain(campaign.corpus(), campaign.run(inputs=inputs, seconds=seconds)):
        hurt += 1
        if finding.kind not in kinds:
            kinds.add(finding.kind)
            progress(f"  {target.name}, {finding.keep()}: {finding.fault}")
    progress(f"{target.name}: {campaign.inputs:,} inputs in {campaign.seconds:.0f} s, {hurt} hurt")
    return {
        "inputs": campaign.inputs,
        "refused": campaign.refused,
        "seconds": campaign.seconds,
        "slowest_seconds": campaign.slowest,
        "memory_bytes": campaign.memory,
        "hurt": hurt,
    }


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Return the figures of all readers as they are shown."""
    rows = [
        [
            name, f"{found['inputs']:,}", f"{found['inputs'] / found['seconds']:.0f}",
            f"{100 * found['refused'] / max(found['inputs'], 1):.0f} %", f"{found['slowest_seconds']:.2f}",
            f"{found['memory_bytes'] / 1e6:.0f}", str(found["hurt"]),
        ]
        for name, found in figures.items()
    ]  # fmt: skip
    total = [f"{sum(found[name] for found in figures.values()):,}" for name in ("inputs", "hurt")]
    return markdown_table(_HEADER, [*rows, ["all", total[0], "", "", "", "", total[1]]])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=positive, help=f"of each reader (default: {_SECONDS}, without --inputs)")
    parser.add_argument("--inputs", type=positive, help="of each reader")
    parser.add_argument("--seed", type=int, default=0, help="another makes other inputs (default: 0)")
    parser.add_argument("--jobs", type=positive, default=1, help="readers side by side (default: 1)")
    parser.add_argument("--output", type=output_path, metavar="FILE.json", help="write all figures there too")
    asked = parser.parse_args()
    unknown = sorted(set(asked.readers) - set(TARGETS))
    if unknown:
        parser.error(f"there is no reader {', '.join(unknown)}; choose from {', '.join(TARGETS)}")
    seconds = _SECONDS if asked.seconds is None and asked.inputs is None else asked.seconds
    names = asked.readers or list(TARGETS)
    with ThreadPoolExecutor(asked.jobs) as pool:
        figures = pool.map(lambda name: fuzz(TARGETS[name], asked.seed, asked.inputs, seconds), names)
        found = dict(zip(names, figures, strict=True))
    publish({"machine": machine_facts(), "seed": asked.seed, "readers": found}, [table(found)], asked.output)
    if any(each["hurt"] for each in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
