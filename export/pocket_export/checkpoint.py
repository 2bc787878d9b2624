"""A source → tensors under our names, and everything else that the export needs to know of it.

A source is a CompVis file (.ckpt, .safetensors), a diffusers folder, or the id of one on a hub.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from pocket_diffusion.bundle import Defaults, NoiseSchedule
from pocket_diffusion.drawing.samplers import find_sampler
from pocket_diffusion.drawing.schedulers import SCHEDULERS, find_scheduler
from pocket_diffusion.errors import CheckpointError, CheckpointNotFoundError, UnsupportedModelError
from pocket_export import architecture, key_mapping
from pocket_export.key_mapping import Tensors
from pocket_export.tensor_file import WEIGHT_ENDINGS, read_tensor_file, safetensors_metadata
from pocket_export.tokenizer_files import TokenizerFiles, find_tokenizer
from pocket_models import TextEncoderConfig, UNetConfig, VAEConfig

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# The parts of a diffusers folder with weights, and the stem of the weights' file name.
_WEIGHT_STEMS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
# In the order of preference: a safe format before a pickle, full precision before half.
_WEIGHT_SUFFIXES = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
_CONFIG_FILES = (
    "model_index.json",
    "generation_config.json",
    "README.md",
    "*/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*",
)


USUAL_DRAWING: dict[str, Any] = {"steps": 15, "sampler": "dpmpp_2m", "scheduler": "trailing"}
"""How a checkpoint is drawn that does not say otherwise: near the solution in few steps (benchmarks/samplers.py)."""


@dataclass(frozen=True)
class Checkpoint:
    """All that a source says about a model."""

    name: str
    """The source's, without the folders above it."""
    files: dict[str, Path]
    """Those with weights, by their names in the source."""
    text_encoder: Tensors
    unet: Tensors
    vae: Tensors
    text_encoder_config: TextEncoderConfig
    unet_config: UNetConfig
    vae_config: VAEConfig
    schedule: NoiseSchedule
    tokenizer: TokenizerFiles
    defaults: Defaults
    license: str | None


def read_checkpoint(source: str, tokenizer: Path | None = None) -> Checkpoint:
    """Read a checkpoint; its tensors stay mapped from its files.

    Raises:
        CheckpointError: and those below it, see `pocket_diffusion.errors`.

    """
    path = Path(source)
    if path.is_dir():
        checkpoint = _read_folder(path, tokenizer)
    elif path.exists():
        checkpoint = _read_single_file(path, tokenizer)
    elif _HUB_ID.fullmatch(source) and path.suffix.lower() not in WEIGHT_ENDINGS:
        checkpoint = replace(_read_folder(_fetch(source), tokenizer), name=source)
    else:
        raise CheckpointNotFoundError(
            f"there is no {source}; give a .ckpt, a .safetensors, a diffusers folder or a hub id"
        )
    if checkpoint.tokenizer.size > checkpoint.text_encoder_config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {checkpoint.tokenizer.size} tokens, the text encoder knows "
            f"{checkpoint.text_encoder_config.vocab_size}; name the tokenizer that belongs to it with --tokenizer"
        )
    return checkpoint


def _read_single_file(path: Path, tokenizer: Path | None) -> Checkpoint:
    tensors = read_tensor_file(path)
    architecture.check_compvis(str(path), tensors)
    tensors = {n: t for n, t in tensors.items() if t.dtype in _FLOATS}
    text_encoder, unet = key_mapping.compvis_text_encoder(tensors), key_mapping.compvis_unet(tensors)
    vae = key_mapping.compvis_vae(tensors)
    vae_config = architecture.infer_vae_config(str(path), vae)
    # Stable Diffusion 1.x was trained at latents of 64 x 64; a file of tensors does not say it.
    side = 64 * vae_config.downscale
    return Checkpoint(
        name=path.name,
        files={path.name: path},
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        text_encoder_config=architecture.infer_text_encoder_config(str(path), text_encoder),
        unet_config=architecture.infer_unet_config(str(path), unet),
        vae_config=vae_config,
        schedule=NoiseSchedule(),
        tokenizer=find_tokenizer([tokenizer] if tokenizer else [path.parent, path.parent / "tokenizer"]),
        defaults=msgspec.convert({"width": side, "height": side} | USUAL_DRAWING, Defaults),
        license=safetensors_metadata(path).get("modelspec.license") if path.suffix == ".safetensors" else None,
    )


