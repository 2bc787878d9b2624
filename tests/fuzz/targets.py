"""What is fuzzed: each reader, good inputs of it, and how they are changed."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from random import Random
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin
from PIL.ExifTags import IFD, Base

from fuzz import files, requests
from fuzz.bounded import Read
from fuzz.mutate import (
    BETWEEN,
    Mutator,
    any_of,
    by_bytes,
    by_files,
    by_json,
    by_pickle,
    by_png,
    by_protobuf,
    zip_of,
)
from pocket_diffusion.addon import ROLES, TINY_VAE
from pocket_diffusion.bundle import MANIFEST_NAME, Bundle
from pocket_diffusion.drawing.picture_file import UNICODE_COMMENT
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from weights_files import tensor_opcodes, with_header


@dataclass(frozen=True)
class Inputs:
    """What a reader is given."""

    good: Sequence[bytes]
    mutator: Mutator


@dataclass(frozen=True)
class Target:
    """A reader that is fuzzed."""

    reader: Callable[[], Read]
    """Makes it; see `Read`."""
    make_inputs: Callable[[], Inputs]
    in_tests: int
    """How many inputs `make test` tries: about a second of them."""
    calls: bool = False
    """Whether it starts processes of its own."""

    @property
    def name(self) -> str:
        """The reader's, as the command line and the corpus call it."""
        return self.reader.__name__


def _torch_file() -> Inputs:
    text = b"X\x01\0\0\0a"
    matrix, halves = tensor_opcodes("0", 6, (2, 3), (3, 1)), tensor_opcodes("1", 4, (4,), (1,), storage="Half")
    leftover = b"cpytorch_lightning.callbacks\nModelCheckpoint\n)\x81}b"
    others = b"X\1\0\0\0c" + leftover + b"X\1\0\0\0l](K\1K\2eX\1\0\0\0t(NtX\1\0\0\0s\x88"
    pickles = [
        b"\x80\x02}q\0(" + text + matrix + b"X\x01\0\0\0b" + halves + b"u.",
        b"\x80\x02}(X\x0a\0\0\0state_dictccollections\nOrderedDict\n)R(" + text + matrix + b"uX\x05\0\0\0epochK\x03u.",
        b"\x80\x02}(" + text + halves + others + b"u.",
    ]
    names = ("archive/data.pkl", "archive/version", "archive/data/0", "archive/data/1")
    seeds = [dict(zip(names, (each, b"3\n", bytes(24), bytes(8)), strict=True)) for each in pickles]
    good = [zip_of(seed) for seed in seeds]
    # Values, containers, numbered objects, calls and globals in the middle of all else.
    words = [
        *(bytes([code]) for code in b"(.012]}lsatuedQbR)\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94\x97\x81\x92NK\x01"),
        b"q\0", b"h\0", b"r\xff\xff\xff\x0f", b"j\0\0\0\0", b"p999999999\n", b"J\xff\xff\xff\xff",
        b"\x8a\x08" + b"\xff" * 8, b")" + b"2\x86" * 60,  # a large number; a tuple that holds one twice, and so on
        b"L" + b"9" * 300 + b"L\n", b"G\x7f\xf0\0\0\0\0\0\0", b"\x96\xff\xff\xff\x7f\0\0\0\0", b"B\xff\xff\xff\x7f",
        b"cos\nsystem\n", b"cbuiltins\neval\n", b"ccopyreg\n_reconstructor\n", b"cbuiltins\nset\n", b"ctorch\nSize\n",
        b"ccollections\nOrderedDict\n", b"(S'touch CANARY'\nios\nsystem\n", b"c__main__\nx\n", matrix, leftover, text,
    ]  # fmt: skip
    return Inputs(good, any_of(by_pickle(seeds, names[0], words), by_pickle(seeds, names[0], words), by_bytes(good)))


def _safetensors_inputs(arrays: Mapping[str, np.ndarray]) -> Inputs:
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "ss_network_alpha": "1.0"}}
    data = b""
    for name, array in arrays.items():
        offsets = [len(data), len(data) + array.nbytes]
        kind = f"F{8 * array.itemsize}"
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    good = [with_header(header, data)]
    words = [b"BF16", b"F8_E4M3", b"I64", b'"data_offsets"', b"__metadata__", b"{", b"}", b"[", b"]", b"0,"]
    return Inputs(good, any_of(by_json([header], lambda text: with_header(text, data)), by_bytes(good, words)))


def _safetensors() -> Inputs:
    return _safetensors_inputs(
        {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16), "c": np.ones((), np.float64)}
    )


