"""Drawing with the embedded bundle, at its smallest and in few steps."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from pocket_diffusion import Cancelled, Pipeline, PocketDiffusionError, Result
from pocket_diffusion.bundle import Manifest
from pocket_diffusion.drawing.prompt import PromptTruncatedWarning
from pocket_diffusion.errors import InferenceError, InvalidRequestError
from pocket_diffusion.pipeline import DEFAULT_BUNDLE, OtherTargetWarning

SMALL = {"width": 64, "height": 64, "steps": 2, "guidance_scale": 4.0, "seed": 7, "sampler": "ddpm"}


def gradient() -> Image.Image:
    return Image.fromarray(np.arange(64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8))


def left_half() -> Image.Image:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    return mask


@pytest.fixture(scope="module")
def drawn(pipeline: Pipeline) -> Result:
    return pipeline.generate("a lake", **SMALL)


def pixels(result: Result) -> list[bytes]:
    return [image.tobytes() for image in result.images]


def test_the_result_says_what_was_drawn_and_how(pipeline: Pipeline, drawn: Result, manifest: Manifest) -> None:
    (image,) = drawn.images
    assert (image.size, image.mode) == ((64, 64), "RGB")
    assert drawn.seeds == [7]
    side = 64 // manifest.latents.downscale
    assert drawn.latents.shape == (1, manifest.latents.channels, side, side)
    assert drawn.latents.dtype == np.float32
    assert set(drawn.timings) == {"load", "encode", "denoise", "decode", "total"}
    assert drawn.timings["total"] >= drawn.timings["denoise"] > 0
    assert drawn.order().steps == 2
    assert drawn.model == pipeline.name


def test_one_seed_one_picture(pipeline: Pipeline, drawn: Result) -> None:
    assert pixels(pipeline.generate("a lake", **SMALL)) == pixels(drawn)
    assert pixels(pipeline.generate("a lake", **{**SMALL, "seed": 8})) != pixels(drawn)


@pytest.mark.parametrize("change", [{"prompt": "a desert"}, {"negative_prompt": "people"}, {"guidance_scale": 9}])
def test_what_is_asked_for_changes_the_latents(pipeline: Pipeline, drawn: Result, change: dict[str, object]) -> None:
    changed = pipeline.generate(**{"prompt": "a lake", **SMALL, **change})
    assert np.abs(changed.latents - drawn.latents).max() > 1e-4


@pytest.mark.parametrize("prompt", ["🏔️🌅 👩‍👩‍👧‍👦", "山水画", "a\nlake"])
def test_prompts_in_any_script_are_drawn(pipeline: Pipeline, prompt: str) -> None:
    assert len(pipeline.generate(prompt, **{**SMALL, "steps": 1}).images) == 1


def test_a_prompt_beyond_the_limit_is_drawn_with_a_warning(pipeline: Pipeline) -> None:
    with pytest.warns(PromptTruncatedWarning, match="dropped"):
        pipeline.generate(", " * 33 * pipeline.tokenizer.spec.max_tokens, **{**SMALL, "steps": 1})


def test_several_pictures_are_those_of_successive_seeds(pipeline: Pipeline, drawn: Result) -> None:
    several = pipeline.generate("a lake", **{**SMALL, "seed": 6}, count=2)
    assert several.seeds == [6, 7]
    assert several.images[1].tobytes() == drawn.images[0].tobytes()
    assert several.images[0].tobytes() != drawn.images[0].tobytes()


@pytest.mark.parametrize("sampler", ["pndm", "lms", "dpm2_a", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "deis", "unipc"])
def test_samplers_that_remember_keep_the_pictures_of_an_order_apart(pipeline: Pipeline, sampler: str) -> None:
    options = {**SMALL, "sampler": sampler, "steps": 4}
    several = pipeline.generate("a lake", **options, count=3)
    single = [pipeline.generate("a lake", **{**options, "seed": seed}) for seed in several.seeds]
    assert pixels(several) == [image for one in single for image in pixels(one)]


def test_variations_have_a_seed_in_common_and_are_alike(pipeline: Pipeline, drawn: Result, tmp_path: Path) -> None:
    varied = pipeline.generate("a lake", **SMALL, count=2, variation_seed=100, variation_strength=0.1)
    assert varied.seeds == [drawn.seeds[0]] * 2
    assert [varied.order(i).variation_seed for i in range(2)] == [100, 101]
    assert [path.name for path in varied.save(tmp_path)] == [f"{drawn.seeds[0]}-{other}.png" for other in (100, 101)]
    other = pipeline.generate("a lake", **{**SMALL, "seed": 100})
    near, far = (np.linalg.norm(each - drawn.latents) for each in (varied.latents[:1], other.latents))
    assert 0 < near < 0.5 * far
    again = pipeline.generate("a lake", **{**SMALL, **{"variation_seed": 101, "variation_strength": 0.1}})
    assert pixels(again) == pixels(varied)[1:]
    assert pixels(pipeline.generate("a lake", **SMALL, variation_strength=0)) == pixels(drawn)


def test_prompts_of_variations_have_successive_ones(pipeline: Pipeline) -> None:
    varied = pipeline.generate(["a lake", "a boat"], **SMALL, variation_strength=0.1)
    first, second = (varied.order(i) for i in range(2))
    assert (second.seed, second.variation_seed) == (first.seed, first.variation_seed + 1)


def test_a_variation_needs_its_strength(pipeline: Pipeline) -> None:
    with pytest.raises(InvalidRequestError, match="variation_seed needs a variation_strength"):
        pipeline.generate("a lake", **SMALL, variation_seed=1)
    with pytest.raises(InvalidRequestError, match="variation_strength must be a number from 0 to 1, not 2"):
        pipeline.generate("a lake", **SMALL, variation_strength=2)


def test_a_negative_prompt_is_encoded_once_for_many_pictures() -> None:
    pipeline = Pipeline.load(provider="cpu")
    encoded = []
    run = pipeline.components.run

    def watched(role: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        if role == "text_encoder":
            encoded.append(len(inputs["ids"]))
        return run(role, **inputs)

    pipeline.components.run = watched
    for prompt in ("a lake", "a desert", "a lake"):
        pipeline.generate(prompt, **SMALL, negative_prompt="people")
    assert encoded == [1, 1, 1]  # each of the three texts once


def test_weights_schedules_and_long_prompts_change_the_picture(pipeline: Pipeline) -> None:
    drawn = [
        pipeline.generate(prompt, **SMALL).latents
        for prompt in (
            "a lake at night",
            "a (lake:1.4) at night",
            "a [lake:desert:1] at night",
            "a lake BREAK at night",
        )
    ]
    for i, one in enumerate(drawn):
        assert all(np.abs(one - other).max() > 1e-4 for other in drawn[:i])


def test_a_seed_that_was_drawn_draws_the_picture_again(pipeline: Pipeline) -> None:
    first = pipeline.generate("a lake", **{**SMALL, "seed": None})
    assert pixels(pipeline.generate("a lake", **{**SMALL, "seed": first.seeds[0]})) == pixels(first)


@pytest.mark.parametrize(("scale", "contexts"), [(1.0, 1), (1.5, 2)])
def test_guidance_of_one_skips_the_unconditional_prediction(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, scale: float, contexts: int
) -> None:
    seen = []
    predict = pipeline._predict
    monkeypatch.setattr(pipeline, "_predict", lambda *inputs: seen.append(len(inputs[2])) or predict(*inputs))
    pipeline.generate("a lake", **{**SMALL, "guidance_scale": scale})
    assert seen == [contexts, contexts]


def test_on_step_is_called_after_each_step(pipeline: Pipeline, drawn: Result) -> None:
    calls = []
    pipeline.generate("a lake", **SMALL, on_step=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(1, 2), (2, 2)]
    np.testing.assert_array_equal(calls[-1][2], drawn.latents)


def test_on_step_counts_the_steps_that_strength_leaves(pipeline: Pipeline) -> None:
    calls = []
    options = {**SMALL, "steps": 4, "image": gradient(), "strength": 0.5}
    pipeline.generate("a lake", **options, on_step=lambda done, total, _: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_cancelled_passes_through_and_the_pipeline_goes_on(pipeline: Pipeline, drawn: Result) -> None:
    calls = []

    def stop(*call: object) -> None:
        calls.append(call)
        raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough") as caught:
        pipeline.generate("a lake", **SMALL, on_step=stop)
    assert isinstance(caught.value, PocketDiffusionError)
    assert len(calls) == 1
    assert pixels(pipeline.generate("a lake", **SMALL)) == pixels(drawn)


def test_a_little_strength_stays_nearer_to_the_picture_than_a_lot(pipeline: Pipeline) -> None:
    original = pipeline.encode_image(np.asarray(gradient(), "f4").transpose(2, 0, 1)[None] / 127.5 - 1)
    distances = [
        np.linalg.norm(
            pipeline.generate("x", **{**SMALL, "steps": 10}, image=gradient(), strength=s).latents - original
        )
        for s in (0.1, 1.0)
    ]
    assert distances[0] < distances[1]


def test_inpainting_keeps_what_the_mask_leaves_black(pipeline: Pipeline) -> None:
    black = Image.new("L", (64, 64))
    kept = pipeline.generate("a lake", **SMALL, image=gradient(), mask=black, strength=1.0).latents
    half = pipeline.generate("a lake", **SMALL, image=gradient(), mask=left_half(), strength=1.0).latents
    middle = half.shape[-1] // 2
    np.testing.assert_allclose(half[..., middle:], kept[..., middle:], atol=1e-5)
    assert np.abs(half[..., :middle] - kept[..., :middle]).max() > 1e-3


def test_a_feathered_mask_keeps_the_picture_but_for_its_edge(pipeline: Pipeline) -> None:
    stripe = Image.new("L", (64, 64))
    stripe.paste(255, (24, 0, 28, 64))
    asked = {**SMALL, "image": gradient(), "mask": stripe, "strength": 1.0}
    hard, soft = (
        np.asarray(pipeline.generate("a lake", **asked, **extra).images[0], np.float32)
        for extra in ({}, {"mask_feather": 2})
    )
    given = np.asarray(gradient().resize((64, 64), Image.Resampling.LANCZOS), np.float32)
    np.testing.assert_array_equal(soft[:, 24:28], hard[:, 24:28])
    np.testing.assert_array_equal(soft[:, 40:], given[:, 40:])
    ways = [np.abs(soft[:, x] - given[:, x]).sum() / np.abs(hard[:, x] - given[:, x]).sum() for x in range(27, 36)]
    assert ways[0] == 1 > ways[2] > ways[4] > ways[8] == 0
    with pytest.raises(InvalidRequestError, match="mask_feather needs the mask"):
        pipeline.generate("a lake", **SMALL, mask_feather=2)


def test_a_picture_of_one_pixel_is_drawn_from(pipeline: Pipeline) -> None:
    result = pipeline.generate("a lake", **{**SMALL, "steps": 1}, image=Image.new("RGB", (1, 1)), strength=1)
    assert result.images[0].size == (64, 64)


@pytest.mark.parametrize("extra", [{}, {"image": True, "strength": 0.6}], ids=["text", "image"])
def test_the_png_says_how_to_draw_it_again(pipeline: Pipeline, tmp_path: Path, extra: dict[str, object]) -> None:
    if "image" in extra:
        extra = {**extra, "image": gradient()}
    result = pipeline.generate("a lake, 山", negative_prompt="people", **SMALL, **extra)
    result.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        data, text = json.loads(image.text["pocket-diffusion"]), image.text["parameters"]
    assert text.startswith(
        "a lake, 山\nNegative prompt: people\nSteps: 2, Sampler: DDPM, Schedule type: Leading, CFG scale: 4, "
    )
    assert data.pop("task") == ("image-to-image" if extra else "text-to-image")
    assert data.pop("model") == pipeline.name
    data.pop("version")
    again = pipeline.generate(**data, image=extra.get("image"))
    assert again.images[0].tobytes() == image.tobytes()


def test_encode_prompt_gives_the_context(pipeline: Pipeline, manifest: Manifest) -> None:
    context = pipeline.encode_prompt("a lake")
    width = manifest.text_encoder.outputs[0].shape[-1]
    assert (context.shape, context.dtype) == ((1, manifest.tokenizer.max_tokens, width), np.float32)


def test_predict_noise_gives_what_looks_like_latents(pipeline: Pipeline, drawn: Result) -> None:
    context = pipeline.encode_prompt("a lake")
    noise = pipeline.predict_noise(drawn.latents, 500, context)
    assert (noise.shape, noise.dtype) == (drawn.latents.shape, np.float32)
    assert np.abs(noise - pipeline.predict_noise(drawn.latents, 1, context)).max() > 0


def test_latents_of_one_picture_may_have_several_contexts(pipeline: Pipeline, drawn: Result) -> None:
    contexts = np.concatenate([pipeline.encode_prompt(text) for text in ("a lake", "a desert")])
    shared = pipeline.predict_noise(drawn.latents, 500, contexts)
    assert shared.shape == (2, *drawn.latents.shape[1:])
    np.testing.assert_allclose(shared, pipeline.predict_noise(drawn.latents.repeat(2, 0), 500, contexts), atol=1e-4)


@pytest.mark.parametrize(("latents", "contexts"), [(2, 1), (2, 3), (3, 2), (0, 1)])
def test_as_many_latents_as_contexts_or_one(pipeline: Pipeline, latents: int, contexts: int) -> None:
    context = pipeline.encode_prompt("a lake").repeat(contexts, 0)
    with pytest.raises(InvalidRequestError, match=r"latents must be \[1, 4, h, w\], or as many as there are contexts"):
        pipeline.predict_noise(np.zeros((latents, 4, 8, 8), np.float32), 500, context)


@pytest.mark.parametrize("mode", ["balanced", "low"])
def test_a_picture_is_not_cut_off(mode: str) -> None:
    pipeline = Pipeline.load(provider="cpu", memory=mode)
    with pytest.raises(InvalidRequestError, match=r"must be multiples of 8, not \[1, 3, 64, 323\]; resize it"):
        pipeline.encode_image(np.zeros((1, 3, 64, 323), np.float32))


def test_encode_image_scales_the_mean_and_adds_noise_by_the_deviation(
    pipeline: Pipeline, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = np.concatenate([np.full((1, 4, 8, 8), 3), np.full((1, 4, 8, 8), 2 * np.log(5))], 1).astype(np.float32)
    encoder = SimpleNamespace(run=lambda **_: {"moments": moments})
    monkeypatch.setitem(pipeline.components._loaded, "vae_encoder", encoder)
    scale = manifest.latents.scaling_factor
    picture = np.zeros((1, 3, 64, 64), np.float32)
    noise = np.full((1, 4, 8, 8), 2.0)
    np.testing.assert_allclose(pipeline.encode_image(picture), 3 * scale, rtol=1e-6)
    sampled = pipeline.encode_image(picture, noise=noise)
    assert sampled.dtype == np.float32
    np.testing.assert_allclose(sampled, 13 * scale, rtol=1e-6)
    with pytest.raises(InvalidRequestError, match=r"noise must be \[1, 4, 8, 8\], not \[1, 4, 8, 1\]"):
        pipeline.encode_image(picture, noise=noise[..., :1])


def test_encode_image_and_decode_latents_fit_each_other(pipeline: Pipeline, manifest: Manifest) -> None:
    latents = pipeline.encode_image(np.zeros((2, 3, 64, 72), np.float32))
    assert latents.shape == (2, manifest.latents.channels, 8, 9)
    pictures = pipeline.decode_latents(latents)
    assert (pictures.shape, pictures.dtype) == ((2, 3, 64, 72), np.float32)


def test_decode_latents_undoes_the_scaling(
    pipeline: Pipeline, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = SimpleNamespace(run=lambda latents: {"picture": latents})
    monkeypatch.setitem(pipeline.components._loaded, "vae_decoder", decoder)
    scaled = np.full((2, 4, 8, 8), manifest.latents.scaling_factor, np.float32)
    np.testing.assert_allclose(pipeline.decode_latents(scaled), 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (8, 8), (4, 8, 8), (0, 4, 8, 8), (1, 4, 0, 8), (1, 9, 8, 8)])
def test_arrays_that_are_no_latents_are_refused(pipeline: Pipeline, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="latents must be"):
        pipeline.decode_latents(np.zeros(shape, np.float32))
    with pytest.raises(InvalidRequestError, match="picture must be"):
        pipeline.encode_image(np.zeros(shape, np.float32))


def test_a_bundle_for_another_target_is_warned_about(bundle: Path, edit_manifest: Callable[..., None]) -> None:
    edit_manifest(lambda data: data.update(target="cuda"))
    with pytest.warns(OtherTargetWarning, match="for cuda and runs slower on cpu; export it with --target cpu"):
        Pipeline.load(bundle, provider="cpu")


def test_graphs_are_loaded_when_they_are_needed() -> None:
    fresh = Pipeline.load(DEFAULT_BUNDLE, provider="cpu")
    assert fresh.components._loaded == {}
    fresh.encode_prompt("a lake")
    assert list(fresh.components._loaded) == ["text_encoder"]


def test_a_machine_is_tried_out_by_what_it_computes_and_nothing_stays_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Pipeline.load(DEFAULT_BUNDLE, provider="cpu", memory="fast")
    opened, open_network = [], fresh.components._open
    monkeypatch.setattr(fresh.components, "_open", lambda role: opened.append(role) or open_network(role))
    fresh.try_out()
    assert opened == ["vae_decoder"]
    assert not fresh.is_loaded
    failing = SimpleNamespace(run=Mock(side_effect=InferenceError("no kernel image")), close=Mock())
    monkeypatch.setattr(fresh.components, "_open", lambda _: failing)
    with pytest.raises(InferenceError, match="no kernel image"):
        fresh.try_out()
    failing.close.assert_called_once_with()
