"""What an export says of how far it is."""

from itertools import accumulate
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pocket_diffusion.machine.cpu import products_are_right
from pocket_export.checkpoint import read_checkpoint
from pocket_export.parts import PARTS, part_sizes
from pocket_export.progress import PartSize, Progress, plan

SD15 = {
    "text_encoder": PartSize(196, 123_060_480),
    "vae_encoder": PartSize(108, 34_163_664),
    "vae_decoder": PartSize(140, 49_490_199),
    "unet": PartSize(686, 859_520_964),
}
IN_8_BITS = ("unet", "vae_decoder", "vae_encoder")


def test_sizes_are_those_of_the_parts(place: Path, mini_state: dict[str, torch.Tensor]) -> None:
    save_file(mini_state, place / "model.safetensors")
    checkpoint = read_checkpoint(str(place / "model.safetensors"))
    parts = [make(checkpoint) for make in PARTS]
    sizes = {part.name: PartSize(len(list(part.module.parameters())), part.parameters) for part in parts}
    assert part_sizes(checkpoint) == sizes
    assert list(part_sizes(checkpoint)) == [part.name for part in parts]


@pytest.mark.parametrize(
    ("in_int8", "in_8_bits", "least", "most"),
    [(False, (), 120, 300), (True, (), 120, 350), (True, IN_8_BITS, 400, 1500)],
)
def test_the_estimate_for_stable_diffusion_is_minutes(
    in_int8: bool, in_8_bits: tuple[str, ...], least: float, most: float
) -> None:
    phases = plan(SD15, in_int8=in_int8, for_cpu=True, in_8_bits=in_8_bits)
    assert least < Progress(print, phases).seconds < most


def test_float16_takes_a_drawing_and_a_check_of_each_part_more() -> None:
    plain, more = (plan(SD15, in_int8=False, for_cpu=False, in_float16=one) for one in (False, True))
    assert [kind for kind in more if kind not in plain] == [("", "draw"), *((name, "float16") for name in SD15)]


def test_the_share_is_that_of_the_phases_behind() -> None:
    said: list[tuple[str, float]] = []
    progress = Progress(
        lambda what, done: said.append((what, done)), {("a", "trace"): 1, ("a", "write"): 2, ("", "finish"): 1}
    )
    progress.tell("before")
    progress.begin("a", "trace", "one")
    progress.begin("a", "write", "two")
    progress.tell("on the way")
    progress.begin("b", "write", "of no plan")
    progress.begin("", "finish", "three")
    assert said == [
        ("before", 0),
        ("one", 0),
        ("two", 0.25),
        ("on the way", 0.25),
        ("of no plan", 0.25),
        ("three", 0.75),
    ]
    assert progress.seconds == 4


@pytest.mark.skipif(not products_are_right(), reason="no 8-bit graphs are made here")
def test_an_export_goes_through_all_phases_in_their_order(
    tiny_folder: Path, tiny_bundle_int8: Path, tiny_int8_progress: list[tuple[str, float]]
) -> None:
    sizes = part_sizes(read_checkpoint(str(tiny_folder)))
    millions = sum(size.millions for size in sizes.values())
    phases = plan(sizes, in_int8=True, for_cpu=True, in_8_bits=IN_8_BITS)
    *ends, whole = accumulate(phases.values())
    shares = [done for _, done in tiny_int8_progress]
    assert list(dict.fromkeys(shares)) == pytest.approx([0, *(end / whole for end in ends), 1])
    assert [what for what, _ in tiny_int8_progress[:2]] == [
        "folder: prediction type epsilon, by its scheduler's config",
        f"folder: {millions:.0f} M parameters, about {whole:.0f} s on two cores",
    ]
