"""Writes a small data set in Flickr30K's layout, whose photographs are paintings: `flickr30k.py` reads both alike.

    python benchmarks/flickr30k_sample.py FOLDER [--photographs 40] [--seed 0] [--line-ends unix|windows]
                                          [--only-captions]

FOLDER gets `results.csv`, with five captions a photograph, and `flickr30k_images`. Scenes and captions are drawn as
those of the embedded model's training were. The photographs are JPEGs with sides of 500 and 375 pixels, as many of
Flickr30K are. As in the published file, a separator is missing in one row of `results.csv`. One caption has quotes, one
has letters of other alphabets, and one has more than 77 tokens.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pocket_models.landscapes.captions import caption
from pocket_models.landscapes.painting import paint
from pocket_models.landscapes.scenes import Scene, draw_scene
from report import not_negative, positive

SIZES = ((500, 375), (375, 500))
CAPTIONS = 5
"""Of each photograph."""
LINE_ENDS = {"unix": "\n", "windows": "\r\n"}
_QUALITY = 90
_FIRST_NAME = 1_000_092_795
"""The published names are such numbers."""
_SEPARATOR_MISSING = (1, 4)
"""The photograph and the caption whose row lacks one."""
_SPECIAL = {
    (0, 1): 'A lake with a sign that says "No, swimming" , near a café in Åre .',
    (0, 2): "湖 under snowy mountains .",
    (0, 3): f"{', '.join(['A lake under snowy mountains at sunset'] * 12)} .",
}


def write_sample(
    folder: Path, photographs: int, seed: int = 0, line_end: str = LINE_ENDS["unix"], *, paint_them: bool = True
) -> None:
    """Write the data set; without `paint_them`, its captions alone."""
    pictures = folder / "flickr30k_images"
    pictures.mkdir(parents=True, exist_ok=True)
    with (folder / "results.csv").open("w", encoding="utf-8", newline="") as file:
        file.write(f"image_name| comment_number| comment{line_end}")
        for number, (scene, generator) in enumerate(_scenes(photographs, seed)):
            name = f"{_FIRST_NAME + number}.jpg"
            for i in range(CAPTIONS):
                separator = "  " if (number, i) == _SEPARATOR_MISSING else "| "
                text = _SPECIAL.get((number, i)) or _in_its_style(caption(scene, generator).text)
                file.write(f"{name}| {i}{separator}{text}{line_end}")
            if paint_them:
                painted = paint(scene, int(generator.integers(2**32)))
                photograph = ImageOps.fit(painted, SIZES[number % len(SIZES)], Image.Resampling.LANCZOS)
                photograph.save(pictures / name, quality=_QUALITY)


def _scenes(count: int, seed: int) -> Iterator[tuple[Scene, np.random.Generator]]:
    for number in range(count):
        generator = np.random.default_rng([seed, number, 30])
        yield draw_scene(generator), generator


def _in_its_style(text: str) -> str:
    """Write a caption as Flickr30K does: a sentence, with blanks around all signs."""
    return f"{text[0].upper()}{text[1:].removesuffix('.').replace(',', ' ,')} ."


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument(
        "--photographs", type=positive, default=40, help="default: %(default)s; the published has 31783"
    )
    parser.add_argument("--seed", type=not_negative, default=0)
    parser.add_argument("--line-ends", choices=LINE_ENDS, default="unix", help="of results.csv")
    parser.add_argument("--only-captions", action="store_true", help="paint nothing")
    arguments = parser.parse_args()
    write_sample(
        arguments.folder,
        arguments.photographs,
        arguments.seed,
        LINE_ENDS[arguments.line_ends],
        paint_them=not arguments.only_captions,
    )


if __name__ == "__main__":
    main()
