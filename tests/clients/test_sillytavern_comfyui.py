"""What SillyTavern sends to ComfyUI, from src/endpoints/stable-diffusion.js and its default workflow, replayed."""

import json
import time
import urllib.request
from io import BytesIO
from urllib.parse import urlencode

import numpy as np
from PIL import Image

from pocket_diffusion import Pipeline
from serving import running_server

SEED = 2**53 - 1
"""It draws one of up to Number.MAX_SAFE_INTEGER."""
WORKFLOW = """{
    "3": {"class_type": "KSampler", "inputs": {
        "cfg": "%scale%", "denoise": 1, "latent_image": ["5", 0], "model": ["4", 0], "negative": ["7", 0],
        "positive": ["6", 0], "sampler_name": "%sampler%", "scheduler": "%scheduler%", "seed": "%seed%",
        "steps": "%steps%"}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "%model%"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"batch_size": 1, "height": "%height%", "width": "%width%"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "%prompt%"}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "%negative_prompt%"}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "SillyTavern", "images": ["8", 0]}}
}"""


def get(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        content: bytes = answer.read()
    return content


def test_sillytavern_connects_fills_its_menus_and_draws() -> None:
    with running_server() as server:
        assert "system" in json.loads(get(f"{server.url}/system_stats"))
        nodes = json.loads(get(f"{server.url}/object_info"))
        menus = {
            "sampler": nodes["KSampler"]["input"]["required"]["sampler_name"][0],
            "scheduler": nodes["KSampler"]["input"]["required"]["scheduler"][0],
            "model": nodes["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0],
        }
        assert nodes["UNETLoader"]["input"]["required"]["unet_name"][0] == []
        assert nodes["VAELoader"]["input"]["required"]["vae_name"][0] == []
        assert {"euler"} <= set(menus["sampler"])

        chosen = {"prompt": "a lake", "negative_prompt": "", "sampler": "euler", "scheduler": "normal"}
        chosen |= {"model": menus["model"][0], "scale": 7, "steps": 2, "seed": SEED, "width": 64, "height": 64}
        workflow = WORKFLOW
        for name, value in chosen.items():
            workflow = workflow.replace(f'"%{name}%"', json.dumps(value))
        body = json.dumps({"client_id": "2e4a", "prompt": json.loads(workflow)}).encode()
        name = json.loads(get_answer(f"{server.url}/prompt", body))["prompt_id"]
        while (item := json.loads(get(f"{server.url}/history")).get(name)) is None:
            time.sleep(0.1)  # as SillyTavern does
        assert item["status"]["status_str"] == "success"
        picture = next(images for output in item["outputs"].values() for images in output["images"])
        content = get(f"{server.url}/view?{urlencode(picture)}")
    options = {"width": 64, "height": 64, "steps": 2, "seed": SEED % 2**32, "sampler": "euler", "scheduler": "normal"}
    expected = Pipeline.load(provider="cpu").generate("a lake", guidance_scale=7.0, **options).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(content))), np.asarray(expected))


def get_answer(url: str, body: bytes) -> bytes:
    """Send a body as fetch does: as text."""
    request = urllib.request.Request(url, body, {"Content-Type": "text/plain;charset=UTF-8"})
    with urllib.request.urlopen(request) as answer:
        content: bytes = answer.read()
    return content