def _lora() -> Inputs:
    layer = "text_model_encoder_layers_0_self_attn_q_proj"
    width = 128
    return _safetensors_inputs(
        {
            f"lora_te_{layer}.lora_down.weight": np.ones((2, width), np.float32),
            f"lora_te_{layer}.lora_up.weight": np.ones((width, 2), np.float16),
            f"lora_te_{layer}.alpha": np.ones((), np.float32),
        }
    )


def _embedding() -> Inputs:
    return _safetensors_inputs({"emb_params": np.ones((2, 128), np.float32)})


def _folder() -> Inputs:
    unet = {
        "_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2, "attention_head_dim": 8,
        "cross_attention_dim": 768, "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "act_fn": "silu", "norm_num_groups": 32,
    }  # fmt: skip
    vae = {
        "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "norm_num_groups": 32, "scaling_factor": 0.18215,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "act_fn": "silu",
    }  # fmt: skip
    text_encoder = {
        "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    }  # fmt: skip
    scheduler = {
        "_class_name": "PNDMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "steps_offset": 1, "prediction_type": "epsilon", "set_alpha_to_one": False,
    }  # fmt: skip
    drawing = {"num_inference_steps": 20, "guidance_scale": 7.5}
    configs = [{"_class_name": "StableDiffusionPipeline"}, unet, vae, text_encoder, scheduler, drawing]
    texts = [json.dumps(config).encode() for config in configs]
    mutators = [by_json([config]) for config in configs]
    return Inputs([BETWEEN.join(texts)], by_files(texts, mutators))


def _tokenizer() -> Inputs:
    letters = [chr(code) for code in range(33, 127)]
    pairs = ["l a", "k e</w>", "la ke</w>", "t h", "th e</w>"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(pair.replace(" ", "") for pair in pairs)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    texts = [json.dumps(vocab).encode(), "\n".join(["#version: 0.2", *pairs, ""]).encode()]
    whole = {"model": {"type": "BPE", "vocab": vocab, "merges": pairs}}
    words = [b"\n", b" ", b"#", b"</w>", b"zz q", "é".encode(), b"\xff", b"\r"]
    several = by_files(texts, [by_json([vocab]), by_bytes([texts[1]], words)])
    return Inputs([BETWEEN.join(texts), json.dumps(whole).encode()], any_of(several, by_json([whole])))


def _manifest() -> Inputs:
    return _json_inputs(json.loads((DEFAULT_BUNDLE / MANIFEST_NAME).read_bytes()))


def _addon() -> Inputs:
    text = (DEFAULT_BUNDLE / MANIFEST_NAME).read_text()
    manifest = json.loads(text.replace('"moments"', '"latents"'))  # a tiny VAE has no spread of latents
    components = {role: manifest[role] for role in ROLES}
    parts = {name: manifest[name] for name in ("onnxruntime", "provenance", "files")}
    return _json_inputs({"format_version": 1, "kind": TINY_VAE, "channels": 4, "downscale": 8, **parts, **components})


def _prediction() -> Inputs:
    good = [
        b"model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    parameterization: %b\n" % kind
        for kind in (b'"v"', b"eps", b"'v'  # SD 2")
    ]
    words = [
        b"parameterization",
        b":",
        b'"',
        b"'",
        b"#",
        b"\n",
        b" ",
        b"\xff",
        b"\0",
        b"v_prediction",
        b"&a *a",
        b"!!x",
    ]
    return Inputs(good, by_bytes(good, words))


def _layer_table() -> Inputs:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    return _json_inputs(json.loads(bundle.path(str(bundle.manifest.component(files.SMALLEST).layers)).read_bytes()))


def _certificate() -> Inputs:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    return _json_inputs(json.loads(bundle.path(bundle.manifest.int8_graphs["unet"].certificate).read_bytes()))


def _vocabulary() -> Inputs:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    return _json_inputs(json.loads(bundle.path(str(bundle.manifest.vocabulary)).read_bytes()))


def _graph() -> Inputs:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    good = [bundle.path(bundle.manifest.component(files.SMALLEST).graph).read_bytes()]
    operators = ("Loop", "If", "Scan", "ConstantOfShape", "Expand", "Tile", "Identity", "SequenceEmpty", "")
    words = [*(operator.encode() for operator in operators), b"com.microsoft", b"../x", b"/dev/zero", b"unet.weights"]
    return Inputs(good, any_of(by_protobuf(good, words), by_protobuf(good, words), by_bytes(good, words)))


def _picture() -> Inputs:
    levels = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    colours = Image.fromarray(levels)
    clear = colours.convert("RGBA")
    clear.putalpha(Image.new("L", (16, 16)))
    good = [
        *(_encoded(clear, kind) for kind in ("PNG", "WEBP", "TIFF", "GIF")),
        _encoded(clear, "TIFF", compression="tiff_lzw"),
        _encoded(clear.quantize(7), "PNG"),
    ]
    opaque = [
        _encoded(colours, "JPEG"), _encoded(colours, "JPEG", progressive=True), _encoded(colours, "BMP"),
        _encoded(Image.fromarray(levels[..., 0].astype(np.uint16)), "PNG"),
    ]  # fmt: skip
    pngs = [each for each in (*good, *opaque) if each.startswith(b"\x89PNG")]
    words = [
        b"IDAT",
        b"IHDR",
        b"acTL",
        b"fcTL",
        b"iCCP",
        b"eXIf",
        b"\xff\xda",
        b"\xff\xc2",
        b"\xff\xd9",
        b"VP8X",
        b"ANIM",
    ]
    return Inputs(good, any_of(by_bytes([*good, *opaque], words), by_png(pngs)))


def _picture_text() -> Inputs:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a lake\nSteps: 20, Seed: 1")
    info.add_text("Comment", "a" * 500, zip=True)
    info.add_itxt("pocket-diffusion", '{"prompt": "a lake"}', zip=True)
    pngs = [_encoded(Image.new("RGB", (8, 8)), "PNG", pnginfo=info)]
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif)[Base.UserComment] = UNICODE_COMMENT + "a lake".encode("utf-16-be")
    good = [*pngs, *(_encoded(Image.new("RGB", (8, 8)), kind, exif=exif) for kind in ("JPEG", "WEBP"))]
    words = [b"Exif\0\0", b"II*\0", b"MM\0*", b"\x92\x86", UNICODE_COMMENT]
    return Inputs(good, any_of(by_png(pngs, [b"tEXt", b"zTXt", b"iTXt", b"parameters\0"]), by_bytes(good, words)))


def _request() -> Inputs:
    """Bodies of all requests that have one."""
    small = {"prompt": "a lake", "negative_prompt": "", "width": 64, "height": 64, "steps": 2, "seed": 1}
    order = {
        **small, "prompt": "a (lake:1.2) [at dusk:by day:0.5]", "sampler": "euler_a", "scheduler": "karras", "eta": 0.5,
        "s_noise": 1.0, "guidance_scale": 3.0, "guidance_rescale": 0.5, "guidance_interval": [0.1, 0.9], "clip_skip": 2,
        "loras": [], "token_downsampling": 1, "cache": None, "count": 1, "image": _small_picture(),
        "mask": _small_picture(), "strength": 0.5,
    }  # fmt: skip
    generation = {
        "prompt": "a lake", "n": 1, "size": "64x64", "response_format": "b64_json", "background": "auto", "steps": 2,
        "output_format": "webp", "output_compression": 90, "stream": True, "partial_images": 1, "negative_prompt": "",
        "sampler": "euler", "seed": 2, "user": "a",
    }  # fmt: skip
    a1111 = {
        **small, "cfg_scale": 3, "batch_size": 1, "n_iter": 1, "sampler_name": "Euler a", "scheduler": "automatic",
        "eta": None, "s_noise": 1.0, "send_images": True, "styles": [], "enable_hr": True,
        "hr_scale": 1.5, "hr_resize_x": 0, "hr_resize_y": 0, "hr_second_pass_steps": 2, "hr_upscaler": "Latent",
        "hr_sampler_name": "Use same sampler", "hr_scheduler": "Karras", "hr_prompt": "", "denoising_strength": 0.6,
        "override_settings": {"CLIP_stop_at_last_layers": 1}, "alwayson_scripts": {"ControlNet": {"args": []}},
    }  # fmt: skip
    uploads = {"init_images": [_small_picture()], "mask": _small_picture(), "inpainting_mask_invert": 1}
    enlargement = {
        "image": _small_picture(), "resize_mode": 0, "upscaling_resize": 2, "upscaling_resize_w": 32,
        "upscaling_resize_h": 0, "upscaling_crop": True, "upscaler_1": "Lanczos", "upscaler_2": "None",
    }  # fmt: skip
    texts = _picture_text()

    def png_info(picture: bytes) -> bytes:
        return json.dumps({"image": base64.b64encode(picture).decode()}).encode()

    bodies = {
        "/api/jobs": _json_inputs(order),
        "/generate": _json_inputs({"text": "a lake"}),
        "/prompt": _json_inputs({"client_id": "a", "prompt": _graph_of_nodes()}),
        "/mcp": _json_inputs(_call(order)),
        "/v1/images/generations": _json_inputs(generation),
        "/v1/images/edits": _form(),
        "/v1/images/variations": _form(),
        "/sdapi/v1/txt2img": _json_inputs(a1111),
        "/sdapi/v1/img2img": _json_inputs({**a1111, **uploads}),
        "/sdapi/v1/png-info": Inputs([png_info(texts.good[0])], lambda random: png_info(texts.mutator(random))),
        "/sdapi/v1/extra-single-image": _json_inputs(enlargement),
        "/sdapi/v1/options": _json_inputs({"CLIP_stop_at_last_layers": 1, "samples_format": "png"}),
    }
    assert bodies.keys() == requests.BODIES.keys()
    good = [f"{path}\n".encode() + each for path, inputs in bodies.items() for each in inputs.good]

    def mutate(random: Random) -> bytes:
        path, inputs = random.choice([*bodies.items()])
        return f"{path}\n".encode() + inputs.mutator(random)

    return Inputs(good, mutate)


def _graph_of_nodes() -> dict[str, Any]:
    """The graph of ComfyUI's that everybody knows."""
    sampling = {"seed": 7, "steps": 2, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    name = Bundle.open(DEFAULT_BUNDLE).manifest.provenance.source
    nodes = {
        "3": ("KSampler", {**sampling, **links}),
        "4": ("CheckpointLoaderSimple", {"ckpt_name": name}),
        "5": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "6": ("CLIPTextEncode", {"clip": ["4", 1], "text": "a lake"}),
        "7": ("CLIPTextEncode", {"clip": ["4", 1], "text": ""}),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", {"images": ["8", 0], "filename_prefix": "a"}),
    }
    return {number: {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in nodes.items()}


def _call(order: dict[str, Any]) -> dict[str, Any]:
    """An assistant's call of a tool."""
    params = {"name": "redraw", "arguments": {**order, "keep": True}, "_meta": {"progressToken": 1}}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


def _form() -> Inputs:
    edge = f"--{requests.BOUNDARY}".encode()
    field = edge + b'\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    texts = ((b"prompt", b"a lake"), (b"size", b"64x64"), (b"steps", b"2"))
    parts = [field % (name, b"", text) for name, text in texts]
    picture = base64.b64decode(_small_picture())
    upload = [field % (name, b'; filename="a.png"\r\nContent-Type: image/png', picture) for name in (b"image", b"mask")]
    good = [b"".join([*parts, *upload, edge, b"--\r\n"])]
    words = [edge, b"\r\n", b'name="', b"; filename=", b"Content-Transfer-Encoding: base64\r\n", b"--", *upload, *parts]
    return Inputs(good, by_bytes(good, words))


def _json_inputs(value: Any) -> Inputs:  # noqa: ANN401 - any JSON
    good = json.dumps(value).encode()
    words = [b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"1e999", b"-", b'"\\ud800"', b"\\u0000", b"\xff"]
    return Inputs([good], any_of(by_json([value]), by_json([value]), by_bytes([good], words)))


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _small_picture() -> str:
    """A transparent one, as JSON has it."""
    return base64.b64encode(_encoded(Image.new("RGBA", (16, 16)), "PNG")).decode()


TARGETS = {
    target.name: target
    for target in (
        Target(files.torch_file, cache(_torch_file), in_tests=400),
        Target(files.safetensors, cache(_safetensors), in_tests=400),
        Target(files.lora, cache(_lora), in_tests=100),
        Target(files.embedding, cache(_embedding), in_tests=50),
        Target(files.folder, cache(_folder), in_tests=50),
        Target(files.tokenizer, cache(_tokenizer), in_tests=200),
        Target(files.manifest, cache(_manifest), in_tests=20),
        Target(files.graph, cache(_graph), in_tests=50),
        Target(files.layer_table, cache(_layer_table), in_tests=100),
        Target(files.certificate, cache(_certificate), in_tests=100),
        Target(files.vocabulary, cache(_vocabulary), in_tests=100),
        Target(files.addon, cache(_addon), in_tests=100),
        Target(files.prediction, cache(_prediction), in_tests=200),
        Target(files.picture, cache(_picture), in_tests=200),
        Target(files.picture_text, cache(_picture_text), in_tests=200),
        Target(requests.request, cache(_request), in_tests=150),
    )
}
"""By name."""
