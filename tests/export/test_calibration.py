"""What 8-bit arithmetic is measured on, where prompts are given."""

from pathlib import Path

import msgspec
import pytest

from pocket_diffusion import InvalidRequestError
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.calibration import PROMPTS, Calibration
from pocket_diffusion.certificate import Certificate
from pocket_diffusion.machine.cpu import products_are_right
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_export.certify import captions_to_draw
from pocket_export.export import export


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rows = [f"{i}.jpg| {j}| Caption {j} of {i} ." for i in range(9) for j in range(5)]
    (tmp_path / "results.csv").write_text("\n".join(["image_name| comment_number| comment", *rows, "0.jpg", ""]))
    return tmp_path


def test_captions_of_the_data_set_are_drawn_and_always_the_same(dataset: Path) -> None:
    captions = captions_to_draw(dataset)
    assert captions == captions_to_draw(dataset / "results.csv")
    assert len(set(captions)) == len(PROMPTS)
    assert all(caption.startswith("Caption ") for caption in captions)


def test_too_few_prompts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a lake\na lake\na boat\n")
    with pytest.raises(InvalidRequestError, match=r"prompts\.txt has 2 different prompts; give 3 or more"):
        captions_to_draw(path)


def test_captions_without_8_bit_graphs_are_refused_before_any_work(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="add --weights int8 or --target cuda, or leave it out"):
        export("nowhere", tmp_path / "bundle", calibration=dataset)
    assert not (tmp_path / "bundle").exists()


def test_the_certificate_says_what_prompts_were_given() -> None:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    assert Calibration(bundle, PROMPTS, 8).what == "3 pictures of 128x128, 8 steps each"
    assert Calibration(bundle, ("a", "b\nc"), 8).what == "2 pictures of 128x128, 8 steps each, 'a', 'b c'"


@pytest.mark.skipif(not products_are_right(), reason="8-bit graphs cannot be measured on this CPU")
def test_8_bit_graphs_are_certified_on_the_given_prompts(tiny_bundle_int8: Path, captions: tuple[str, ...]) -> None:
    for name in ("unet", "vae_decoder", "vae_encoder"):
        content = (tiny_bundle_int8 / f"{name}.certificate.json").read_bytes()
        assert all(repr(caption) in msgspec.json.decode(content, type=Certificate).what for caption in captions)
