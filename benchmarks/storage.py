"""How much a bundle differs from one of the same model with larger weights: errors of networks, PSNR of a picture.

    python benchmarks/storage.py BUNDLE SMALLER [--size 512x512] [--steps 20] [--output results/storage.json]

Both compute in float32. The networks of both are fed what passes through those of BUNDLE while it draws.
"""

from dataclasses import replace
from typing import Any

from differences import compare_networks, compare_pictures, record
from machine import machine_facts
from pocket_diffusion import PocketDiffusionError
from pocket_diffusion.bundle import COMPONENTS
from report import bundle_parser, headline, markdown_table, positive, progress, publish
from stages import draw, parse_workload


def tables(figures: dict[str, Any]) -> list[str]:
    """Return the report: what was run on what, how far each network's output is off, and the picture."""
    rows = [
        [role, f"{found['relative_error']:.1e}", f"{found['largest_error']:.1e}", f"{found['psnr_db']:.1f}"]
        for role, found in figures["networks"].items()
    ]
    rows.append(["picture", "–", "–", f"{figures['picture_psnr_db']:.1f}"])
    header = [f"{figures['smaller_weights']} weights off by", "median", "largest", "PSNR, dB"]
    return [headline(figures), markdown_table(header, rows)]


def main() -> None:
    """Run from the command line."""
    parser = bundle_parser(__doc__.partition("\n")[0])
    parser.add_argument("smaller", metavar="SMALLER", help="the bundle with smaller weights")
    parser.add_argument("--steps", type=positive, default=20, help="of the picture (default: 20)")
    parser.set_defaults(provider="auto", memory="balanced", arithmetic="exact")
    arguments, workload = parse_workload(parser)
    figures: dict[str, Any] = {"benchmark": "storage", "machine": machine_facts(), **workload.facts()}
    try:
        smaller = replace(workload, bundle=arguments.smaller).load_pipeline()
        progress(f"a picture of {workload.steps} steps of each")
        recording = record(workload)
        figures["smaller_weights"] = smaller.bundle.manifest.weights
        figures["networks"] = compare_networks(recording, smaller, COMPONENTS)
        (figures["picture_psnr_db"],) = compare_pictures([recording.picture], draw(smaller, workload).images)
    except PocketDiffusionError as error:
        parser.error(str(error))
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
