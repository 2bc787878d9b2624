"""Models that are told the guidance scale, that repaint, and that change a picture: what they take and what is refused.

How they draw is compared with diffusers in tests/export.
"""

import base64
import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pocket_diffusion import Order, Pipeline
from pocket_diffusion.bundle import GUIDANCE, IMAGE_LATENTS, MASK, MASKED_LATENTS, read_manifest
from pocket_diffusion.calibration import calibrate
from pocket_diffusion.drawing.metadata import parameters_text, settings
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.drawing.resolve import resolve as resolve_order
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.importing.checking import check_evaluations
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.components import Components
from pocket_diffusion.model.memory import Demand
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_diffusion.server import create_app
from siblings import INSTRUCTED, REPAINTING, SELF_GUIDED, Sibling, make_sibling, with_inputs

MANIFEST = read_manifest(DEFAULT_BUNDLE)
PICTURE = Image.new("RGB", (64, 64), "red")
SIBLINGS = (SELF_GUIDED, REPAINTING, INSTRUCTED)
SMALL = {"width": 64, "height": 64, "steps": 1, "seed": 7, "sampler": "ddpm"}


def resolve(names: tuple[str, ...], **options: Any) -> Drawing:  # noqa: ANN401 - an order's fields
    return resolve_order(Order(prompt="a lake", **options), with_inputs(MANIFEST, names))


def load(sibling: Sibling) -> Pipeline:
    return Pipeline(Components(sibling.bundle, provider="cpu", threads=None, budget=MemoryBudget.parse("fast")))


@pytest.mark.parametrize(
    ("names", "options", "why"),
    [
        (SELF_GUIDED, {"negative_prompt": "sea"}, "a negative prompt cannot be had: this model has learnt guidance"),
        (SELF_GUIDED, {"guidance_rescale": 0.5}, "guidance_rescale cannot be had: .*; leave it out"),
        (SELF_GUIDED, {"guidance_interval": (0, 0.5)}, "guidance_interval cannot be had"),
        (SELF_GUIDED, {"image_guidance_scale": 2}, "image_guidance_scale is for models that change a picture"),
        (REPAINTING, {"mask": PICTURE}, "a mask needs the image that it belongs to"),
        (INSTRUCTED, {}, "this model changes a picture as the prompt says, and needs one; give an image"),
        (INSTRUCTED, {"image": PICTURE, "mask": PICTURE}, "this model changes the whole picture and takes no mask"),
        (INSTRUCTED, {"image": PICTURE, "strength": 0.8}, r"strength 0\.8 cannot be had: .* by image_guidance_scale"),
        (INSTRUCTED, {"image": PICTURE, "image_guidance_scale": 0.9}, "image_guidance_scale must be a number from 1"),
        (INSTRUCTED, {"image": PICTURE, "image_guidance_scale": "2"}, "image_guidance_scale must be a number"),
        ((), {"image": PICTURE, "image_guidance_scale": 2}, "which this is not; leave it out, and say by strength"),
    ],
)
def test_what_a_model_does_not_take_is_refused_with_what_to_do(
    names: tuple[str, ...], options: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidRequestError, match=why) as caught:
        resolve(names, **options)
    assert "\n" not in str(caught.value)


def test_evaluations_are_those_that_guidance_takes() -> None:
    guided = {"steps": 10, "sampler": "euler", "guidance_scale": 4.0, "image": PICTURE, "strength": 1.0}
    assert resolve(REPAINTING, **guided).evaluations == 20
    assert resolve(SELF_GUIDED, **guided).evaluations == 10
    assert resolve(INSTRUCTED, **guided).evaluations == 30
    assert resolve(INSTRUCTED, **guided, image_guidance_scale=1).evaluations == 20
    assert resolve(INSTRUCTED, **{**guided, "guidance_scale": 1.0}).evaluations == 10


