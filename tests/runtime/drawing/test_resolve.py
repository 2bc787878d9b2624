"""Every option is checked before any work."""

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pocket_diffusion import Order
from pocket_diffusion.bundle import TOKEN_DOWNSAMPLING, Manifest, NoiseSchedule, TensorSpec, read_manifest
from pocket_diffusion.drawing.metadata import parameters_text, settings
from pocket_diffusion.drawing.noise import MAX_SEED
from pocket_diffusion.drawing.resolve import Drawing, resolve_all
from pocket_diffusion.drawing.resolve import resolve as resolve_order
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from siblings import INSTRUCTED, REPAINTING, SELF_GUIDED, with_inputs

MANIFEST = read_manifest(DEFAULT_BUNDLE)
PICTURE = Image.new("RGB", (64, 64))
OPTIONS = tuple(name for name in Order.__struct_fields__ if name not in ("prompt", "image", "mask"))


def resolve(prompt: object = "a lake", manifest: Manifest = MANIFEST, **options: object) -> Drawing:
    return resolve_order(Order(prompt=prompt, **options), manifest)


def test_what_is_not_asked_for_is_the_bundles_default(manifest: Manifest) -> None:
    drawing = resolve()
    defaults = manifest.defaults
    assert (drawing.width, drawing.height, drawing.steps) == (defaults.width, defaults.height, defaults.steps)
    assert (drawing.guidance_scale, drawing.sampler) == (defaults.guidance_scale, defaults.sampler)
    assert (drawing.guidance_rescale, drawing.guidance_interval, drawing.clip_skip) == (0, None, 1)
    assert drawing.task == "text-to-image"
    assert drawing.first_step == 0


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
        ({"sampler": "euler9"}, "sampler 'euler9' is not known; did you mean euler"),
        ({"sampler": []}, "sampler .* is not known"),
        ({"scheduler": "karas"}, "scheduler 'karas' is not known; did you mean karras"),
        ({"scheduler": 3}, "scheduler 3 is not known"),
        ({"sampler": "lcm", "scheduler": "karras"}, "LCM .* does not take the scheduler karras; leave the sched"),
        ({"sampler": "LCM Karras"}, "LCM draws at the timesteps of its distillation"),
        ({"sampler": "DPM++ 2M Karras", "scheduler": "beta"}, "'DPM.. 2M Karras' and .*'beta' contradict each other"),
        ({"sampler": "lcm", "steps": 51}, "steps must be from 1 to 50, not 51: the model was distilled for no more"),
        ({"sampler": "dpmpp_2m", "scheduler": "leading", "steps": 1000}, "steps must be from 1 to 999, not 1000"),
        ({"sampler": "dpmpp_2m", "eta": 0.5}, r"DPM\+\+ 2M adds no noise and has no eta; leave eta out"),
        ({"sampler": "heun", "s_noise": 0.5}, "Heun adds no noise and has no s_noise"),
        ({"sampler": "euler_a", "eta": 2}, "eta must be a number from 0 to 1, not 2"),
        ({"sampler": "euler_a", "s_noise": math.nan}, "s_noise must be a number from 0 to 10, not nan"),
        ({"guidance_rescale": 1.5}, r"guidance_rescale must be a number from 0 to 1, not 1\.5"),
        ({"guidance_interval": (0.5, 0.5)}, r"guidance_interval 0\.5:0\.5 is empty; it begins before it ends"),
        ({"guidance_interval": (0.8, 0.2)}, r"guidance_interval 0\.8:0\.2 is reversed"),
        ({"guidance_interval": (0, 2)}, "guidance_interval's ends must be a number from 0 to 1, not 2"),
        ({"guidance_interval": (0, 1, 2)}, r"guidance_interval must be two numbers such as \(0\.2, 0\.8\)"),
        ({"guidance_interval": "0:1"}, "guidance_interval must be two numbers"),
        ({"steps": 10, "guidance_interval": (0.31, 0.39)}, r"0\.31:0\.39 guides none of the 10 steps"),
        ({"steps": 10**5000}, "steps must be .* not a number of thousands of digits"),
        ({"sampler": "ddim_uniform"}, "sampler 'ddim_uniform' is not known"),
        ({"sampler": "euler karras" + " " * 80 + "x"}, "is not known"),
        ({"clip_skip": 0}, "clip_skip must be a whole number from 1 to 100, not 0"),
        ({"clip_skip": 99}, r"clip_skip must be at most \d, the text encoder's layers, not 99"),
        ({"prompt": "(a:1e9)"}, "weight"),
        ({"strength": 2}, "strength must be a number from 0 to 1, not 2"),
        ({"strength": math.nan}, "strength must be .* not nan"),
        ({"strength": 0, "image": PICTURE}, "strength 0 of .* leaves nothing to draw; at least .* is needed"),
        ({"steps": 3, "strength": 0.3, "image": PICTURE}, r"strength 0\.3 of 3 steps .* at least 0\.334 is needed"),
        ({"mask": PICTURE}, "a mask needs the image that it belongs to; give one, or leave the mask out"),
        ({"image": 7}, "image must be a path, a file's bytes or a Pillow image"),
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


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("prompt", "mask", *OPTIONS), anything)),
    st.sampled_from([(), SELF_GUIDED, REPAINTING, INSTRUCTED]),
)
def test_nothing_but_an_invalid_request_comes_of_arbitrary_values(
    options: dict[str, Any], names: tuple[str, ...]
) -> None:
    image = {"image": PICTURE} if names == INSTRUCTED else {}  # without which nothing else is looked at
    try:
        drawing = resolve(manifest=with_inputs(MANIFEST, names), **options, **image)
    except InvalidRequestError:
        return
    assert type(drawing.width) is type(drawing.steps) is type(drawing.seeds[0]) is int
    assert type(drawing.guidance_scale) is type(drawing.strength) is float
    assert json.dumps(settings(drawing, 0, "model"))
    assert parameters_text(drawing, 0, "model")


