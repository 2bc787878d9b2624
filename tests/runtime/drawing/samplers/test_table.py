"""The table of samplers, and the names by which it is asked."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocket_diffusion.drawing.brownian import BrownianNoise
from pocket_diffusion.drawing.noise import NoiseGenerator
from pocket_diffusion.drawing.samplers import CHECKPOINT_SPACING, SAMPLERS, SamplerKind, find_sampler
from pocket_diffusion.drawing.schedulers import SCHEDULERS
from pocket_diffusion.errors import InvalidRequestError
from sampling import levels_at

EVERY = pytest.mark.parametrize("name", SAMPLERS)


@EVERY
def test_each_row_is_known_by_its_name_label_and_aliases(name: str) -> None:
    kind = SAMPLERS[name]
    for spelling in (kind.name, kind.label, *kind.aliases):
        for variant in (spelling, spelling.upper(), spelling.replace("_", " "), spelling.replace(" ", "-")):
            assert find_sampler(variant) == (kind, None), variant


@EVERY
def test_a_class_of_diffusers_asks_for_the_checkpoints_spacing(name: str) -> None:
    kind = SAMPLERS[name]
    if kind.diffusers is None:
        assert name in ("dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_2s_a")
    else:
        assert find_sampler(kind.diffusers) == (kind, CHECKPOINT_SPACING)
        assert hasattr(pytest.importorskip("diffusers"), kind.diffusers)
    assert CHECKPOINT_SPACING not in SCHEDULERS


@EVERY
def test_a_scheduler_may_follow_the_name(name: str) -> None:
    kind = SAMPLERS[name]
    for scheduler in SCHEDULERS.values():
        if scheduler.name == "ddim_uniform":
            continue  # its label is a sampler's name
        assert find_sampler(f"{kind.label} {scheduler.label}") == (kind, scheduler.name)
        assert find_sampler(f"{kind.name}_{scheduler.name}") == (kind, scheduler.name)


@pytest.mark.parametrize(
    ("spelling", "name", "scheduler"),
    [
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("dpm++-2m-sde-karras", "dpmpp_2m_sde", "karras"),
        ("Euler a", "euler_a", None),
        ("k_euler_a", "euler_a", None),
        ("PLMS", "pndm", None),
        ("DPM2 a Karras", "dpm2_a", "karras"),
        ("Euler SGM Uniform", "euler", "sgm_uniform"),
        ("LCM Karras", "lcm", "karras"),
        ("uni_pc", "unipc", None),
        ("EulerDiscreteScheduler", "euler", "checkpoint"),
    ],
)
def test_names_as_others_write_them(spelling: str, name: str, scheduler: str | None) -> None:
    assert find_sampler(spelling) == (SAMPLERS[name], scheduler)


def test_a_typo_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        find_sampler("eulr")
    assert str(refused.value) == (
        "sampler 'eulr' is not known; did you mean euler or euler_a? `pocket-diffusion samplers` lists all"
    )


@settings(deadline=None)
@given(
    st.one_of(
        st.text(),
        st.binary(),
        st.none(),
        st.integers(),
        st.floats(),
        st.lists(st.text()),
        st.text("eulr_ a+", min_size=99),
    )
)
def test_any_other_name_is_refused_in_a_short_line(name: object) -> None:
    try:
        find_sampler(name)  # type: ignore[arg-type]
    except InvalidRequestError as refused:
        assert len(str(refused)) < 300
        assert "\n" not in str(refused)


def test_a_name_of_any_length_is_refused_in_a_short_line() -> None:
    for name in ("x" * 10**7, "euler" * 10**6, [["x"] * 99] * 99, object(), "_" * 200 + "euler"):
        with pytest.raises(InvalidRequestError) as refused:
            find_sampler(name)  # type: ignore[arg-type]
        assert len(str(refused.value)) < 300


@EVERY
def test_the_usual_scheduler_goes_with_the_sampler(name: str) -> None:
    kind = SAMPLERS[name]
    assert kind.schedulers <= set(SCHEDULERS)
    assert kind.scheduler is None or kind.takes(kind.scheduler)
    for spacing in ("leading", "linspace", "trailing"):  # what a checkpoint may have
        kind.check_scheduler(spacing)


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_distilled_models_are_drawn_at_their_own_timesteps(name: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        SAMPLERS[name].check_scheduler("karras")
    assert str(refused.value) == (
        f"{name.upper()} draws at the timesteps of its distillation and does not take the scheduler karras; "
        "leave the scheduler out"
    )


@EVERY
def test_makes_a_sampler_with_the_usual_or_a_given_eta(name: str) -> None:
    kind, levels = SAMPLERS[name], levels_at([5.0, 1.0, 0.0])
    sampler = kind.sampler(levels)
    assert sampler is not kind.sampler(levels)
    if kind.eta is not None:
        assert sampler.eta == kind.eta  # type: ignore[attr-defined]
        assert kind.sampler(levels, 0.5, 2.0).eta == 0.5  # type: ignore[attr-defined]
        assert kind.sampler(levels, 0.0).eta == 0.0  # type: ignore[attr-defined]
        assert kind.sampler(levels, 0.5, 2.0).s_noise == 2.0  # type: ignore[attr-defined]


@EVERY
def test_noise_follows_the_generator_or_a_brownian_path_of_its_seed(name: str) -> None:
    shape = (1, 4, 8, 8)
    found = SAMPLERS[name].noise(NoiseGenerator(7), shape)(5.0, 2.0)
    if name in ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"):
        expected = BrownianNoise(7, shape)(5.0, 2.0)
    else:
        expected = NoiseGenerator(7).normal(shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", [kind for kind in SAMPLERS.values() if kind.diffusers not in (None, "IPNDMScheduler")])
def test_the_own_spacing_of_a_class_is_that_of_diffusers(kind: SamplerKind) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = inspect.signature(getattr(diffusers, kind.diffusers)).parameters["timestep_spacing"].default
    assert kind.family.spacing == theirs
