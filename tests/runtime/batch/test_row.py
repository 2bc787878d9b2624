"""A row's way to an order."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from pocket_diffusion import InvalidRequestError, LoraUse, Order
from pocket_diffusion.batch.row import Row, seed_of

USUAL = Order(prompt="", steps=4, guidance_scale=2.0)


def order(folder: Path = Path(), batch_seed: int = 0, **fields: object) -> Order:
    return Row(number=1, key="k", fields={"prompt": "a lake", **fields}).order(USUAL, batch_seed, folder)


def test_what_a_row_says_comes_before_what_is_usual() -> None:
    assert order(steps="7", seed="3", guidance_interval="0.2:0.8") == Order(
        prompt="a lake", steps=7, guidance_scale=2.0, seed=3, guidance_interval=(0.2, 0.8)
    )


def test_loras_are_named_with_their_scales() -> None:
    expected = (LoraUse(name="ink", scale=0.8), LoraUse(name="soft"))
    assert order(lora="ink:0.8, soft").loras == order(loras=[{"name": "ink", "scale": 0.8}, {"name": "soft"}]).loras
    assert order(loras="ink:0.8, soft").loras == expected


def test_a_seed_goes_by_the_key_and_the_seed_of_the_batch_alone() -> None:
    assert order().seed == seed_of("k", 0) == 3542411588
    assert order(batch_seed=1).seed != order().seed


def test_pictures_lie_in_the_folder_of_the_prompts(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)
    for path in (folder / "in" / "a.png", tmp_path / "outside.png"):
        Image.new("RGB", (8, 8), "red").save(path)
    image = order(folder, image="in/a.png").image
    assert isinstance(image, bytes)
    assert Image.open(BytesIO(image)).size == (8, 8)
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    for name in ("../outside.png", str(tmp_path / "outside.png"), "link.png", "missing.png", "in", "x\0"):
        with pytest.raises(InvalidRequestError, match="it must be a file in the folder of the prompts"):
            order(folder, image=name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": "many"}, "Expected `int | null`, got `str` - at `steps`"),
        ({"prompt": ""}, "the row has no prompt"),
        ({"prompt": "  "}, "the row has no prompt"),
        ({"guidance_interval": "0.2"}, "at `guidance_interval`"),
        ({"lora": "ink:999"}, "the scale of LoRA ink must be"),
    ],
)
def test_what_cannot_be_read_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        order(**fields)
    assert message in str(caught.value)


def test_a_row_that_could_not_be_read_says_why() -> None:
    with pytest.raises(InvalidRequestError, match="no JSON"):
        Row(number=1, key="1", error="no JSON").order(USUAL, 0, Path())
