"""What Open WebUI sends to ComfyUI, from backend/open_webui/utils/images/comfyui.py, replayed: it edits a picture."""

import json
from io import BytesIO

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from pocket_diffusion import Pipeline
from pocket_diffusion.server import create_app

KEY = {"Authorization": "Bearer open sesame"}
SEED = 156_680_208_700_286
"""It draws one of 50 bits."""
OPTIONS = {"width": 64, "height": 64, "steps": 2, "seed": SEED % 2**32, "sampler": "euler", "scheduler": "normal"}


def test_open_webui_uploads_a_picture_and_has_it_redrawn() -> None:
    pipeline, picture, file = Pipeline.load(provider="cpu"), Image.new("RGB", (64, 64), "red"), BytesIO()
    picture.save(file, "PNG")
    sampler = {"cfg": 7, "denoise": 1, "sampler_name": "euler", "scheduler": "normal", "seed": SEED, "steps": 2}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    workflow = {
        "3": {"class_type": "KSampler", "inputs": {**sampler, **links}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": pipeline.name}},
        "5": {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["4", 2]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": "a lake"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["4", 1], "text": ""}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "ComfyUI", "images": ["8", 0]}},
        "10": {"class_type": "LoadImage", "inputs": {"image": ""}},
    }
    with TestClient(create_app(pipeline, token="open sesame"), headers=KEY) as client:
        form = {"files": {"image": ("a.png", file.getvalue(), "image/png")}, "data": {"type": "input"}}
        workflow["10"]["inputs"]["image"] = client.post("/api/upload/image", **form).json()["name"]
        with client.websocket_connect("/ws?clientId=c0ff", headers=KEY) as websocket:
            name = client.post("/prompt", json={"prompt": workflow, "client_id": "c0ff"}).json()["prompt_id"]
            over = {"type": "executing", "data": {"prompt_id": name, "node": None}}
            while json.loads(websocket.receive().get("text") or "null") != over:
                pass
        outputs = client.get(f"/history/{name}").json()[name]["outputs"]
        content = client.get("/view", params=outputs["9"]["images"][0]).content
        expected = pipeline.generate("a lake", guidance_scale=7.0, image=picture, strength=1.0, **OPTIONS).images[0]
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(content))), np.asarray(expected))
