"""Draw the model card's pictures with the embedded model: `python docs/make_card_pictures.py`.

Beside each sample stand the two training pictures nearest to it: those with the least squared difference at 32x32.
All training pictures are painted again for that, which takes a minute or two.
"""

from multiprocessing import Pool

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from make_pictures import FOLDER, side_by_side
from pocket_diffusion import Pipeline
from pocket_models.landscapes.captions import held_out_prompts
from pocket_models.landscapes.painting import paint
from pocket_models.landscapes.pictures import scene_of
from pocket_models.landscapes.train import Recipe

SAMPLES, NEIGHBOURS, SMALL = 8, 2, (32, 32)


def reduced(picture: Image.Image) -> NDArray[np.float32]:
    """Return a picture small and flat, to be compared."""
    return np.asarray(picture.resize(SMALL, Image.Resampling.BOX), np.float32).ravel()


def training_picture(index: int) -> Image.Image:
    """Paint training picture `index` again."""
    return paint(scene_of(index), index)


def training_thumbnail(index: int) -> NDArray[np.float32]:
    """Return training picture `index`, reduced."""
    return reduced(training_picture(index))


def nearest(pictures: list[Image.Image]) -> list[list[int]]:
    """Return, for each picture, which training pictures are nearest to it."""
    targets = np.stack([reduced(picture) for picture in pictures])
    with Pool() as pool:
        indices = range(Recipe.pictures)
        thumbnails = pool.imap(training_thumbnail, indices, chunksize=64)
        distances = [((targets - one) ** 2).mean(axis=1) for one in tqdm(thumbnails, "painting", len(indices))]
    return np.argsort(np.stack(distances), axis=0)[:NEIGHBOURS].T.tolist()


def main() -> None:
    """Write nearest.png."""
    pipeline = Pipeline.load()
    prompts = [prompt.text for prompt in held_out_prompts(SAMPLES, seed=2)]
    samples = [pipeline.generate(prompt, seed=1).images[0] for prompt in prompts]
    columns = [
        (prompt, [sample, *map(training_picture, indices)])
        for prompt, sample, indices in zip(prompts, samples, nearest(samples), strict=True)
    ]
    side_by_side(columns).save(FOLDER / "nearest.png", optimize=True)


if __name__ == "__main__":
    main()