def test_memory_is_wanted_for_what_runs() -> None:
    usual = {names: Demand.usual(with_inputs(MANIFEST, names)) for names in ((), *SIBLINGS)}
    assert [usual[names].guided for names in ((), *SIBLINGS)] == [True, False, True, True]
    assert [usual[names].from_picture for names in ((), *SIBLINGS)] == [False, False, True, True]
    assert not resolve(SELF_GUIDED, guidance_scale=8).demand.guided
    assert resolve(REPAINTING).demand.from_picture  # a grey one is encoded


def test_how_much_is_changed_by_itself_goes_by_the_model_and_the_mask() -> None:
    assert resolve((), image=PICTURE, mask=PICTURE).strength == 0.8
    assert resolve(REPAINTING, image=PICTURE).strength == 0.8
    assert resolve(REPAINTING, image=PICTURE, mask=PICTURE).strength == 1
    assert resolve(INSTRUCTED, image=PICTURE).first_step == 0


def test_a_picture_tells_how_an_instruction_was_followed() -> None:
    drawing = resolve(INSTRUCTED, image=PICTURE)
    text = parameters_text(drawing, 0, "model")
    assert "Image CFG scale: 1.5," in text
    assert "Denoising strength" not in text
    told = settings(drawing, 0, "model")
    assert told["image_guidance_scale"] == 1.5
    assert "strength" not in told
    assert "image_guidance_scale" not in settings(resolve(()), 0, "model")


@pytest.mark.parametrize("names", [(), SELF_GUIDED], ids=["plain", "self-guided"])
def test_a_negative_prompt_without_guidance_is_warned_of(names: tuple[str, ...]) -> None:
    told = [str(one) for one in resolve((), guidance_scale=1, negative_prompt="sea").warnings]
    assert told == [
        "the negative prompt changes nothing at a guidance scale of 1; raise it above 1, where the model allows that"
    ]
    assert resolve(names, guidance_scale=1).warnings == ()


def test_a_repainting_model_without_a_mask_says_what_becomes_of_the_image() -> None:
    (nothing,), (image,) = resolve(REPAINTING).warnings, resolve(REPAINTING, image=PICTURE).warnings
    assert str(nothing).endswith("and there is none: all is repainted; give an image and a mask")
    assert str(image).endswith("and there is none: all of the image is changed, by a strength of 0.8; give a mask")
    assert resolve(REPAINTING, image=PICTURE, mask=PICTURE).warnings == ()


def test_guidance_by_the_picture_without_guidance_is_warned_of() -> None:
    (told,) = resolve(INSTRUCTED, image=PICTURE, image_guidance_scale=2, guidance_scale=1).warnings
    assert "image_guidance_scale 2 changes nothing at a guidance scale of 1" in str(told)
    for silent in ({}, {"image_guidance_scale": 1}):
        assert resolve(INSTRUCTED, image=PICTURE, guidance_scale=1, **silent).warnings == ()
    assert resolve(INSTRUCTED, image=PICTURE, image_guidance_scale=2, guidance_scale=2).warnings == ()


