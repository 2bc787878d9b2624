"""What a model's settings cost on real photographs and captions: Flickr30K's, or any data set in its layout.

    python benchmarks/flickr30k.py DATASET [BUNDLE...] [--limit 20] [--pictures 20] [--setting steps=8 ...]
                                   [--reference arithmetic=exact] [--clip FOLDER] [--output results.json]

DATASET is the published folder: `results.csv` and the photographs, in `flickr30k_images` or beside it. Measured are, on
a seeded sample of `--limit` photographs with a caption each: what the VAE of each bundle makes of photographs; how long
all captions are, in tokens, and which words a small model knows; how far pictures of captions are from the reference's
under other settings, and with other bundles; and, with a CLIP model, how well they show their captions. Means have 95 %
confidence intervals by the bootstrap. README.md beside this file says more. `flickr30k_sample.py` writes a data set.
"""

import argparse
import random
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from clip_score import ClipFolderError, ClipScore
from machine import PACKAGES, describe, machine_facts
from pocket_diffusion import InvalidRequestError, Pipeline, PocketDiffusionError
from pocket_diffusion.batch.flickr30k import captions_of, photographs_of
from pocket_diffusion.batch.prompts import PROMPT, read_prompts
from pocket_diffusion.batch.row import Row, seed_of
from pocket_diffusion.drawing.images import to_array, to_pictures
from pocket_diffusion.drawing.picture_file import open_picture
from pocket_diffusion.evaluation import Estimate, estimate, likeness
from pocket_diffusion.model.memory import MODES
from pocket_diffusion.vocabulary import words_in
from report import add_measuring, markdown_table, not_negative, positive, progress, publish
from settings import Drawer, Setting, measure_pairs, reason

PICTURE = "image_name"
"""The column that names a caption's photograph."""
EXACT = {"arithmetic": "exact", "memory": "balanced"}
VAES: dict[str, dict[str, str]] = {
    "exact": {},
    "int8": {"arithmetic": "int8"},
    "tiny": {"vae": "tiny"},
    "tiled": {"memory": "low"},
}
"""What photographs pass through, as differences from `EXACT`, with which the others are compared."""
SETTINGS = (
    "arithmetic=int8",
    "vae=tiny",
    "steps=8",
    "steps=30",
    "sampler=euler",
    "sampler=euler_a",
    "cache=reuse:2",
    "cache=deep:3",
)
MEASURES = {"psnr_db": 2, "ssim": 4}
"""With digits that are shown."""
_SAMPLE_SEED = 30
"""Of which photographs and captions are taken; pictures have seeds of their own."""
_PERCENTILES = (50, 95, 99, 100)
_UNKNOWN = 10
"""So many of the words that a model does not know are named, the most frequent ones."""
_PACKAGES = (*PACKAGES, "scikit-image", "scipy", "transformers")


def read_captions(path: Path) -> tuple[list[Row], list[str]]:
    """Return all captions, and what was repaired in the file or cannot be read."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = list(read_prompts(path))
    notes = [str(one.message) for one in caught] + [f"{path}: {row.error}" for row in rows if row.error]
    return [row for row in rows if not row.error and row.carried.get(PICTURE)], notes


def measure_photographs(
    photographs: Mapping[str, Image.Image], bundle: str | None, threads: int | None
) -> dict[str, dict[str, Any]]:
    """Return by VAE how alike photographs are to what comes back from it, or why it cannot be had."""
    figures: dict[str, dict[str, Any]] = {}
    for name, changed in VAES.items():
        try:
            with Pipeline.load(bundle, threads=threads, **{**EXACT, **changed}) as pipeline:
                if name == "tiled" and not is_tiled(pipeline, *next(iter(photographs.values())).size):
                    raise InvalidRequestError("pictures of this size are taken whole")
                figures[name] = {"each": {}}
                for file, photograph in tqdm(photographs.items(), f"{pipeline.name}, VAE, {name}"):
                    latents = pipeline.encode_image(to_array(photograph, *photograph.size))
                    (back,) = to_pictures(pipeline.decode_latents(latents))
                    figures[name]["each"][file] = likeness(photograph, back)._asdict()
        except InvalidRequestError as error:
            if name == "exact":
                raise
            figures[name] = {"absent": reason(error, bundle)}
            continue
        figures[name] |= compared(figures[name]["each"], figures["exact"]["each"])
    return figures


def is_tiled(pipeline: Pipeline, width: int, height: int) -> bool:
    """Tell whether a VAE takes pictures of a size in tiles, in the mode that needs least memory."""
    sides = [side // pipeline.bundle.manifest.latents.downscale for side in (height, width)]
    return MODES["low"].vae_tile(*sides) < max(sides)


def compared(each: Mapping[str, Mapping[str, float]], reference: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the means of all measures, and those of their differences from a reference, pair by pair."""
    measures = next(iter(each.values()))
    return {
        "mean": {name: estimate([one[name] for one in each.values()])._asdict() for name in measures},
        "difference": {
            name: estimate([one[name] - reference[key][name] for key, one in each.items()])._asdict()
            for name in measures
        },
    }


