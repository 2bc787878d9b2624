"""A checkpoint in any of its published forms → its three networks' tensors under published names, and all else it says.

A source is a CompVis file (.ckpt, .safetensors) or a diffusers folder.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from pocket_diffusion.bundle import Architecture, Defaults, NoiseSchedule
from pocket_diffusion.checkpoint import architecture, key_mapping, recognition
from pocket_diffusion.checkpoint.architecture import TextEncoderSpec, UNetSpec, VAESpec
from pocket_diffusion.checkpoint.config_files import blamed_on, read_json, read_license
from pocket_diffusion.checkpoint.default_settings import Check, settings_of_file, settings_of_folder
from pocket_diffusion.checkpoint.ema_names import ema_as_plain, has_ema
from pocket_diffusion.checkpoint.families import find_family
from pocket_diffusion.checkpoint.families.family import Traits, architecture_of
from pocket_diffusion.checkpoint.noise_schedule import Prediction, read_schedule, recognise_schedule
from pocket_diffusion.checkpoint.stored_tensor import StoredTensors
from pocket_diffusion.checkpoint.tensor_file import read_tensor_file
from pocket_diffusion.checkpoint.tokenizer_files import END, OPEN_CLIP_PADDING, TokenizerFiles, find_tokenizer
from pocket_diffusion.errors import CheckpointNotFoundError, UnsupportedModelError
from pocket_diffusion.vocabulary import VOCABULARY_NAME, Vocabulary

# The parts of a diffusers folder with weights, and the stem of the weights' file name.
WEIGHT_STEMS = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
# In the order of preference: a safe format before a pickle, full precision before half.
_WEIGHT_SUFFIXES = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
# What padding is where no file says it.
_PADDING: dict[Architecture, str] = {"stable-diffusion-1": END, "stable-diffusion-2": OPEN_CLIP_PADDING}
# Whose text encoder, or U-Net, has contexts of so many channels.
_CONTEXTS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
_TITLE = "modelspec.title"

Spec = TypeVar("Spec", TextEncoderSpec, UNetSpec, VAESpec)


@dataclass(frozen=True)
class Network(Generic[Spec]):
    """One network of a source."""

    name: str
    """Of the file or folder that it comes from, as messages call it."""
    spec: Spec
    tensors: StoredTensors
    """By their published names."""


@dataclass(frozen=True)
class Source:
    """All that a checkpoint says about a model."""

    name: str
    """Without the folders above it."""
    files: dict[str, Path]
    """Those with weights, by their names in the source; those of another VAE below `vae/`."""
    text_encoder: Network[TextEncoderSpec]
    unet: Network[UNetSpec]
    vae: Network[VAESpec]
    schedule: NoiseSchedule
    tokenizer: TokenizerFiles
    defaults: Defaults
    license: str | None
    notes: tuple[str, ...]
    """What was chosen where there was a choice, and why."""
    vocabulary: Vocabulary | None = None
    """None where it does not tell which words it knows."""

    @property
    def architecture(self) -> Architecture:
        """See `architecture_of`."""
        return architecture_of(self.text_encoder.spec)


def read_source(
    path: Path,
    *,
    tokenizer: Path | None = None,
    vae: Path | None = None,
    prediction: Prediction | None = None,
    check_defaults: Check,
) -> Source:
    """Read what a checkpoint holds, but none of its tensors' numbers (save one layer norm's; see `recognise_schedule`).

    Args:
        path: a file or a diffusers folder.
        tokenizer: a folder with CLIP's two files, in place of the source's.
        vae: a file that has a VAE, or a diffusers folder of one, in place of the source's.
        prediction: what the model predicts, in place of what the source says.
        check_defaults: see `Check`; the samplers are no business of this room.

    Raises:
        CheckpointError: and those below it, see `pocket_diffusion.errors`.

    """
    asked = _Asked(tokenizer, None if vae is None else _read_vae(vae), prediction, check_defaults)
    source = _read_folder(path, asked) if path.is_dir() else _read_file(path, asked)
    _check_parts(source)
    return source


def _check_parts(source: Source) -> None:
    """Refuse parts of different families, whose widths differ."""
    made, taken = source.vae.spec.latent_channels, source.unet.spec.out_channels
    if made != taken:
        raise UnsupportedModelError(
            f"{source.vae.name} makes latents of {made} channels, the U-Net of {source.name} takes {taken}; give the "
            "VAE that belongs to it with --vae"
        )
    made, taken = source.text_encoder.spec.hidden_size, source.unet.spec.cross_attention_dim
    if made != taken:
        raise UnsupportedModelError(
            f"{source.name} has parts of different families: a text encoder whose contexts have {made} channels "
            f"({_CONTEXTS.get(made, 'unknown')}) and a U-Net that takes {taken} ({_CONTEXTS.get(taken, 'unknown')}); "
            "get the text encoder and the U-Net of one model"
        )


def choose_weights(part: str, names: Iterable[str], where: object) -> str:
    """Return the name of the best file with a part's weights, of those in the part's folder.

    Raises:
        CheckpointNotFoundError: there is none; `where` says in what.

    """
    available = set(names)
    for suffix in _WEIGHT_SUFFIXES:
        # transformers names its pickles otherwise than its safetensors.
        stem = "pytorch_model" if part == "text_encoder" and suffix.endswith(".bin") else WEIGHT_STEMS[part]
        if stem + suffix in available:
            return stem + suffix
    suffixes = ", ".join(_WEIGHT_SUFFIXES)
    raise CheckpointNotFoundError(
        f"{where}: {part} has no weights ({WEIGHT_STEMS[part]} with one of {suffixes}); fetch it whole"
    )


@dataclass(frozen=True)
class _OtherVAE:
    """A VAE that stands in for the source's."""

    network: Network[VAESpec]
    file: Path