def _read_folder(root: Path, tokenizer: Path | None) -> Checkpoint:
    if not (root / "model_index.json").exists() and (root / "config.json").exists():
        kind = _read_json(root / "config.json", "").get("_class_name", "part of a model")
        raise UnsupportedModelError(f"{root} holds {kind!r} alone; wanted is a whole {architecture.PIPELINES[0]}")
    index = _read_json(root / "model_index.json", f"{root} is no diffusers folder")
    kind = index.get("_class_name")
    if kind not in architecture.PIPELINES:
        raise UnsupportedModelError(f"{root} holds a {kind!r}; wanted is a {architecture.PIPELINES[0]!r}")

    def config(part: str, name: str = "config.json") -> dict[str, Any]:
        return _read_json(root / part / name, f"{root} has no {part}")

    with _blamed_on(root / "unet" / "config.json"):
        unet_config = architecture.read_unet_config(str(root), config("unet"))
    with _blamed_on(root / "vae" / "config.json"):
        vae_config = architecture.read_vae_config(str(root), config("vae"))
    with _blamed_on(root / "text_encoder" / "config.json"):
        text_encoder_config = architecture.read_text_encoder_config(str(root), config("text_encoder"))
    schedule = NoiseSchedule()
    if (root / "scheduler" / "scheduler_config.json").exists():
        with _blamed_on(root / "scheduler" / "scheduler_config.json"):
            schedule = architecture.read_schedule(str(root), config("scheduler", "scheduler_config.json"))
    names = {path.relative_to(root).as_posix() for part in _WEIGHT_STEMS for path in (root / part).glob("*")}
    chosen = {part: _choose_weights(part, names, root) for part in _WEIGHT_STEMS}
    files = {part: root / name for part, name in chosen.items()}
    return Checkpoint(
        name=root.resolve().name,
        files={name: root / name for name in chosen.values()},
        text_encoder=key_mapping.published_text_encoder(read_tensor_file(files["text_encoder"])),
        unet=read_tensor_file(files["unet"]),
        vae=key_mapping.published_vae(read_tensor_file(files["vae"])),
        text_encoder_config=text_encoder_config,
        unet_config=unet_config,
        vae_config=vae_config,
        schedule=schedule,
        tokenizer=find_tokenizer([tokenizer or root / "tokenizer"]),
        defaults=_read_defaults(root, config("unet").get("sample_size", 64), vae_config.downscale),
        license=_read_license(root),
    )


@contextlib.contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Name the file when what it says makes no sense."""
    try:
        yield
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{path} is damaged: it does not say {error}; fetch it again") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}; fetch it again") from None


def _choose_weights(part: str, names: Iterable[str], where: object) -> str:
    """Return the name of the best file with a part's weights."""
    available = set(names)
    for suffix in _WEIGHT_SUFFIXES:
        # transformers names its pickles otherwise than its safetensors.
        stem = "pytorch_model" if part == "text_encoder" and suffix.endswith(".bin") else _WEIGHT_STEMS[part]
        if f"{part}/{stem}{suffix}" in available:
            return f"{part}/{stem}{suffix}"
    suffixes = ", ".join(_WEIGHT_SUFFIXES)
    raise CheckpointNotFoundError(
        f"{where}: {part} has no weights ({_WEIGHT_STEMS[part]} with one of {suffixes}); fetch it whole"
    )


def _fetch(hub_id: str) -> Path:
    """Download what is needed of a diffusers folder on a hub (or find it in the hub's cache)."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    repo, _, revision = hub_id.partition("@")
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision or None)
        names = [file.rfilename for file in info.siblings or ()]
        if "model_index.json" not in names:
            raise UnsupportedModelError(f"{hub_id} is no diffusers folder (it has no model_index.json)")
        weights = [_choose_weights(part, names, hub_id) for part in _WEIGHT_STEMS]
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision or None, allow_patterns=[*_CONFIG_FILES, *weights], max_workers=4
            )
        )
    except CheckpointError:
        raise
    except Exception as error:  # the client's and its HTTP library's errors have no common root
        if not isinstance(error, HfHubHTTPError):  # no answer, but perhaps it was fetched before
            with contextlib.suppress(Exception):
                return Path(huggingface_hub.snapshot_download(repo, revision=revision or None, local_files_only=True))
        reason = " ".join(str(error).split())[:200]
        raise CheckpointNotFoundError(
            f"{hub_id} is no local path and cannot be fetched from the hub ({reason}); "
            "check its name and your connection"
        ) from None


def _read_json(path: Path, missing: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError:
        raise CheckpointNotFoundError(f"{missing}: there is no {path}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; fetch it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds no object; fetch it again")
    return content


def _read_defaults(root: Path, sample_size: Any, downscale: int) -> Defaults:  # noqa: ANN401 - a number or a pair, says the JSON
    """Return the size the U-Net was trained at, and what a `generation_config.json` adds."""
    with _blamed_on(root / "unet" / "config.json"):
        height, width = sample_size if isinstance(sample_size, list) else (sample_size, sample_size)
        chosen = {"width": int(width) * downscale, "height": int(height) * downscale} | USUAL_DRAWING
        _check_defaults(msgspec.convert(chosen, Defaults), downscale)
    path = root / "generation_config.json"
    if path.exists():
        wanted = _read_json(path, f"{root} has no default settings")
        if "sampler" in wanted:
            chosen["scheduler"] = None  # the usual one belongs to the usual sampler
        chosen |= {key: wanted[key] for key in Defaults.__struct_fields__ if key in wanted}
    with _blamed_on(path):
        return _check_defaults(msgspec.convert(chosen, Defaults), downscale)


def _check_defaults(defaults: Defaults, downscale: int) -> Defaults:
    """Return them with the sampler and the scheduler by their own names."""
    for side in (defaults.width, defaults.height):
        if side % downscale:
            raise ValueError(f"sides are multiples of {downscale}, not {side}")
    sampler, named = find_sampler(defaults.sampler)
    scheduler = named if named in SCHEDULERS else None
    if defaults.scheduler is not None:
        scheduler = find_scheduler(defaults.scheduler).name
    if scheduler is not None:
        sampler.check_scheduler(scheduler)
    return msgspec.structs.replace(defaults, sampler=sampler.name, scheduler=scheduler)


def _read_license(root: Path) -> str | None:
    """Return the license that a model card's front matter names."""
    try:
        card = (root / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    front_matter = card.split("---")[1] if card.startswith("---") else ""
    found = re.search(r"^license:\s*(\S+)\s*$", front_matter, re.MULTILINE)
    return found[1] if found else None
