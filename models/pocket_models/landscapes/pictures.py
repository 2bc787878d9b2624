"""The training pictures: painted once, then read from one file mapped into memory."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pocket_models.landscapes.files import written_whole
from pocket_models.landscapes.painting import SIZE, paint
from pocket_models.landscapes.scenes import Scene, draw_training_scene

Pictures = NDArray[np.uint8]
"""Painted pictures: uint8 [count, 128, 128, 3]."""


def scene_of(index: int) -> Scene:
    """Return the scene of training picture ``index``; the picture itself is painted with ``index`` as its seed."""
    return draw_training_scene(np.random.default_rng([index, 1]))


def training_pictures(path: Path, count: int) -> Pictures:
    """Open the training pictures at ``path``, painting them first if they are not there.

    Raises ValueError where ``path`` holds other pictures than would be painted now.
    """
    if not path.exists():
        with written_whole(path) as unfinished, multiprocessing.get_context("fork").Pool() as pool:
            pictures = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (count, SIZE, SIZE, 3))
            painted = pool.imap(_paint_training_picture, range(count), chunksize=32)
            for index, picture in enumerate(tqdm(painted, "painting", count, unit="picture")):
                pictures[index] = picture
            pictures.flush()
    opened: Pictures = np.load(path, mmap_mode="r")
    if len(opened) != count or not all(
        np.array_equal(opened[index], _paint_training_picture(index)) for index in (0, count - 1)
    ):
        raise ValueError(f"{path} does not hold the {count} pictures that are painted now; train into another folder")
    return opened


def _paint_training_picture(index: int) -> Pictures:
    return np.asarray(paint(scene_of(index), index))


def to_tensor(pictures: Pictures) -> torch.Tensor:
    """Turn uint8 [batch, height, width, 3] into float32 [batch, 3, height, width], -1..1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_bytes(pictures: torch.Tensor) -> Pictures:
    """Turn float [batch, 3, height, width], about -1..1, into uint8 [batch, height, width, 3]."""
    scaled = (pictures.detach().float().clamp(-1, 1) + 1) * 127.5
    array: Pictures = scaled.round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return array