@dataclass(frozen=True)
class _Asked:
    """What the reader of a source wants otherwise than the source has it."""

    tokenizer: Path | None
    vae: _OtherVAE | None
    prediction: Prediction | None
    check_defaults: Check

    @property
    def files(self) -> dict[str, Path]:
        return {} if self.vae is None else {f"vae/{self.vae.file.name}": self.vae.file}

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self.vae is None else (f"VAE of {self.vae.network.name}, as asked",)


def _read_vae(path: Path) -> _OtherVAE:
    if path.is_dir():
        config = read_json(path / "config.json", f"{path} is no diffusers folder of a VAE")
        with blamed_on(path / "config.json"):
            spec = architecture.read_vae_config(str(path), config)
        file = path / choose_weights("vae", _names_in(path), path)
        tensors = key_mapping.published_vae(read_tensor_file(file).tensors)
        return _OtherVAE(Network(path.resolve().name, spec, tensors), file)
    tensors = read_tensor_file(path).tensors
    if any(name.startswith(key_mapping.VAE) for name in tensors):
        tensors = key_mapping.below(key_mapping.VAE, tensors)
    recognition.check_vae(str(path), tensors)
    tensors = key_mapping.single_vae(tensors)
    return _OtherVAE(Network(path.name, architecture.infer_vae(str(path), tensors), tensors), path)


def _read_file(path: Path, asked: _Asked) -> Source:
    file = read_tensor_file(path)
    tensors, notes = _choose_average(file.tensors)
    recognition.check_compvis(str(path), tensors, vae_elsewhere=asked.vae is not None)
    schedule, why = recognise_schedule(path, file.metadata, tensors, asked.prediction)
    open_clip = key_mapping.has_open_clip(tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point}
    text_encoder, unet = key_mapping.compvis_text_encoder(tensors), key_mapping.compvis_unet(tensors)
    if asked.vae is None:
        own = key_mapping.compvis_vae(tensors)
        vae = Network(path.name, architecture.infer_vae(str(path), own), own)
    else:
        vae = asked.vae.network
        _check_scale(vae, architecture.SCALING_FACTOR, path.name)
    text_encoder_spec = architecture.infer_text_encoder(str(path), text_encoder, open_clip=open_clip)
    unet_spec = architecture.infer_unet(str(path), unet)
    names = (path.name, file.metadata.get(_TITLE, ""))
    model = find_family(Traits(names, text_encoder_spec, unet_spec, schedule))
    return Source(
        name=path.name,
        files={path.name: path} | asked.files,
        text_encoder=Network(path.name, text_encoder_spec, text_encoder),
        unet=Network(path.name, unet_spec, unet),
        vae=vae,
        schedule=schedule,
        tokenizer=_find_tokenizer(asked, (path.parent, path.parent / "tokenizer"), text_encoder_spec),
        defaults=settings_of_file(path, model, vae.spec.downscale, asked.check_defaults),
        license=file.metadata.get("modelspec.license"),
        notes=(_prediction_note(schedule, why), *model.notes, *notes, *asked.notes),
    )


def _choose_average(tensors: StoredTensors) -> tuple[StoredTensors, tuple[str, ...]]:
    """Return a single file's tensors with the plain weights of the U-Net, or else the averaged ones in their place."""
    if not has_ema(tensors):
        return tensors, ()
    if key_mapping.is_compvis(tensors):
        return tensors, ("plain weights of the U-Net, though the file has averaged ones (EMA) too",)
    return ema_as_plain(tensors), ("averaged weights of the U-Net (EMA): the file has no others",)


