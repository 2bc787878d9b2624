"""Every option is checked before any work."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pocket_diffusion.bundle import Manifest, read_manifest
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.noise import MAX_SEED
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_diffusion.request import Request, resolve_request

MANIFEST = read_manifest(DEFAULT_BUNDLE)
PICTURE = Image.new("RGB", (64, 64))
OPTIONS = ("negative_prompt", "width", "height", "steps", "guidance_scale", "sampler", "seed", "count", "strength")


def resolve(prompt: object = "a lake", **options: object) -> Request:
    given = dict.fromkeys(("width", "height", "steps", "guidance_scale", "sampler", "seed", "image", "mask"))
    return resolve_request(MANIFEST, prompt, **{**given, "negative_prompt": "", "count": 1, "strength": 0.8, **options})


def test_what_is_not_asked_for_is_the_bundles_default(manifest: Manifest) -> None:
    request = resolve()
    defaults = manifest.defaults
    assert (request.width, request.height, request.steps) == (defaults.width, defaults.height, defaults.steps)
    assert (request.guidance_scale, request.sampler) == (defaults.guidance_scale, defaults.sampler)
    assert request.task == "text-to-image"
    assert request.first_step == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"steps": 0}, "steps must be a whole number from 1 to 1000, not 0"),
        ({"steps": -1}, "steps must be .* not -1"),
        ({"steps": True}, "steps must be .* not True"),
        ({"steps": 2.0}, r"steps must be .* not 2\.0"),
        ({"width": 0}, "width must be a whole number from 64 to 4096, not 0"),
        ({"width": 7}, "width must be .* not 7"),
        ({"height": 10**6}, "height must be .* not 1000000"),
        ({"height": 10**99}, "height must be"),
        ({"width": 100}, "width must be a multiple of 8, not 100; the nearest are 96 and 104"),
        ({"guidance_scale": math.nan}, "guidance_scale must be a number from 0 to 100, not nan"),
        ({"guidance_scale": math.inf}, "guidance_scale must be .* not inf"),
        ({"guidance_scale": 10**400}, "guidance_scale must be"),
        ({"guidance_scale": "7"}, "guidance_scale must be .* not '7'"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, not -1"),
        ({"seed": 2**64}, "seed must be"),
        ({"seed": MAX_SEED, "count": 2}, "seed must be a whole number from 0 to 4294967294, not 4294967295"),
        ({"count": 0}, "count must be a whole number from 1 to 1000, not 0"),
        ({"sampler": "euler9"}, "sampler 'euler9' is not known; choose one of: ddpm"),
        ({"sampler": []}, "sampler .* is not known"),
        ({"strength": 2}, "strength must be a number from 0 to 1, not 2"),
        ({"strength": math.nan}, "strength must be .* not nan"),
        ({"strength": 0, "image": PICTURE}, "strength 0 of .* leaves nothing to draw; at least .* is needed"),
        ({"steps": 3, "strength": 0.3, "image": PICTURE}, r"strength 0\.3 of 3 steps .* at least 0\.334 is needed"),
        ({"mask": PICTURE}, "a mask needs the image that it belongs to; give one, or leave the mask out"),
        ({"image": 7}, "image must be a path, a file's bytes or a Pillow image"),
        ({"prompt": " "}, "the prompt is empty; say what to draw"),
        ({"negative_prompt": None}, "the negative prompt must be text"),
    ],
)
def test_what_cannot_be_drawn_with_is_refused_with_what_can(options: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why) as caught:
        resolve(**options)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


anything = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
    | st.complex_numbers() | st.fractions() | st.decimals() | st.lists(st.integers(), max_size=2)
    | st.sampled_from([1, 8, 64, 72, "ddpm", 10**400, object(), np.float32(1), np.int64(64), np.zeros(2)])
)  # fmt: skip


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("prompt", "mask", *OPTIONS), anything)))
def test_nothing_but_an_invalid_request_comes_of_arbitrary_values(options: dict[str, Any]) -> None:
    try:
        request = resolve(**options)
    except InvalidRequestError:
        return
    assert type(request.width) is type(request.steps) is type(request.seeds[0]) is int
    assert type(request.guidance_scale) is type(request.strength) is float
    assert json.dumps(request.metadata(0, "model"))


@given(st.integers(1, 1000))
def test_the_strength_that_is_recommended_is_enough(steps: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(steps=steps, strength=0, image=PICTURE)
    recommended = float(str(caught.value).split("at least ")[1].split()[0])
    assert resolve(steps=steps, strength=recommended, image=PICTURE).first_step < steps


def test_numbers_of_numpy_are_numbers() -> None:
    request = resolve(width=np.int64(64), seed=np.uint32(7), guidance_scale=np.float32(2.5))
    assert (request.width, request.seeds, request.guidance_scale) == (64, (7,), 2.5)


def test_picture_i_uses_seed_plus_i_to_the_last() -> None:
    assert resolve(seed=MAX_SEED - 1, count=2).seeds == (MAX_SEED - 1, MAX_SEED)


def test_a_seed_that_is_not_given_is_drawn() -> None:
    assert len({resolve().seeds for _ in range(5)}) > 1


def test_strength_says_how_many_steps_are_skipped() -> None:
    assert [resolve(image=PICTURE, steps=10, strength=s).first_step for s in (0.1, 0.59, 1)] == [9, 5, 0]


def test_the_text_form_is_that_of_automatic1111() -> None:
    text = resolve(
        "a lake", negative_prompt="people", width=64, height=72, steps=9, guidance_scale=7.5, sampler="ddpm", seed=5
    ).parameters_text(0, "small")
    assert text.splitlines()[:2] == ["a lake", "Negative prompt: people"]
    assert text.splitlines()[2].startswith(
        "Steps: 9, Sampler: DDPM, CFG scale: 7.5, Seed: 5, Size: 64x72, Model: small, Version: pocket-diffusion "
    )
    assert "Denoising strength: 0.5" in resolve(image=PICTURE, strength=0.5).parameters_text(0, "small")
    assert "Negative" not in resolve().parameters_text(0, "small")