def measure_captions(rows: Sequence[Row], bundle: str | None) -> dict[str, Any]:
    """Return how long captions are in a bundle's tokens, with start and end; and what words its model knows."""
    with Pipeline.load(bundle, **EXACT) as pipeline:
        most = pipeline.tokenizer.spec.max_tokens
        texts = [row.fields[PROMPT] for row in rows]
        lengths = [len(pipeline.tokenizer.tokens(text)) + most - pipeline.tokenizer.room for text in texts]
        vocabulary = pipeline.bundle.vocabulary()
    figures: dict[str, Any] = {
        "captions": len(texts),
        "tokens": {str(p): int(np.percentile(lengths, p, method="higher")) for p in _PERCENTILES},
        "lengths": dict(sorted(Counter(lengths).items())),
        "room": most,
        "too_long": sum(length > most for length in lengths),
    }
    if vocabulary is not None:
        known, asked = set(vocabulary.words), [words_in(text) for text in texts]
        counted = Counter(word for words in asked for word in words)
        unknown = Counter({word: times for word, times in counted.items() if word not in known})
        figures["words"] = {
            "each_once_a_caption": counted.total(),
            "known": counted.total() - unknown.total(),
            "different": len(counted),
            "different_known": len(counted) - len(unknown),
            "captions_all_known": sum(known.issuperset(words) for words in asked),
            "most_frequent_unknown": dict(unknown.most_common(_UNKNOWN)),
        }
    return figures


def told(found: Mapping[str, Any], digits: int, *, sign: bool = False) -> str:
    """Return a mean with its interval."""
    one = Estimate(**found)
    form = f"{'+' if sign else ''}.{digits}f"
    between = "" if one.low is None else f" [{one.low:{form}}, {one.high:{form}}]"
    return f"{one.mean:{form}}{between}"


def tables(figures: Mapping[str, Any]) -> list[str]:
    """Return the report: what was run on what, then photographs, captions, settings and CLIP scores."""
    dataset, workload = figures["dataset"], figures["workload"]
    parts = [
        f"{dataset['captions']} captions of {dataset['photographs']} photographs ({dataset['present']} are there); "
        f"pictures of {workload['width']}×{workload['height']}; means with 95 % intervals; "
        f"{describe(figures['machine'])}"
    ]
    for bundle, ways in figures["photographs"].items():
        rows = [
            [
                name,
                *(told(way["mean"][measure], digits) for measure, digits in MEASURES.items()),
                *(
                    "–" if name == "exact" else told(way["difference"][measure], digits, sign=True)
                    for measure, digits in MEASURES.items()
                ),
            ]
            for name, way in ways.items()
            if "absent" not in way
        ]
        count = len(ways["exact"]["each"])
        header = [
            f"{count} photographs through {bundle}'s VAE",
            "PSNR, dB",
            "SSIM",
            "PSNR less exact's",
            "SSIM less exact's",
        ]
        parts += [markdown_table(header, rows), *left_out(ways)]
    rows = [caption_cells(name, found) for name, found in figures["captions"].items()]
    header = [
        "tokens, with start and end",
        "median",
        "95 %",
        "99 %",
        "longest",
        "too long",
        "words known",
        "captions all known",
    ]
    parts.append(markdown_table(header, rows))
    if pairs := figures["pairs"]:
        reference, ways = pairs["reference"], pairs["settings"]
        has_scores = "clip_score" in reference
        rows = [
            [
                name,
                told(way["mean"]["psnr_db"], 1),
                f"{way['lowest_psnr_db']:.1f}",
                told(way["mean"]["ssim"], 3),
                *([told(way["mean"]["clip_score_difference"], 2, sign=True)] if has_scores else []),
            ]
            for name, way in ways.items()
            if "absent" not in way
        ]
        what = f"{workload['drawn']} captions, against {reference['setting']}"
        header = [what, "PSNR, dB", "lowest", "SSIM", *(["CLIP score, less its"] if has_scores else [])]
        parts += [markdown_table(header, rows), *left_out(ways)]
        if has_scores:
            scores = {"pictures, reference": reference["clip_score"], "photographs": pairs["photographs"]}
            rows = [[name, told(found, 2)] for name, found in scores.items()]
            parts.append(markdown_table(["with their captions", "CLIP score"], rows))
    return parts


def caption_cells(name: str, found: Mapping[str, Any]) -> list[str]:
    """Return a bundle's row of the table of captions."""
    count, words = found["captions"], found.get("words")
    cells = [name, *map(str, found["tokens"].values()), f"{found['too_long']} ({found['too_long'] / count:.2%})"]
    if words is None:
        return [*cells, "–", "–"]
    return [
        *cells,
        f"{words['known'] / words['each_once_a_caption']:.1%}",
        f"{words['captions_all_known'] / count:.1%}",
    ]