def _read_folder(root: Path, asked: _Asked) -> Source:
    if not (root / "model_index.json").exists() and (root / "config.json").exists():
        kind = read_json(root / "config.json", "").get("_class_name", "part of a model")
        raise UnsupportedModelError(f"{root} holds {kind!r} alone; wanted is a whole {recognition.PIPELINES[0]}")
    index = read_json(root / "model_index.json", f"{root} is no diffusers folder")
    kind = index.get("_class_name")
    if kind not in recognition.PIPELINES:
        raise UnsupportedModelError(f"{root} holds a {kind!r}; wanted is a {recognition.PIPELINES[0]!r}")

    def config(part: str, name: str = "config.json") -> dict[str, Any]:
        return read_json(root / part / name, f"{root} has no {part}")

    unet_config = config("unet")
    with blamed_on(root / "unet" / "config.json"):
        unet_spec = architecture.read_unet_config(str(root), unet_config)
    vae_spec = None
    if asked.vae is None or (root / "vae" / "config.json").exists():
        vae_config = config("vae")
        if vae_config.get("_class_name") != "AutoencoderTiny":  # which says nothing of the scale of latents
            with blamed_on(root / "vae" / "config.json"):
                vae_spec = architecture.read_vae_config(str(root), vae_config)
    with blamed_on(root / "text_encoder" / "config.json"):
        text_encoder_spec = architecture.read_text_encoder_config(str(root), config("text_encoder"))
    schedule, why, scheduler = NoiseSchedule(), "by default", None
    if (root / "scheduler" / "scheduler_config.json").exists():
        scheduler_config = config("scheduler", "scheduler_config.json")
        with blamed_on(root / "scheduler" / "scheduler_config.json"):
            schedule = read_schedule(str(root), scheduler_config)
        why, scheduler = "by its scheduler's config", str(scheduler_config.get("_class_name"))
    if asked.prediction is not None:
        schedule, why = msgspec.structs.replace(schedule, prediction_type=asked.prediction), "as asked"
    parts = [part for part in WEIGHT_STEMS if part != "vae" or asked.vae is None]
    names = {part: f"{part}/{choose_weights(part, _names_in(root / part), root)}" for part in parts}
    name = root.resolve().name
    if asked.vae is not None:
        vae = asked.vae.network
        _check_scale(vae, architecture.SCALING_FACTOR if vae_spec is None else vae_spec.scaling_factor, name)
    elif vae_spec is None:
        raise UnsupportedModelError(f"{name} has a tiny VAE alone; name a whole one with --vae")
    else:
        vae = Network(name, vae_spec, key_mapping.published_vae(read_tensor_file(root / names["vae"]).tensors))
    text_encoder = key_mapping.published_text_encoder(read_tensor_file(root / names["text_encoder"]).tensors)
    model = find_family(Traits((name,), text_encoder_spec, unet_spec, schedule, scheduler))
    sample_size = unet_config.get("sample_size")
    return Source(
        name=name,
        files={file: root / file for file in names.values()} | asked.files,
        text_encoder=Network(name, text_encoder_spec, text_encoder),
        unet=Network(name, unet_spec, read_tensor_file(root / names["unet"]).tensors),
        vae=vae,
        schedule=schedule,
        tokenizer=_find_tokenizer(asked, (root / "tokenizer",), text_encoder_spec),
        defaults=settings_of_folder(root, sample_size, model, vae.spec.downscale, asked.check_defaults),
        license=read_license(root / "README.md"),
        notes=(_prediction_note(schedule, why), *model.notes, *asked.notes),
        vocabulary=_read_vocabulary(root / VOCABULARY_NAME),
    )


def _read_vocabulary(path: Path) -> Vocabulary | None:
    if not path.exists():
        return None
    content = read_json(path, "")
    with blamed_on(path):
        return msgspec.convert(content, Vocabulary)


def _find_tokenizer(asked: _Asked, places: Iterable[Path], text_encoder: TextEncoderSpec) -> TokenizerFiles:
    padding = _PADDING[architecture_of(text_encoder)]
    return find_tokenizer(asked.tokenizer, places, text_encoder.vocab_size, padding=padding)


def _check_scale(vae: Network[VAESpec], wanted: float, name: str) -> None:
    if vae.spec.scaling_factor != wanted:
        raise UnsupportedModelError(
            f"{vae.name} scales latents by {vae.spec.scaling_factor:g}, {name} by {wanted:g}: it is the VAE of another "
            "family of models; give one of Stable Diffusion 1.x or 2.x with --vae"
        )


def _prediction_note(schedule: NoiseSchedule, why: str) -> str:
    zero_snr = ", with zero terminal SNR" if schedule.rescale_betas_zero_snr else ""
    return f"prediction type {schedule.prediction_type}, {why}{zero_snr}"


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*")]