@given(st.integers(1, 1000))
def test_the_strength_that_is_recommended_is_enough(steps: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(sampler="ddpm", steps=steps, strength=0, image=PICTURE)
    recommended = float(str(caught.value).split("at least ")[1].split()[0])
    assert resolve(sampler="ddpm", steps=steps, strength=recommended, image=PICTURE).first_step < steps


def test_numbers_of_numpy_are_numbers() -> None:
    drawing = resolve(width=np.int64(64), seed=np.uint32(7), guidance_scale=np.float32(2.5))
    assert (drawing.width, drawing.seeds, drawing.guidance_scale) == (64, (7,), 2.5)


def test_picture_i_uses_seed_plus_i_to_the_last() -> None:
    assert resolve(seed=MAX_SEED - 1, count=2).seeds == (MAX_SEED - 1, MAX_SEED)


def test_a_seed_that_is_not_given_is_drawn() -> None:
    assert len({resolve().seeds for _ in range(5)}) > 1


@pytest.mark.parametrize(
    ("usual", "options", "steps"),
    [(1, {}, 2), (1, {"strength": 0.3}, 4), (1, {"strength": 1.0}, 1), (4, {}, 4), (4, {"strength": 0.2}, 5)],
)
def test_a_model_of_few_steps_draws_enough_of_them_from_a_picture(
    usual: int, options: dict[str, float], steps: int
) -> None:
    manifest = msgspec.structs.replace(MANIFEST, defaults=msgspec.structs.replace(MANIFEST.defaults, steps=usual))
    drawing = resolve(manifest=manifest, image=PICTURE, **options)
    assert drawing.steps == steps
    assert drawing.steps_to_take >= 1
    assert resolve(manifest=manifest).steps == usual
    with pytest.raises(InvalidRequestError, match=r"strength 0\.01 of .* leaves nothing to draw"):
        resolve(manifest=manifest, image=PICTURE, strength=0.01)


def test_steps_that_were_asked_for_are_not_made_more() -> None:
    with pytest.raises(InvalidRequestError, match=r"strength 0\.8 of 1 steps leaves nothing to draw"):
        resolve(image=PICTURE, steps=1)


def test_strength_says_how_many_steps_are_skipped() -> None:
    assert [resolve(image=PICTURE, steps=10, strength=s).first_step for s in (0.1, 0.59, 1)] == [9, 5, 0]


@pytest.mark.parametrize(
    ("options", "sampler", "scheduler"),
    [
        ({"sampler": "dpmpp_2m"}, "dpmpp_2m", "karras"),
        ({"sampler": "DPM++ 2M Exponential"}, "dpmpp_2m", "exponential"),
        ({"sampler": "DPM++ 2M Karras", "scheduler": "Karras"}, "dpmpp_2m", "karras"),
        ({"sampler": "DPMSolverMultistepScheduler"}, "dpmpp_2m", "leading"),
        ({"sampler": "DPMSolverMultistepScheduler", "scheduler": "karras"}, "dpmpp_2m", "karras"),
        ({"sampler": "Euler a", "scheduler": "SGM Uniform"}, "euler_a", "sgm_uniform"),
        ({"sampler": "ddim"}, "ddim", "leading"),
        ({"scheduler": "beta"}, MANIFEST.defaults.sampler, "beta"),
    ],
)
def test_samplers_and_schedulers_have_many_names(options: dict[str, Any], sampler: str, scheduler: str) -> None:
    drawing = resolve(**options)
    assert (drawing.sampler, drawing.scheduler) == (sampler, scheduler)


def test_the_checkpoints_own_spacing_is_what_its_config_says() -> None:
    trailing = msgspec.structs.replace(MANIFEST, schedule=NoiseSchedule(timestep_spacing="trailing"))
    assert resolve(sampler="ddim", manifest=trailing).scheduler == "trailing"
    assert resolve(sampler="EulerDiscreteScheduler", manifest=trailing).scheduler == "trailing"


def test_a_bundle_names_its_usual_sampler_and_scheduler() -> None:
    usual = msgspec.structs.replace(MANIFEST.defaults, sampler="UniPC", scheduler="Beta")
    manifest = msgspec.structs.replace(MANIFEST, defaults=usual)
    drawing = resolve(manifest=manifest)
    assert (drawing.sampler, drawing.scheduler) == ("unipc", "beta")
    assert resolve(manifest=manifest, sampler="euler").scheduler == "normal"  # that scheduler goes with the usual one


@pytest.mark.parametrize("usual", ["DPM++ 2M Karras", "DPMSolverMultistepScheduler"])
def test_another_scheduler_may_be_asked_for_than_the_one_in_the_usual_name(usual: str) -> None:
    manifest = msgspec.structs.replace(MANIFEST, defaults=msgspec.structs.replace(MANIFEST.defaults, sampler=usual))
    assert resolve(manifest=manifest, scheduler="beta").scheduler == "beta"


def test_automatic_is_the_samplers_own_scheduler() -> None:
    assert resolve(sampler="dpmpp_2m", scheduler="Automatic").scheduler == "karras"


@pytest.mark.parametrize(
    ("sampler", "scheduler"), [("EulerDiscreteScheduler", "linspace"), ("DDIMScheduler", "leading")]
)
def test_where_a_checkpoint_names_no_spacing_each_scheduler_has_its_own(sampler: str, scheduler: str) -> None:
    manifest = msgspec.structs.replace(MANIFEST, schedule=NoiseSchedule())
    assert resolve(sampler=sampler, manifest=manifest).scheduler == scheduler


def test_evaluations_are_counted_by_step_guidance_and_sampler() -> None:
    assert resolve(steps=10, sampler="euler").evaluations == 20
    assert resolve(steps=10, sampler="heun").evaluations == 40
    assert resolve(steps=10, sampler="euler", guidance_interval=(0, 0.5)).evaluations == 15
    assert resolve(steps=10, sampler="euler", guidance_scale=1).evaluations == 10
    assert resolve(steps=10, sampler="euler", image=PICTURE, strength=0.5).evaluations == 10


def test_a_bundle_without_hidden_layers_says_what_to_do_about_clip_skip() -> None:
    text_encoder = msgspec.structs.replace(MANIFEST.text_encoder, outputs=MANIFEST.text_encoder.outputs[:1])
    manifest = msgspec.structs.replace(MANIFEST, text_encoder=text_encoder)
    with pytest.raises(InvalidRequestError, match=r"clip_skip 2 is not possible: .* export it again"):
        resolve(manifest=manifest, clip_skip=2)


def test_fewer_tokens_want_a_u_net_with_that_option() -> None:
    with pytest.raises(InvalidRequestError, match=r"token_downsampling 2 is not possible: .* leave it out"):
        resolve(token_downsampling=2)
    option = TensorSpec(name=TOKEN_DOWNSAMPLING, dtype="int64", shape=(1,))
    manifest = msgspec.structs.replace(MANIFEST, unet=msgspec.structs.replace(MANIFEST.unet, options=(option,)))
    drawing = resolve(manifest=manifest, token_downsampling=2)
    assert drawing.order(0).token_downsampling == 2
    assert "Token downsampling: 2" in parameters_text(drawing, 0, "small")
    with pytest.raises(InvalidRequestError, match="token_downsampling must be a whole number from 1 to 4, not 5"):
        resolve(manifest=manifest, token_downsampling=5)


def test_prompts_of_a_list_have_successive_seeds() -> None:
    drawings = resolve_all(Order(prompt="", seed=5, count=2), ["a", "b"], MANIFEST)
    assert [(drawing.prompt, drawing.seeds) for drawing in drawings] == [("a", (5, 6)), ("b", (7, 8))]
    with pytest.raises(InvalidRequestError, match="the list of prompts is empty"):
        resolve_all(Order(prompt=""), [], MANIFEST)


def test_the_text_form_is_that_of_automatic1111() -> None:
    asked = {"negative_prompt": "people", "width": 64, "height": 72, "steps": 9, "guidance_scale": 7.5, "seed": 5}
    text = parameters_text(resolve("a lake", **asked, sampler="dpmpp_2m"), 0, "small")
    assert text.splitlines()[:2] == ["a lake", "Negative prompt: people"]
    assert text.splitlines()[2].startswith(
        "Steps: 9, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 5, Size: 64x72, Model: small, "
        "Version: pocket-diffusion "
    )
    assert "Denoising strength: 0.5" in parameters_text(resolve(image=PICTURE, strength=0.5), 0, "small")
    assert "Negative" not in parameters_text(resolve(), 0, "small")


def test_the_text_form_names_each_option_that_is_not_usual() -> None:
    drawing = resolve(
        sampler="euler_a", eta=0.5, s_noise=1.01, guidance_rescale=0.7, guidance_interval=(0.2, 0.8), clip_skip=2
    )
    text = parameters_text(drawing, 0, "small")
    for fact in ("Eta: 0.5", "Sigma noise: 1.01", "CFG Rescale phi: 0.7", "Guidance interval: 0.2-0.8", "Clip skip: 2"):
        assert fact in text
        assert fact.split(":")[0] not in parameters_text(resolve(), 0, "small")


def test_arithmetic_is_told_where_it_is_not_exact() -> None:
    assert settings(resolve(), 0, "small", "int8")["arithmetic"] == "int8"
    assert ", Arithmetic: int8, " in parameters_text(resolve(), 0, "small", "int8")
    assert "arithmetic" not in settings(resolve(), 0, "small", "exact")
    assert "Arithmetic" not in parameters_text(resolve(), 0, "small", "exact")


def test_a_picture_is_drawn_again_from_its_settings() -> None:
    drawing = resolve(sampler="DPM++ SDE", eta=0.5, guidance_interval=(0.2, 0.8), seed=3, count=2)
    told = json.loads(json.dumps(settings(drawing, 1, "model")))
    for name in ("version", "model", "task"):
        del told[name]
    again = resolve(told.pop("prompt"), **told)
    assert again == msgspec.structs.replace(drawing, seed=4, count=1)
