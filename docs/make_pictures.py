"""Draw the README's pictures with the embedded model: `python docs/make_pictures.py`."""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

from pocket_diffusion import Pipeline

FOLDER = Path(__file__).parent / "pictures"
SAMPLES = (
    "a lake under snowy mountains at sunset",
    "two red houses in a meadow with flowers at noon, with a rainbow",
    "a sailboat with a yellow sail on the sea at sunrise",
    "a lighthouse on an island at night under the stars",
    "a forest in autumn at noon with clouds",
    "three blue balloons over dunes at sunset",
    "a tent with a fire by a river at night under the northern lights",
    "a blue house on the left in a forest in winter",
)
LINE_HEIGHT, CAPTION_COLUMNS, GAP = 13, 24, 4


def side_by_side(columns: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    """Put columns of pictures beside each other, each under its caption."""
    side, rows = columns[0][1][0].width, len(columns[0][1])
    captions = [textwrap.fill(caption, CAPTION_COLUMNS) for caption, _ in columns]
    above = LINE_HEIGHT * max(caption.count("\n") + 1 for caption in captions) + GAP
    grid = Image.new("RGB", (len(columns) * (side + GAP) - GAP, above + rows * (side + GAP) - GAP), "white")
    pen = ImageDraw.Draw(grid)
    for i, (text, (_, pictures)) in enumerate(zip(captions, columns, strict=True)):
        left = i * (side + GAP)
        pen.multiline_text((left + side / 2, above / 2), text, "black", anchor="mm", align="center", font_size=10)
        for row, picture in enumerate(pictures):
            grid.paste(picture, (left, above + row * (side + GAP)))
    return grid


def samples(pipeline: Pipeline) -> Image.Image:
    """Two seeds of each prompt."""
    return side_by_side([(prompt, pipeline.generate(prompt, seed=1, count=2).images) for prompt in SAMPLES])


def tasks(pipeline: Pipeline) -> Image.Image:
    """Negative prompt, image to image, inpainting: each beside what it started from."""
    lake = pipeline.generate("a lake", seed=5).images[0]
    not_night = pipeline.generate("a lake", negative_prompt="at noon", seed=5).images[0]
    hills = pipeline.generate("hills at noon under a clear sky", seed=3).images[0]
    sunset = pipeline.generate("hills at sunset", image=hills, seed=3).images[0]
    mask = Image.new("L", hills.size)
    mask.paste(255, (0, 64, 64, 128))
    house = pipeline.generate(
        "a red house on the left in hills at noon", image=hills, mask=mask, strength=1.0, seed=4
    ).images[0]
    columns = [
        ("a lake", lake),
        ("the same seed, negative: at noon", not_night),
        ("hills at noon", hills),
        ("redrawn: hills at sunset", sunset),
        ("the mask", mask.convert("RGB")),
        ("painted in: a red house on the left", house),
    ]
    return side_by_side([(caption, [picture]) for caption, picture in columns])


def main() -> None:
    """Write both pictures."""
    pipeline = Pipeline.load()
    samples(pipeline).save(FOLDER / "samples.png", optimize=True)
    tasks(pipeline).save(FOLDER / "tasks.png", optimize=True)


if __name__ == "__main__":
    main()
