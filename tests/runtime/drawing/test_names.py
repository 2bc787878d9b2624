"""Looking up what people call samplers and schedulers."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocket_diffusion.drawing.names import look_up, plain
from pocket_diffusion.errors import InvalidRequestError

ROWS = {plain(name): SimpleNamespace(name=name) for name in ("dpmpp_2m", "dpmpp_2m_sde", "euler")}


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "DPMPP 2M SDE", "dpmpp-2m-sde", " Dpmpp2mSde "])
def test_capitals_spaces_and_dashes_do_not_matter(name: str) -> None:
    assert look_up(name, ROWS, "sampler").name == "dpmpp_2m_sde"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        look_up("eulr", ROWS, "sampler")
    assert str(refusal.value) == (
        "sampler 'eulr' is not known; did you mean euler? `pocket-diffusion samplers` lists all"
    )


def test_two_near_names_are_both_named() -> None:
    with pytest.raises(InvalidRequestError, match="did you mean dpmpp_2m or dpmpp_2m_sde"):
        look_up("dpmpp_2", ROWS, "sampler")


@given(st.one_of(st.none(), st.integers(), st.binary(), st.text(), st.lists(st.text())))
def test_anything_else_is_refused_in_a_short_line(name: object) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        look_up(name, ROWS, "sampler")
    assert len(str(refusal.value)) < 300


def test_a_name_that_is_too_long_is_refused_without_comparing_it() -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        look_up("euler" + " " * 1_000_000, ROWS, "sampler")
    assert "did you mean" not in str(refusal.value)
    assert len(str(refusal.value)) < 300