@pytest.mark.parametrize("names", SIBLINGS, ids=str)
def test_an_import_computes_once_with_each_network(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    sibling = make_sibling(monkeypatch, names)
    check_evaluations(sibling.bundle, "model.safetensors")
    (inputs,) = sibling.seen
    shapes = {GUIDANCE: (1,), MASK: (1, 1, 8, 8), MASKED_LATENTS: (1, 4, 8, 8), IMAGE_LATENTS: (1, 4, 8, 8)}
    assert {name: inputs[name].shape for name in names} == {name: shapes[name] for name in names}


@pytest.mark.parametrize("names", SIBLINGS, ids=str)
def test_calibration_shows_a_model_what_it_is_made_for(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    sibling = make_sibling(monkeypatch, names)
    drawn = calibrate(sibling.bundle, ["a lake"], 1, guidance_scale=1.0)
    assert len(drawn.pictures) == len(drawn.evaluations["unet"]) == 1
    (inputs,) = sibling.seen
    for name in names:
        assert inputs[name].dtype == np.float32
        assert len(inputs[name]) == len(inputs["latents"]) == 1
    if MASK in names:
        side = inputs[MASK].shape[3]
        assert inputs[MASK][0, 0, 0].tolist() == [1] * (side // 2) + [0] * (side // 2)


def test_the_guidance_scale_is_told_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    sibling = make_sibling(monkeypatch, SELF_GUIDED)
    load(sibling).generate("a lake", **{**SMALL, "steps": 2}, guidance_scale=8.5)
    assert [inputs[GUIDANCE].tolist() for inputs in sibling.seen] == [[8.5], [8.5]]


def test_a_prediction_by_itself_takes_what_the_model_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    sibling = make_sibling(monkeypatch, REPAINTING)
    pipeline = load(sibling)
    latents, context = np.zeros((1, 4, 8, 8), np.float32), pipeline.encode_prompt("a lake")
    pipeline.predict_noise(latents, 500, context, mask=latents[:, :1], masked_latents=latents + 1)
    assert sibling.seen[0][MASKED_LATENTS].min() == 1


def png(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a1111s_clients_are_told_what_a_model_with_guidance_of_its_own_ignores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sibling = make_sibling(monkeypatch, SELF_GUIDED)
    asked = {"prompt": "a lake", "negative_prompt": "sea", "cfg_scale": 3, "width": 64, "height": 64, "steps": 1}
    with TestClient(create_app(load(sibling))) as client:
        info = json.loads(client.post("/sdapi/v1/txt2img", json=asked).json()["info"])
    assert info["without_effect"] == ["negative_prompt"]
    assert info["negative_prompt"] == ""
    assert sibling.seen[0][GUIDANCE] == 3


def test_a1111s_clients_have_instructions_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    sibling = make_sibling(monkeypatch, INSTRUCTED)
    asked = {
        "prompt": "make it night", "init_images": [png(PICTURE)], "denoising_strength": 0.75, "image_cfg_scale": 1.2,
        "width": 64, "height": 64, "steps": 2, "cfg_scale": 3,
    }  # fmt: skip
    with TestClient(create_app(load(sibling))) as client:
        info = json.loads(client.post("/sdapi/v1/img2img", json=asked).json()["info"])
        model = client.get("/api/model").json()
        refused = client.post("/sdapi/v1/txt2img", json={"prompt": "a lake"})
    assert info["without_effect"] == ["denoising_strength"]
    assert "Image CFG scale: 1.2" in info["infotexts"][0]
    assert len(sibling.seen) == 4  # two steps, each of two runs
    assert [model[name] for name in ("follows_instructions", "repaints", "guides_itself")] == [True, False, False]
    assert model["image_guidance_scale"] == MANIFEST.defaults.image_guidance_scale
    assert refused.status_code == 422
    assert "needs one; give an image" in refused.json()["detail"]


def test_a1111s_clients_are_told_that_other_models_have_no_guidance_by_a_picture(pipeline: Pipeline) -> None:
    asked = {"prompt": "a lake", "init_images": [png(PICTURE)], "image_cfg_scale": 1.2, **SMALL, "steps": 2}
    del asked["sampler"]
    with TestClient(create_app(pipeline)) as client:
        info = json.loads(client.post("/sdapi/v1/img2img", json=asked).json()["info"])
    assert info["without_effect"] == ["image_cfg_scale"]


def test_a_repainting_model_says_that_it_repaints_all(monkeypatch: pytest.MonkeyPatch) -> None:
    sibling = make_sibling(monkeypatch, REPAINTING)
    with TestClient(create_app(load(sibling))) as client:
        answer = client.post("/sdapi/v1/txt2img", json={"prompt": "a lake", "width": 64, "height": 64, "steps": 1})
    (told,) = json.loads(answer.json()["info"])["warnings"]
    assert "this model repaints what a mask shows, and there is none: all is repainted" in told
    assert sibling.seen[0][MASK].min() == 1
