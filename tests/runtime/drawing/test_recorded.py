"""What pictures say of how they were made."""

import json
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pocket_diffusion import InvalidRequestError, LoraUse
from pocket_diffusion.drawing.recorded import Recorded, recorded_in

BY_A1111 = """a lake, (snow:1.2)
Negative prompt: people,
cars
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 7, Size: 512x768, Model hash: abc, Model: dream, \
Variation seed: 9, Variation seed strength: 0.25, Clip skip: 2, Lora hashes: "ink: 1, soft: 2", Version: v1.9.0"""


def saved(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name.replace("_", "-"), text)
    Image.new("RGB", (8, 8)).save(path / "a.png", pnginfo=info)
    return path / "a.png"


def test_a1111s_text_is_read(tmp_path: Path) -> None:
    assert recorded_in(saved(tmp_path, parameters=BY_A1111)) == Recorded(
        fields={
            "prompt": "a lake, (snow:1.2)",
            "negative_prompt": "people,\ncars",
            "steps": 20,
            "sampler": "dpmpp_2m",
            "scheduler": "karras",
            "guidance_scale": 7.5,
            "seed": 7,
            "width": 512,
            "height": 768,
            "variation_seed": 9,
            "variation_strength": 0.25,
            "clip_skip": 2,
        },
        model="dream",
    )


def test_our_own_record_is_read_before_it(tmp_path: Path) -> None:
    own = {"version": "9", "model": "m", "task": "inpainting", "prompt": "a", "seed": 3, "loras": [{"name": "ink"}]}
    own |= {"pipeline_loras": [{"name": "soft", "scale": 0.5}], "arithmetic": "int8", "vae": "tiny"}
    recorded = recorded_in(saved(tmp_path, parameters=BY_A1111, pocket_diffusion=json.dumps(own)))
    loras = (LoraUse(name="soft", scale=0.5), LoraUse(name="ink"))
    assert recorded.fields == {"prompt": "a", "seed": 3, "loras": loras}
    assert (recorded.model, recorded.arithmetic, recorded.vae) == ("m", "int8", "tiny")
    assert recorded.starts_from_picture


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "does not say how it was made"),
        ({"parameters": "a lake"}, "does not say how it was made"),
        ({"pocket_diffusion": "["}, "cannot be read"),
        ({"pocket_diffusion": '{"prompt": "a", "steps": "many"}'}, "cannot be read"),
        ({"parameters": "a\nSteps: many, Seed: 1"}, "cannot be read"),
        ({"parameters": "a\nSteps: 2, Sampler: Magic"}, "Magic"),
        ({"parameters": "a\nSteps: 2, Hires resize: 64x64, Hires upscaler: Latent"}, "in two passes"),
        ({"pocket_diffusion": '{"prompt": "a", "first_pass": {"prompt": "a"}}'}, "in two passes"),
    ],
)
def test_what_cannot_be_drawn_again_is_refused(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        recorded_in(saved(tmp_path, **texts))
