"""Pictures of captions under several settings, each compared with the reference's picture of the same caption."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image
from tqdm import tqdm

from clip_score import ClipScore
from pocket_diffusion import InvalidRequestError, Order
from pocket_diffusion.batch.artist import Studio
from pocket_diffusion.batch.prompts import PROMPT
from pocket_diffusion.batch.row import COLUMNS, Row
from pocket_diffusion.evaluation import estimate, likeness
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

MACHINE = ("arithmetic", "memory", "vae")
"""What a setting says beside an order's options: `Pipeline.load`'s."""


@dataclass(frozen=True)
class Setting:
    """How pictures are drawn, as `steps=8,cache=reuse:2` says it."""

    name: str
    machine: Mapping[str, str] = field(default_factory=dict)
    order: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """Read a setting; argparse tells what is wrong."""
        pairs = [one.partition("=")[::2] for one in text.split(",")]
        known = (*MACHINE, *(name for name in COLUMNS if name not in ("seed", "image", "mask", "loras", "lora")))
        for name, value in pairs:
            if name not in known or not value:
                raise argparse.ArgumentTypeError(
                    f"{name!r} of {text!r} is not NAME=VALUE with one of {', '.join(known)}"
                )
        machine = {name: value for name, value in pairs if name in MACHINE}
        return cls(text, machine, {name: value for name, value in pairs if name not in MACHINE})

    def over(self, reference: "Setting") -> "Setting":
        """Return the setting that has this one's options, and else the reference's."""
        return Setting(self.name, {**reference.machine, **self.machine}, {**reference.order, **self.order})


@dataclass(frozen=True)
class Drawer:
    """Draws captions as `pocket-diffusion batch` does: the same seeds, and so the same pictures."""

    rows: Sequence[Row]
    width: int
    height: int
    seed: int
    threads: int | None

    def draw(self, bundle: str | None, setting: Setting) -> Iterator[Image.Image]:
        """Draw a picture a caption.

        Raises:
            InvalidRequestError: the setting cannot be had, or not with this bundle.
            PocketDiffusionError: see `Pipeline.load`.

        """
        given = {"prompt": "", "width": self.width, "height": self.height, **setting.order}
        try:
            usual = msgspec.convert(given, Order, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidRequestError(f"{setting.name}: {error}") from None
        model = None if bundle is None else Path(bundle)
        machine = {"threads": self.threads, **setting.machine}
        artist = Studio(model, usual, self.seed, Path(), machine).artist()
        with artist.pipeline as pipeline:
            for row in tqdm(self.rows, f"{pipeline.name}, {setting.name}"):
                drawn = artist.draw(row)
                if drawn.error is not None:
                    raise InvalidRequestError(f"{row.key}: {drawn.error}")
                yield Image.open(BytesIO(drawn.picture)).convert("RGB")


def measure_pairs(
    drawer: Drawer,
    bundles: Sequence[str | None],
    reference: Setting,
    settings: Sequence[Setting],
    clip: ClipScore | None,
) -> dict[str, Any]:
    """Return by setting how far its pictures are from the reference's, caption by caption; and by bundle likewise.

    Raises:
        PocketDiffusionError: the reference cannot be drawn.

    """
    keys, texts = [row.key for row in drawer.rows], [row.fields[PROMPT] for row in drawer.rows]
    pictures = list(drawer.draw(bundles[0], reference))
    scores = None if clip is None else clip.scores(pictures, texts)
    figures: dict[str, Any] = {"reference": {"setting": reference.name}, "settings": {}}
    if scores is not None:
        figures["reference"] |= {
            "clip_score": estimate(scores)._asdict(),
            "each": dict(zip(keys, scores, strict=True)),
        }
    others = [(bundles[0], setting.name, setting.over(reference)) for setting in settings]
    others += [(bundle, f"bundle {Path(str(bundle)).name}", reference) for bundle in bundles[1:]]
    for bundle, name, setting in others:
        each: dict[str, dict[str, float]] = {}
        try:
            for i, picture in enumerate(drawer.draw(bundle, setting)):
                each[keys[i]] = likeness(pictures[i], picture)._asdict()
                if clip is not None and scores is not None:
                    (score,) = clip.scores([picture], [texts[i]])
                    each[keys[i]]["clip_score_difference"] = score - scores[i]
        except InvalidRequestError as error:
            figures["settings"][name] = {"absent": reason(error, bundle)}
            continue
        found = {measure: [one[measure] for one in each.values()] for measure in each[keys[0]]}
        figures["settings"][name] = {
            "mean": {measure: estimate(values)._asdict() for measure, values in found.items()},
            "lowest_psnr_db": min(found["psnr_db"]),
            "each": each,
        }
    return figures


def reason(error: InvalidRequestError, bundle: str | None) -> str:
    """Return why something cannot be had, without the path of the bundle."""
    return str(error).replace(str(bundle or DEFAULT_BUNDLE), "the bundle")
