import pytest

from agreement import Drawn, compare
from drawings import drawn
from systems import EXACT, ROUNDED


def test_identical_drawings_agree() -> None:
    found = compare(drawn(), drawn(), EXACT)
    assert found == {"unet": 0, "decoder": 0, "latents": 0, "psnr": 100, "agrees": True}


@pytest.mark.parametrize(
    "other",
    [drawn(latents=1.002), drawn(latents=float("nan")), drawn(pictures=103), drawn(noise=1.002), drawn(decoded=1.002)],
)
def test_drawings_that_differ_do_not_agree(other: Drawn) -> None:
    assert not compare(other, drawn(), EXACT)["agrees"]


def test_what_rounds_may_differ_more_but_not_draw_another_picture() -> None:
    assert compare(drawn(noise=1.1, decoded=1.1, latents=1.4, pictures=120), drawn(), ROUNDED)["agrees"]
    for other in (drawn(noise=0.0), drawn(decoded=0.0), drawn(latents=0.0), drawn(pictures=200)):
        assert not compare(other, drawn(), ROUNDED)["agrees"]


def test_a_difference_of_one_level_is_48_db() -> None:
    assert compare(drawn(pictures=101), drawn(), EXACT)["psnr"] == pytest.approx(48.13, abs=0.01)