def left_out(ways: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return, as a paragraph, what could not be had and why."""
    absent = [f"{name} ({way['absent']})" for name, way in ways.items() if "absent" in way]
    return [f"Left out: {'; '.join(absent)}."] if absent else []


def sample_of(
    rows: Sequence[Row], present: Mapping[str, Path], count: int, size: tuple[int, int]
) -> tuple[dict[str, Image.Image], list[Row]]:
    """Return some of the photographs that are there, cut to a size about their middle, and a caption of each.

    Raises:
        InvalidRequestError: no photograph has a caption, or one is no picture.

    """
    by_photograph: dict[str, list[Row]] = {}
    for row in rows:
        if row.carried[PICTURE] in present:
            by_photograph.setdefault(row.carried[PICTURE], []).append(row)
    if not by_photograph:
        raise InvalidRequestError("none of the photographs has a caption; do folder and captions belong together?")
    chance = random.Random(_SAMPLE_SEED)  # noqa: S311 - no secret
    names = chance.sample(sorted(by_photograph), min(count, len(by_photograph)))
    photographs = {
        name: ImageOps.fit(open_picture(present[name], name), size, Image.Resampling.LANCZOS) for name in names
    }
    return photographs, [chance.choice(by_photograph[name]) for name in names]


def measure(arguments: argparse.Namespace, bundles: Mapping[str, str | None]) -> dict[str, Any]:
    """Measure everything; raises what reading, loading and drawing raise."""
    clip = None if arguments.clip is None else ClipScore(arguments.clip)
    with Pipeline.load(next(iter(bundles.values()))) as pipeline:
        defaults = pipeline.bundle.manifest.defaults
    size = arguments.size or (defaults.width, defaults.height)
    captions = captions_of(arguments.dataset)
    rows, notes = read_captions(captions)
    for note in notes:
        progress(note)
    present = photographs_of(captions)
    photographs, chosen = sample_of(rows, present, arguments.limit, size)
    drawn = chosen[: arguments.limit if arguments.pictures is None else arguments.pictures]
    named = {row.carried[PICTURE] for row in rows}
    figures: dict[str, Any] = {
        "benchmark": "flickr30k",
        "machine": machine_facts(_PACKAGES),
        "dataset": {
            "captions": len(rows),
            "photographs": len(named),
            "present": len(named & present.keys()),
            "notes": [note.replace(str(captions), captions.name) for note in notes],
        },
        "workload": {
            "width": size[0],
            "height": size[1],
            "threads": arguments.threads,
            "drawn": len(drawn),
            "seed": arguments.seed,
        },
        "sample": {
            row.key: {
                "photograph": row.carried[PICTURE],
                "caption": row.fields[PROMPT],
                "seed": seed_of(row.key, arguments.seed),
            }
            for row in chosen
        },
        "photographs": {
            name: measure_photographs(photographs, bundle, arguments.threads) for name, bundle in bundles.items()
        },
        "captions": {name: measure_captions(rows, bundle) for name, bundle in bundles.items()},
        "pairs": None,
    }
    if drawn:
        settings = arguments.settings or [Setting.parse(text) for text in SETTINGS]
        drawer = Drawer(drawn, *size, arguments.seed, arguments.threads)
        figures["pairs"] = measure_pairs(drawer, list(bundles.values()), arguments.reference, settings, clip)
        if clip is not None:
            of_photographs = clip.scores(
                list(photographs.values())[: len(drawn)], [row.fields[PROMPT] for row in drawn]
            )
            figures["pairs"]["photographs"] = estimate(of_photographs)._asdict()
    return figures


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", metavar="DATASET", type=Path, help="Flickr30K's folder")
    parser.add_argument(
        "bundles", nargs="*", metavar="BUNDLE", help="the first is the reference (default: the embedded model)"
    )
    add_measuring(parser)
    parser.add_argument("--limit", type=positive, default=20, help="photographs, with a caption each (default: 20)")
    parser.add_argument("--pictures", type=not_negative, help="captions of these to draw (default: all; 0: none)")
    parser.add_argument(
        "--setting",
        dest="settings",
        type=Setting.parse,
        action="append",
        metavar="NAME=VALUE[,…]",
        help=f"to draw with, beside the reference's options; repeatable (default: {' '.join(SETTINGS)})",
    )
    parser.add_argument(
        "--reference",
        type=Setting.parse,
        default="arithmetic=exact",
        metavar="NAME=VALUE[,…]",
        help="the setting that others are compared with (default: %(default)s, and else the bundle's own)",
    )
    parser.add_argument("--seed", type=not_negative, default=0, help="of the pictures, as of `batch` (default: 0)")
    parser.add_argument("--clip", type=Path, metavar="FOLDER", help="a CLIP model, which judges the pictures")
    arguments = parser.parse_args()
    bundles = {Path(bundle).resolve().name: bundle for bundle in arguments.bundles} or {"the embedded model": None}
    if len(bundles) < len(arguments.bundles):
        parser.error("two bundles have folders of one name; rename one, so that the tables can tell them apart")
    try:
        figures = measure(arguments, bundles)
    except (PocketDiffusionError, ClipFolderError) as error:
        raise SystemExit(str(error)) from None
    publish(figures, tables(figures), arguments.output)


if __name__ == "__main__":
    main()
